//! TDB: plain stores, which outlive the process; its transactions are for power cuts.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;

use anyhow::{Result, ensure};

use super::{Engine, Shape, c_path, done, functions, load};

type Tdb_ = *mut c_void;

#[repr(C)]
#[derive(Clone, Copy)]
struct Data {
    at: *const u8,
    size: usize,
}

impl Data {
    fn of(bytes: &[u8]) -> Self {
        Data {
            at: bytes.as_ptr(),
            size: bytes.len(),
        }
    }
}

type Visitor = unsafe extern "C" fn(Tdb_, Data, Data, *mut c_void) -> c_int;
type Parser = unsafe extern "C" fn(Data, Data, *mut c_void) -> c_int;

functions! { load("libtdb.so.1") =>
    tdb_open: fn(*const c_char, c_int, c_int, c_int, libc::mode_t) -> Tdb_;
    tdb_close: fn(Tdb_) -> c_int;
    tdb_parse_record: fn(Tdb_, Data, Parser, *mut c_void) -> c_int;
    tdb_store: fn(Tdb_, Data, Data, c_int) -> c_int;
    tdb_delete: fn(Tdb_, Data) -> c_int;
    tdb_traverse_read: fn(Tdb_, Visitor, *mut c_void) -> c_int;
}

/// The hash that its documentation recommends.
const INCOMPATIBLE_HASH: c_int = 2048;

pub struct Tdb {
    api: &'static Functions,
    tdb: Tdb_,
}

/// Where to copy to, and what came.
struct Room {
    into: *mut u8,
    room: usize,
    size: usize,
    values: bool,
}

unsafe extern "C" fn copy(_key: Data, data: Data, room: *mut c_void) -> c_int {
    // SAFETY: `get` passes a Room; TDB passes what it found.
    unsafe {
        let room = &mut *room.cast::<Room>();
        ptr::copy_nonoverlapping(data.at, room.into, data.size.min(room.room));
        room.size = data.size;
    }
    0
}

unsafe extern "C" fn visit(_tdb: Tdb_, key: Data, data: Data, room: *mut c_void) -> c_int {
    // SAFETY: `iterate` passes a Room; TDB passes what it found.
    unsafe {
        let room = &mut *room.cast::<Room>();
        ptr::copy_nonoverlapping(key.at, room.into, key.size.min(room.room));
        if room.values {
            ptr::copy_nonoverlapping(data.at, room.into, data.size.min(room.room));
        }
    }
    0
}

impl Engine for Tdb {
    const PROCESSES: bool = true;

    fn open(path: &Path, shape: &Shape) -> Result<Self> {
        let api = Functions::get()?;
        let path = c_path(path)?;
        let buckets = shape.keys.max(131) as c_int | 1;
        let mode = libc::O_RDWR | libc::O_CREAT;
        // SAFETY: a C string.
        let tdb = unsafe { (api.tdb_open)(path.as_ptr(), buckets, INCOMPATIBLE_HASH, mode, 0o644) };
        ensure!(!tdb.is_null(), "tdb_open");
        Ok(Tdb { api, tdb })
    }

    #[inline]
    fn get(&mut self, key: &CStr, buffer: &mut [u8]) -> Option<usize> {
        let mut room = Room {
            into: buffer.as_mut_ptr(),
            room: buffer.len(),
            size: 0,
            values: true,
        };
        // SAFETY: an open database; `copy` gets the room that it expects.
        let answer = unsafe {
            (self.api.tdb_parse_record)(
                self.tdb,
                Data::of(key.to_bytes()),
                copy,
                (&raw mut room).cast(),
            )
        };
        (answer == 0).then_some(room.size)
    }

    #[inline]
    fn put(&mut self, key: &CStr, value: &[u8]) -> bool {
        // SAFETY: an open database, bytes that live longer.
        unsafe { (self.api.tdb_store)(self.tdb, Data::of(key.to_bytes()), Data::of(value), 0) == 0 }
    }

    #[inline]
    fn delete(&mut self, key: &CStr) -> bool {
        // SAFETY: as in `put`.
        unsafe { (self.api.tdb_delete)(self.tdb, Data::of(key.to_bytes())) == 0 }
    }

    fn iterate(&mut self, values: bool) -> usize {
        let mut into = [0u8; 8192];
        let mut room = Room {
            into: into.as_mut_ptr(),
            room: into.len(),
            size: 0,
            values,
        };
        // SAFETY: an open database; `visit` gets the room that it expects.
        let count =
            unsafe { (self.api.tdb_traverse_read)(self.tdb, visit, (&raw mut room).cast()) };
        usize::try_from(count).unwrap_or(0)
    }

    fn close(self) -> Result<()> {
        // SAFETY: not used afterwards.
        done("tdb_close", unsafe { (self.api.tdb_close)(self.tdb) })
    }

    fn version() -> String {
        Functions::get().map_or_else(|_| String::new(), |_| "TDB".into())
    }
}
