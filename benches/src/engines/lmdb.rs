//! LMDB: one transaction a call, no syncs, writes through the map.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::{Path, PathBuf};
use std::ptr;

use anyhow::Result;

use super::{Engine, Shape, c_path, done, functions, load};

type Env = *mut c_void;
type Txn = *mut c_void;
type Cursor = *mut c_void;

#[repr(C)]
struct Val {
    size: usize,
    data: *mut c_void,
}

impl Val {
    fn of(bytes: &[u8]) -> Self {
        Val {
            size: bytes.len(),
            data: bytes.as_ptr().cast_mut().cast(),
        }
    }

    const EMPTY: Val = Val {
        size: 0,
        data: ptr::null_mut(),
    };
}

functions! { load("liblmdb.so.0") =>
    mdb_version: fn(*mut c_int, *mut c_int, *mut c_int) -> *const c_char;
    mdb_env_create: fn(*mut Env) -> c_int;
    mdb_env_set_mapsize: fn(Env, usize) -> c_int;
    mdb_env_open: fn(Env, *const c_char, c_uint, libc::mode_t) -> c_int;
    mdb_env_sync: fn(Env, c_int) -> c_int;
    mdb_env_close: fn(Env);
    mdb_txn_begin: fn(Env, Txn, c_uint, *mut Txn) -> c_int;
    mdb_txn_commit: fn(Txn) -> c_int;
    mdb_txn_reset: fn(Txn);
    mdb_txn_renew: fn(Txn) -> c_int;
    mdb_txn_abort: fn(Txn);
    mdb_dbi_open: fn(Txn, *const c_char, c_uint, *mut c_uint) -> c_int;
    mdb_get: fn(Txn, c_uint, *mut Val, *mut Val) -> c_int;
    mdb_put: fn(Txn, c_uint, *mut Val, *mut Val, c_uint) -> c_int;
    mdb_del: fn(Txn, c_uint, *mut Val, *mut Val) -> c_int;
    mdb_cursor_open: fn(Txn, c_uint, *mut Cursor) -> c_int;
    mdb_cursor_get: fn(Cursor, *mut Val, *mut Val, c_int) -> c_int;
    mdb_cursor_close: fn(Cursor);
}

const NOSUBDIR: c_uint = 0x4000;
const NOSYNC: c_uint = 0x10000;
const RDONLY: c_uint = 0x20000;
const WRITEMAP: c_uint = 0x80000;
const NOTLS: c_uint = 0x200000;
const NEXT: c_int = 8;
const MAP_SIZE: usize = 8 << 30;

pub struct Lmdb {
    api: &'static Functions,
    env: Env,
    /// Kept and renewed: the quickest way to read the newest state.
    reader: Txn,
    dbi: c_uint,
    durable: bool,
}

// SAFETY: with NOTLS a reader may change threads; `share` makes one of its own.
unsafe impl Send for Lmdb {}

impl Lmdb {
    fn new_reader(api: &'static Functions, env: Env) -> Result<Txn> {
        let mut reader = ptr::null_mut();
        // SAFETY: an open environment.
        done("mdb_txn_begin", unsafe {
            (api.mdb_txn_begin)(env, ptr::null_mut(), RDONLY, &mut reader)
        })?;
        // SAFETY: begun above.
        unsafe { (api.mdb_txn_reset)(reader) };
        Ok(reader)
    }

    #[inline]
    fn change(&mut self, work: impl FnOnce(&Functions, Txn, c_uint) -> c_int) -> bool {
        let mut txn = ptr::null_mut();
        // SAFETY: an open environment; each transaction is ended.
        unsafe {
            if (self.api.mdb_txn_begin)(self.env, ptr::null_mut(), 0, &mut txn) != 0 {
                return false;
            }
            if work(self.api, txn, self.dbi) != 0 {
                (self.api.mdb_txn_abort)(txn);
                return false;
            }
            (self.api.mdb_txn_commit)(txn) == 0
        }
    }
}

impl Engine for Lmdb {
    const PROCESSES: bool = true;

    fn open(path: &Path, shape: &Shape) -> Result<Self> {
        let api = Functions::get()?;
        let path = c_path(path)?;
        let mode = if shape.durable { 0 } else { NOSYNC | WRITEMAP };
        let mut env = ptr::null_mut();
        let mut txn = ptr::null_mut();
        let mut dbi = 0;
        // SAFETY: as LMDB's documentation says.
        unsafe {
            done("mdb_env_create", (api.mdb_env_create)(&mut env))?;
            done(
                "mdb_env_set_mapsize",
                (api.mdb_env_set_mapsize)(env, MAP_SIZE),
            )?;
            done(
                "mdb_env_open",
                (api.mdb_env_open)(env, path.as_ptr(), NOSUBDIR | NOTLS | mode, 0o644),
            )?;
            done(
                "mdb_txn_begin",
                (api.mdb_txn_begin)(env, ptr::null_mut(), RDONLY, &mut txn),
            )?;
            done(
                "mdb_dbi_open",
                (api.mdb_dbi_open)(txn, ptr::null(), 0, &mut dbi),
            )?;
            done("mdb_txn_commit", (api.mdb_txn_commit)(txn))?;
        }
        Ok(Lmdb {
            api,
            env,
            reader: Self::new_reader(api, env)?,
            dbi,
            durable: shape.durable,
        })
    }

    #[inline]
    fn get(&mut self, key: &CStr, buffer: &mut [u8]) -> Option<usize> {
        let mut key = Val::of(key.to_bytes());
        let mut data = Val::EMPTY;
        // SAFETY: the reader is idle; what is found is copied before it is reset.
        unsafe {
            if (self.api.mdb_txn_renew)(self.reader) != 0 {
                return None;
            }
            let found = (self.api.mdb_get)(self.reader, self.dbi, &mut key, &mut data) == 0;
            if found {
                ptr::copy_nonoverlapping(
                    data.data.cast(),
                    buffer.as_mut_ptr(),
                    data.size.min(buffer.len()),
                );
            }
            (self.api.mdb_txn_reset)(self.reader);
            found.then_some(data.size)
        }
    }

    #[inline]
    fn put(&mut self, key: &CStr, value: &[u8]) -> bool {
        // SAFETY: a transaction of `change`; the bytes live longer.
        self.change(|api, txn, dbi| unsafe {
            (api.mdb_put)(
                txn,
                dbi,
                &mut Val::of(key.to_bytes()),
                &mut Val::of(value),
                0,
            )
        })
    }

    #[inline]
    fn delete(&mut self, key: &CStr) -> bool {
        // SAFETY: as in `put`.
        self.change(|api, txn, dbi| unsafe {
            (api.mdb_del)(txn, dbi, &mut Val::of(key.to_bytes()), ptr::null_mut())
        })
    }

    fn iterate(&mut self, values: bool) -> usize {
        let mut cursor = ptr::null_mut();
        let (mut key, mut data) = (Val::EMPTY, Val::EMPTY);
        let mut into = [0u8; 8192];
        let mut count = 0;
        // SAFETY: the reader is idle; the cursor is closed before it is reset.
        unsafe {
            (self.api.mdb_txn_renew)(self.reader);
            (self.api.mdb_cursor_open)(self.reader, self.dbi, &mut cursor);
            while (self.api.mdb_cursor_get)(cursor, &mut key, &mut data, NEXT) == 0 {
                ptr::copy_nonoverlapping(key.data.cast(), into.as_mut_ptr(), key.size.min(128));
                if values {
                    ptr::copy_nonoverlapping(
                        data.data.cast(),
                        into.as_mut_ptr(),
                        data.size.min(into.len()),
                    );
                }
                std::hint::black_box(&into);
                count += 1;
            }
            (self.api.mdb_cursor_close)(cursor);
            (self.api.mdb_txn_reset)(self.reader);
        }
        count
    }

    fn sync(&mut self, _path: &Path) -> Result<()> {
        if self.durable {
            return Ok(());
        }
        // SAFETY: an open environment.
        done("mdb_env_sync", unsafe {
            (self.api.mdb_env_sync)(self.env, 1)
        })
    }

    fn share(&self) -> Option<Self> {
        Some(Lmdb {
            reader: Self::new_reader(self.api, self.env).ok()?,
            ..*self
        })
    }

    fn close(self) -> Result<()> {
        // SAFETY: readers of other threads have ended.
        unsafe {
            (self.api.mdb_txn_abort)(self.reader);
            (self.api.mdb_env_close)(self.env);
        }
        Ok(())
    }

    fn beside(path: &Path) -> Vec<PathBuf> {
        vec![format!("{}-lock", path.display()).into()]
    }

    fn version() -> String {
        // SAFETY: answers a static C string.
        Functions::get().map_or_else(
            |_| String::new(),
            |library| unsafe {
                let text = (library.mdb_version)(ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
                CStr::from_ptr(text).to_string_lossy().into_owned()
            },
        )
    }
}
