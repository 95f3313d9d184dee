//! SQLite in WAL mode: with `Shape::durable` fully synchronous, else without syncs.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr;

use anyhow::Result;

use super::{Engine, Shape, c_path, done, functions, load};

type Db = *mut c_void;
type Statement = *mut c_void;

functions! { load("libsqlite3.so.0") =>
    sqlite3_libversion: fn() -> *const c_char;
    sqlite3_open: fn(*const c_char, *mut Db) -> c_int;
    sqlite3_close: fn(Db) -> c_int;
    sqlite3_exec: fn(Db, *const c_char, *const c_void, *const c_void, *mut *mut c_char) -> c_int;
    sqlite3_prepare_v2: fn(Db, *const c_char, c_int, *mut Statement, *mut *const c_char) -> c_int;
    sqlite3_bind_text: fn(Statement, c_int, *const c_char, c_int, *const c_void) -> c_int;
    sqlite3_bind_blob: fn(Statement, c_int, *const u8, c_int, *const c_void) -> c_int;
    sqlite3_step: fn(Statement) -> c_int;
    sqlite3_reset: fn(Statement) -> c_int;
    sqlite3_finalize: fn(Statement) -> c_int;
    sqlite3_column_blob: fn(Statement, c_int) -> *const u8;
    sqlite3_column_bytes: fn(Statement, c_int) -> c_int;
    sqlite3_changes: fn(Db) -> c_int;
}

const ROW: c_int = 100;
const DONE: c_int = 101;

pub struct Sqlite {
    api: &'static Functions,
    db: Db,
    get: Statement,
    put: Statement,
    delete: Statement,
    all: Statement,
}

impl Sqlite {
    /// SAFETY of the callers: the bytes live until the statement is reset.
    #[inline]
    unsafe fn bind_key(&self, statement: Statement, key: &CStr) {
        // SAFETY: a statement of this database.
        unsafe {
            (self.api.sqlite3_bind_text)(
                statement,
                1,
                key.as_ptr(),
                key.count_bytes() as c_int,
                ptr::null(),
            )
        };
    }
}

impl Engine for Sqlite {
    const PROCESSES: bool = true;

    fn open(path: &Path, shape: &Shape) -> Result<Self> {
        let api = Functions::get()?;
        let path = c_path(path)?;
        let mut db = ptr::null_mut();
        let set = if shape.durable {
            c"PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; \
              CREATE TABLE IF NOT EXISTS t(k TEXT PRIMARY KEY, v BLOB) WITHOUT ROWID;"
        } else {
            c"PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; \
              CREATE TABLE IF NOT EXISTS t(k TEXT PRIMARY KEY, v BLOB) WITHOUT ROWID;"
        };
        // SAFETY: as its documentation says.
        unsafe {
            done("sqlite3_open", (api.sqlite3_open)(path.as_ptr(), &mut db))?;
            done(
                "sqlite3_exec",
                (api.sqlite3_exec)(db, set.as_ptr(), ptr::null(), ptr::null(), ptr::null_mut()),
            )?;
        }
        let prepare = |text: &CStr| {
            let mut statement = ptr::null_mut();
            // SAFETY: an open database, a C string.
            let answer = unsafe {
                (api.sqlite3_prepare_v2)(db, text.as_ptr(), -1, &mut statement, ptr::null_mut())
            };
            done("sqlite3_prepare_v2", answer).map(|()| statement)
        };
        Ok(Sqlite {
            api,
            db,
            get: prepare(c"SELECT v FROM t WHERE k=?1")?,
            put: prepare(c"INSERT INTO t VALUES(?1,?2) ON CONFLICT(k) DO UPDATE SET v=excluded.v")?,
            delete: prepare(c"DELETE FROM t WHERE k=?1")?,
            all: prepare(c"SELECT k, v FROM t")?,
        })
    }

    fn get(&mut self, key: &CStr, buffer: &mut [u8]) -> Option<usize> {
        // SAFETY: the statement is reset before the bytes go.
        unsafe {
            self.bind_key(self.get, key);
            let found = (self.api.sqlite3_step)(self.get) == ROW;
            let mut size = 0;
            if found {
                size = (self.api.sqlite3_column_bytes)(self.get, 0) as usize;
                let at = (self.api.sqlite3_column_blob)(self.get, 0);
                ptr::copy_nonoverlapping(at, buffer.as_mut_ptr(), size.min(buffer.len()));
            }
            (self.api.sqlite3_reset)(self.get);
            found.then_some(size)
        }
    }

    fn put(&mut self, key: &CStr, value: &[u8]) -> bool {
        // SAFETY: the statement is reset before the bytes go.
        unsafe {
            self.bind_key(self.put, key);
            (self.api.sqlite3_bind_blob)(
                self.put,
                2,
                value.as_ptr(),
                value.len() as c_int,
                ptr::null(),
            );
            let answer = (self.api.sqlite3_step)(self.put);
            (self.api.sqlite3_reset)(self.put);
            answer == DONE
        }
    }

    fn delete(&mut self, key: &CStr) -> bool {
        // SAFETY: the statement is reset before the bytes go.
        unsafe {
            self.bind_key(self.delete, key);
            let answer = (self.api.sqlite3_step)(self.delete);
            (self.api.sqlite3_reset)(self.delete);
            answer == DONE && (self.api.sqlite3_changes)(self.db) == 1
        }
    }

    fn iterate(&mut self, values: bool) -> usize {
        let mut into = [0u8; 8192];
        let mut count = 0;
        // SAFETY: columns are copied before the next step.
        unsafe {
            while (self.api.sqlite3_step)(self.all) == ROW {
                for column in 0..=c_int::from(values) {
                    let size = (self.api.sqlite3_column_bytes)(self.all, column) as usize;
                    let at = (self.api.sqlite3_column_blob)(self.all, column);
                    ptr::copy_nonoverlapping(at, into.as_mut_ptr(), size.min(into.len()));
                }
                count += 1;
            }
            (self.api.sqlite3_reset)(self.all);
        }
        count
    }

    /// A commit has done it.
    fn sync(&mut self, _path: &Path) -> Result<()> {
        Ok(())
    }

    fn close(self) -> Result<()> {
        // SAFETY: not used afterwards.
        unsafe {
            for statement in [self.get, self.put, self.delete, self.all] {
                (self.api.sqlite3_finalize)(statement);
            }
            done("sqlite3_close", (self.api.sqlite3_close)(self.db))
        }
    }

    fn beside(path: &Path) -> Vec<PathBuf> {
        ["-wal", "-shm"]
            .map(|tail| format!("{}{tail}", path.display()).into())
            .to_vec()
    }

    fn version() -> String {
        Functions::get().map_or_else(
            |_| String::new(),
            |library| {
                // SAFETY: answers a static C string.
                let text = unsafe { CStr::from_ptr((library.sqlite3_libversion)()) };
                text.to_string_lossy().into_owned()
            },
        )
    }
}
