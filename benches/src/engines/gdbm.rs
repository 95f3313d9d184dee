//! GDBM with its default cache, mapped, without syncs.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;

use anyhow::{Result, ensure};

use super::{Engine, Shape, c_path, done, functions, load};

type File = *mut c_void;

#[repr(C)]
#[derive(Clone, Copy)]
struct Datum {
    at: *mut u8,
    size: c_int,
}

impl Datum {
    fn of(bytes: &[u8]) -> Self {
        Datum {
            at: bytes.as_ptr().cast_mut(),
            size: bytes.len() as c_int,
        }
    }

    /// Copies out and frees.
    unsafe fn take(self, buffer: &mut [u8]) {
        // SAFETY: GDBM answers malloc memory of that size.
        unsafe {
            ptr::copy_nonoverlapping(
                self.at,
                buffer.as_mut_ptr(),
                (self.size as usize).min(buffer.len()),
            );
            libc::free(self.at.cast());
        }
    }
}

functions! { load("libgdbm.so.6") =>
    gdbm_open: fn(*const c_char, c_int, c_int, c_int, *const c_void) -> File;
    gdbm_close: fn(File) -> c_int;
    gdbm_store: fn(File, Datum, Datum, c_int) -> c_int;
    gdbm_fetch: fn(File, Datum) -> Datum;
    gdbm_delete: fn(File, Datum) -> c_int;
    gdbm_firstkey: fn(File) -> Datum;
    gdbm_nextkey: fn(File, Datum) -> Datum;
    gdbm_sync: fn(File) -> c_int;
}

const WRITE_OR_CREATE: c_int = 2;
const REPLACE: c_int = 1;

pub struct Gdbm {
    api: &'static Functions,
    file: File,
}

impl Engine for Gdbm {
    const PROCESSES: bool = false;

    fn open(path: &Path, _shape: &Shape) -> Result<Self> {
        let api = Functions::get()?;
        let path = c_path(path)?;
        // SAFETY: a C string.
        let file =
            unsafe { (api.gdbm_open)(path.as_ptr(), 0, WRITE_OR_CREATE, 0o644, ptr::null()) };
        ensure!(!file.is_null(), "gdbm_open");
        Ok(Gdbm { api, file })
    }

    #[inline]
    fn get(&mut self, key: &CStr, buffer: &mut [u8]) -> Option<usize> {
        // SAFETY: an open database.
        let found = unsafe { (self.api.gdbm_fetch)(self.file, Datum::of(key.to_bytes())) };
        if found.at.is_null() {
            return None;
        }
        // SAFETY: fetched above.
        unsafe { found.take(buffer) };
        Some(found.size as usize)
    }

    #[inline]
    fn put(&mut self, key: &CStr, value: &[u8]) -> bool {
        // SAFETY: an open database, bytes that live longer.
        unsafe {
            (self.api.gdbm_store)(
                self.file,
                Datum::of(key.to_bytes()),
                Datum::of(value),
                REPLACE,
            ) == 0
        }
    }

    #[inline]
    fn delete(&mut self, key: &CStr) -> bool {
        // SAFETY: as in `put`.
        unsafe { (self.api.gdbm_delete)(self.file, Datum::of(key.to_bytes())) == 0 }
    }

    fn iterate(&mut self, values: bool) -> usize {
        let mut into = [0u8; 8192];
        let mut count = 0;
        // SAFETY: an open database; each key is freed once the next one is known.
        unsafe {
            let mut key = (self.api.gdbm_firstkey)(self.file);
            while !key.at.is_null() {
                count += 1;
                if values {
                    (self.api.gdbm_fetch)(self.file, key).take(&mut into);
                }
                let next = (self.api.gdbm_nextkey)(self.file, key);
                key.take(&mut into[..128]);
                key = next;
            }
        }
        count
    }

    fn sync(&mut self, _path: &Path) -> Result<()> {
        // SAFETY: an open database.
        done("gdbm_sync", unsafe { (self.api.gdbm_sync)(self.file) })
    }

    fn close(self) -> Result<()> {
        // SAFETY: not used afterwards.
        done("gdbm_close", unsafe { (self.api.gdbm_close)(self.file) })
    }

    fn version() -> String {
        // SAFETY: a static pointer to a C string, by its header.
        load("libgdbm.so.6").map_or_else(
            |_| String::new(),
            |library| unsafe {
                let text = library.get::<*const *const c_char>(b"gdbm_version\0");
                text.map_or_else(
                    |_| String::new(),
                    |text| CStr::from_ptr(**text).to_string_lossy().into_owned(),
                )
            },
        )
    }
}
