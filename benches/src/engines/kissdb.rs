//! Any library with the KISSDB interface: the one named by KISSDB_BENCH_LIBRARY.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr;

use anyhow::{Context, Result};

use super::{Engine, Shape, c_path, done, functions, load};

/// `KISSDB`: what stands in it is the library's, but for the descriptor.
#[repr(C, align(8))]
struct Handle {
    inside: [u8; 152],
    fd: c_int,
    rest: [u8; 4],
}
const _: () = assert!(size_of::<Handle>() == 160);

#[repr(C)]
struct Iterator {
    db: *mut Handle,
    table: usize,
    slot: usize,
}

functions! { named_library() =>
    KISSDB_open: fn(*mut Handle, *const c_char, c_int, c_int, u16, u64, u64) -> c_int;
    KISSDB_close: fn(*mut Handle) -> c_int;
    KISSDB_get: fn(*mut Handle, *const c_char, *mut u8, u32, *mut u32) -> c_int;
    KISSDB_put: fn(*mut Handle, *const c_char, *const u8, c_int, *mut i32) -> c_int;
    KISSDB_delete: fn(*mut Handle, *const c_char, *mut i32) -> c_int;
    KISSDB_Iterator_init: fn(*mut Handle, *mut Iterator);
    KISSDB_Iterator_next: fn(*mut Iterator, *mut c_void, *mut c_void) -> c_int;
}

/// What the names of its shared objects begin with.
pub fn shared_name(path: &Path) -> String {
    let plain = |letter: char| {
        if letter.is_ascii_alphanumeric() {
            letter
        } else {
            '_'
        }
    };
    path.to_string_lossy().chars().map(plain).collect()
}

fn named_library() -> Result<&'static libloading::Library> {
    load(&std::env::var("KISSDB_BENCH_LIBRARY").context("KISSDB_BENCH_LIBRARY")?)
}

const CREATE: c_int = 3;
const WRITE_THROUGH: c_int = 5;
const KEY_SIZE: usize = 128;
const VALUE_SIZE: usize = 8028;

pub struct Kissdb {
    api: &'static Functions,
    handle: *mut Handle,
}

// SAFETY: handles may be used by several threads at a time.
unsafe impl Send for Kissdb {}

impl Engine for Kissdb {
    const PROCESSES: bool = true;

    fn open(path: &Path, _shape: &Shape) -> Result<Self> {
        let api = Functions::get()?;
        let path = c_path(path)?;
        // SAFETY: all zeros is what callers begin with.
        let handle = Box::into_raw(Box::new(unsafe { std::mem::zeroed() }));
        // SAFETY: a zeroed struct and a C string.
        let answer = unsafe {
            (api.KISSDB_open)(
                handle,
                path.as_ptr(),
                CREATE,
                WRITE_THROUGH,
                510,
                KEY_SIZE as u64,
                VALUE_SIZE as u64,
            )
        };
        done("KISSDB_open", answer)?;
        Ok(Kissdb { api, handle })
    }

    #[inline]
    fn get(&mut self, key: &CStr, buffer: &mut [u8]) -> Option<usize> {
        let mut size = 0;
        // SAFETY: an open handle, a C string, a buffer of that size.
        let answer = unsafe {
            (self.api.KISSDB_get)(
                self.handle,
                key.as_ptr(),
                buffer.as_mut_ptr(),
                buffer.len() as u32,
                &mut size,
            )
        };
        (answer == 0).then_some(size as usize)
    }

    #[inline]
    fn put(&mut self, key: &CStr, value: &[u8]) -> bool {
        let mut written = 0;
        // SAFETY: an open handle, a C string, a value of that size.
        let answer = unsafe {
            (self.api.KISSDB_put)(
                self.handle,
                key.as_ptr(),
                value.as_ptr(),
                value.len() as c_int,
                &mut written,
            )
        };
        answer == 0
    }

    #[inline]
    fn delete(&mut self, key: &CStr) -> bool {
        let mut deleted = 0;
        // SAFETY: an open handle, a C string.
        unsafe { (self.api.KISSDB_delete)(self.handle, key.as_ptr(), &mut deleted) == 0 }
    }

    fn iterate(&mut self, values: bool) -> usize {
        let mut key = [0u8; KEY_SIZE];
        let mut value = [0u8; VALUE_SIZE];
        let into = if values {
            value.as_mut_ptr()
        } else {
            ptr::null_mut()
        };
        let mut place = Iterator {
            db: ptr::null_mut(),
            table: 0,
            slot: 0,
        };
        // SAFETY: an open handle; the buffers have the sizes of the database.
        unsafe { (self.api.KISSDB_Iterator_init)(self.handle, &mut place) };
        let mut count = 0;
        // SAFETY: as above.
        while unsafe {
            (self.api.KISSDB_Iterator_next)(&mut place, key.as_mut_ptr().cast(), into.cast())
        } == 1
        {
            count += 1;
        }
        count
    }

    /// As the middleware does it.
    fn sync(&mut self, _path: &Path) -> Result<()> {
        // SAFETY: the handle is open, its descriptor is the file's.
        done("fdatasync", unsafe { libc::fdatasync((*self.handle).fd) })
    }

    fn share(&self) -> Option<Self> {
        Some(Kissdb {
            api: self.api,
            handle: self.handle,
        })
    }

    fn close(self) -> Result<()> {
        // SAFETY: open, and not used afterwards.
        let answer = unsafe { (self.api.KISSDB_close)(self.handle) };
        // SAFETY: made by `open`; shared ones are not closed.
        drop(unsafe { Box::from_raw(self.handle) });
        done("KISSDB_close", answer)
    }

    /// The shared objects, which stay when a process is killed.
    fn beside(path: &Path) -> Vec<PathBuf> {
        let name = shared_name(path);
        ["-shm-info", "-ht"]
            .map(|tail| PathBuf::from(format!("/dev/shm/{name}{tail}")))
            .to_vec()
    }

    fn version() -> String {
        std::env::var("KISSDB_BENCH_LIBRARY").unwrap_or_default()
    }
}
