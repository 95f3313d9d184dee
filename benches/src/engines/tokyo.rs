//! Tokyo Cabinet, hash database: all of it mapped, no transactions.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use super::{Engine, Shape, c_path, functions, load};

type Hdb = *mut c_void;
type Text = *mut c_void;

functions! { load("libtokyocabinet.so.9") =>
    tchdbnew: fn() -> Hdb;
    tchdbdel: fn(Hdb);
    tchdbsetmutex: fn(Hdb) -> bool;
    tchdbtune: fn(Hdb, i64, i8, i8, u8) -> bool;
    tchdbsetxmsiz: fn(Hdb, i64) -> bool;
    tchdbopen: fn(Hdb, *const c_char, c_int) -> bool;
    tchdbclose: fn(Hdb) -> bool;
    tchdbput: fn(Hdb, *const c_char, c_int, *const u8, c_int) -> bool;
    tchdbout: fn(Hdb, *const c_char, c_int) -> bool;
    tchdbget3: fn(Hdb, *const c_char, c_int, *mut u8, c_int) -> c_int;
    tchdbiterinit: fn(Hdb) -> bool;
    tchdbiternext: fn(Hdb, *mut c_int) -> *mut c_void;
    tchdbiternext3: fn(Hdb, Text, Text) -> bool;
    tchdbsync: fn(Hdb) -> bool;
    tcxstrnew: fn() -> Text;
    tcxstrdel: fn(Text);
}

const WRITER: c_int = 2;
const CREATE: c_int = 4;
const LARGE: u8 = 1;

pub struct Tokyo {
    api: &'static Functions,
    hdb: Hdb,
}

// SAFETY: `tchdbsetmutex` was called.
unsafe impl Send for Tokyo {}

impl Engine for Tokyo {
    const PROCESSES: bool = false;

    fn open(path: &Path, shape: &Shape) -> Result<Self> {
        let api = Functions::get()?;
        let path = c_path(path)?;
        let buckets = (shape.keys as i64 * 2).max(1021);
        let map = (shape.keys as i64 * (shape.key + shape.value + 64) as i64 * 2).max(64 << 20);
        // SAFETY: as its documentation says; options come before the open.
        unsafe {
            let hdb = (api.tchdbnew)();
            (api.tchdbsetmutex)(hdb);
            (api.tchdbtune)(hdb, buckets, 4, 10, LARGE);
            (api.tchdbsetxmsiz)(hdb, map);
            ensure!(
                (api.tchdbopen)(hdb, path.as_ptr(), WRITER | CREATE),
                "tchdbopen"
            );
            Ok(Tokyo { api, hdb })
        }
    }

    #[inline]
    fn get(&mut self, key: &CStr, buffer: &mut [u8]) -> Option<usize> {
        let length = key.count_bytes() as c_int;
        // SAFETY: an open database, a buffer of that size.
        let size = unsafe {
            (self.api.tchdbget3)(
                self.hdb,
                key.as_ptr(),
                length,
                buffer.as_mut_ptr(),
                buffer.len() as c_int,
            )
        };
        usize::try_from(size).ok()
    }

    #[inline]
    fn put(&mut self, key: &CStr, value: &[u8]) -> bool {
        let length = key.count_bytes() as c_int;
        // SAFETY: an open database, bytes of these sizes.
        unsafe {
            (self.api.tchdbput)(
                self.hdb,
                key.as_ptr(),
                length,
                value.as_ptr(),
                value.len() as c_int,
            )
        }
    }

    #[inline]
    fn delete(&mut self, key: &CStr) -> bool {
        // SAFETY: an open database, a key of that size.
        unsafe { (self.api.tchdbout)(self.hdb, key.as_ptr(), key.count_bytes() as c_int) }
    }

    fn iterate(&mut self, values: bool) -> usize {
        let mut count = 0;
        // SAFETY: an open database; what it allocates is freed.
        unsafe {
            (self.api.tchdbiterinit)(self.hdb);
            if values {
                let (key, value) = ((self.api.tcxstrnew)(), (self.api.tcxstrnew)());
                while (self.api.tchdbiternext3)(self.hdb, key, value) {
                    count += 1;
                }
                (self.api.tcxstrdel)(key);
                (self.api.tcxstrdel)(value);
            } else {
                let mut size = 0;
                loop {
                    let key = (self.api.tchdbiternext)(self.hdb, &mut size);
                    if key.is_null() {
                        break;
                    }
                    libc::free(key);
                    count += 1;
                }
            }
        }
        count
    }

    fn sync(&mut self, _path: &Path) -> Result<()> {
        // SAFETY: an open database.
        ensure!(unsafe { (self.api.tchdbsync)(self.hdb) }, "tchdbsync");
        Ok(())
    }

    fn share(&self) -> Option<Self> {
        Some(Tokyo { ..*self })
    }

    fn close(self) -> Result<()> {
        // SAFETY: not used afterwards.
        unsafe {
            ensure!((self.api.tchdbclose)(self.hdb), "tchdbclose");
            (self.api.tchdbdel)(self.hdb);
        }
        Ok(())
    }

    fn beside(path: &Path) -> Vec<PathBuf> {
        vec![format!("{}.wal", path.display()).into()]
    }

    fn version() -> String {
        // SAFETY: a static pointer to a C string, by its header.
        load("libtokyocabinet.so.9").map_or_else(
            |_| String::new(),
            |library| unsafe {
                let text = library.get::<*const *const c_char>(b"tcversion\0");
                text.map_or_else(
                    |_| String::new(),
                    |text| CStr::from_ptr(**text).to_string_lossy().into_owned(),
                )
            },
        )
    }
}
