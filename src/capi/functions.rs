//! The seven functions of a database.
#![allow(non_snake_case)]

use super::handles::{self, Handle, Inside};
use super::helpers::malloc_name;
use super::types::*;
use super::{Whole, code, guard, memory, quick};
use crate::engine::Position;
use crate::error::{Error, Result};
use crate::format::key::Key;
use crate::format::{block, table};
use crate::session::{Mode, Request, Session};
use crate::sys::names;
use crate::sys::sem::{self, Sem};
use std::cell::UnsafeCell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;

/// bytesDeleted of a delete that found nothing.
const NOT_DELETED: i32 = -1310723;

/// What `shared` points to after an open that failed, for cleanKdbStruct: only its presence counts, and it
/// has to be there without memory as well.
struct Failed(UnsafeCell<MaybeUninit<Shared_Data_s>>);

// SAFETY: nothing is read or written through it here.
unsafe impl Sync for Failed {}

static FAILED: Failed = Failed(UnsafeCell::new(MaybeUninit::zeroed()));

/// Enters the handle of a caller's struct.
///
/// # Safety
/// `db` is NULL or points to a KISSDB.
#[inline(always)]
unsafe fn enter(db: *const KISSDB) -> Result<Inside> {
    // SAFETY: the caller's promise.
    let db = unsafe { db.as_ref() }.ok_or(Error::Invalid("db is NULL"))?;
    handles::enter(db.hashTables as usize).ok_or(Error::Invalid("the database is not open"))
}

/// The bytes of a C string as far as a key can reach; 128 of them if it is longer.
///
/// # Safety
/// `key` is NULL or a NUL-terminated string or at least 128 bytes long.
#[inline(always)]
unsafe fn key<'a>(key: *const c_void) -> Result<&'a [u8]> {
    if key.is_null() {
        return Err(Error::Invalid("key is NULL"));
    }
    // SAFETY: strnlen reads up to the NUL or 128 bytes, which the caller promises.
    let n = unsafe { libc::strnlen(key.cast(), block::KEY_LEN) };
    // SAFETY: just read.
    Ok(unsafe { std::slice::from_raw_parts(key.cast(), n) })
}

/// Writes through a pointer that may be NULL.
///
/// # Safety
/// `to` is NULL or valid for writes.
#[inline(always)]
unsafe fn set<T>(to: *mut T, v: T) {
    if !to.is_null() {
        // SAFETY: the caller's promise.
        unsafe { to.write_unaligned(v) };
    }
}

/// Opens a database.
///
/// `db`: zeroed before its first use; a handle that is open already is left as it is and 0 is
/// answered. `path`: of the file. `openMode`: KISSDB_OPEN_MODE_*. `writeMode`: any number, kept for
/// callers. `hash_table_size` (slots, 1 to 510), `key_size` (bytes, 1 to 128), `value_size` (bytes,
/// 1 to 8028): for a new file; those of an existing file win.
///
/// Answers 0 or a KISSDB_ERROR_*: INVALID_PARAMETERS, IO (errno tells), CORRUPT_DBFILE,
/// ACCESS_VIOLATION (RWREPLACE while others use it), WRONG_DATABASE_VERSION, OPEN_SHM, MAP_SHM,
/// RESIZE_SHM. After an error nothing stays locked; if db->kdbSem was set, cleanKdbStruct gives the
/// rest back. A database that was not closed is recovered.
///
/// # Safety
/// `db` points to a KISSDB whose kdbSem is NULL or came from sem_open; `path` is a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KISSDB_open(
    db: *mut KISSDB,
    path: *const c_char,
    openMode: c_int,
    writeMode: c_int,
    hash_table_size: u16,
    key_size: u64,
    value_size: u64,
) -> c_int {
    guard(KISSDB_ERROR_MALLOC, || {
        // SAFETY: the caller's promise.
        let Some(db) = (unsafe { db.as_mut() }) else {
            return KISSDB_ERROR_INVALID_PARAMETERS;
        };
        if db.alreadyOpen != Kdb_false && handles::enter(db.hashTables as usize).is_some() {
            return 0;
        }
        db.hashTables = ptr::null_mut();
        // SAFETY: the caller's promise.
        let sem = unsafe { Sem::new(db.kdbSem) };
        let opened = (|| {
            if path.is_null() {
                return Err(Error::Invalid("path is NULL"));
            }
            memory()?;
            // SAFETY: the caller's promise.
            let path = unsafe { CStr::from_ptr(path) };
            let request = Request {
                path,
                mode: Mode::from_number(openMode).ok_or(Error::Invalid("open mode"))?,
                write_mode: writeMode as u16,
                sizes: (u64::from(hash_table_size), key_size, value_size),
                sem,
            };
            Session::open(&request)
        })();
        match opened.and_then(|session| keep(db, session)) {
            Ok(()) => 0,
            Err(e) => {
                forget(db);
                if sem.is_some() {
                    db.shared = FAILED.0.get().cast();
                }
                code(&e)
            }
        }
    })
}

/// Fills the caller's struct.
fn keep(db: &mut KISSDB, session: Session) -> Result<()> {
    let sizes = session.sizes();
    let stem = session.shm().stem();
    let (fd, shared_fd, ht_fd) = session.descriptors();
    let shared = ptr::from_ref(session.shm().shared());
    let close = |handle: Box<Handle>| drop((*handle).into_session().close(|| ()));
    let number = handles::insert(Box::new(Handle::new(session))).map_err(|h| {
        close(h);
        Error::Memory
    })?;
    let name = |tail| malloc_name(&names::shm_name(tail, &stem));
    db.sharedName = name(names::INFO);
    db.cacheName = name(names::CACHE);
    db.htName = name(names::HT);
    if db.sharedName.is_null() || db.cacheName.is_null() || db.htName.is_null() {
        if let Some(h) = handles::remove(number) {
            close(h);
        }
        return Err(Error::Memory);
    }
    db.htSize = sizes.slots;
    db.keySize = u64::from(sizes.key);
    db.valSize = u64::from(sizes.value);
    db.htSizeBytes = table::SIZE;
    db.htMappedSize = 0;
    db.dbMappedSize = 0;
    db.alreadyOpen = Kdb_true;
    db.hashTables = number as *mut Hashtable_s;
    db.mappedDb = ptr::null_mut();
    db.sharedFd = shared_fd;
    db.htFd = ht_fd;
    db.sharedCacheFd = -1;
    db.shared = shared.cast_mut().cast();
    db.fd = fd;
    Ok(())
}

/// Makes the struct new again, but for semaphore and its name; frees the names that we made.
pub(super) fn forget(db: &mut KISSDB) {
    for name in [&mut db.sharedName, &mut db.cacheName, &mut db.htName] {
        // SAFETY: NULL, or malloc memory of `keep`; a struct that was never opened is zeroed.
        unsafe { libc::free((*name).cast()) };
        *name = ptr::null_mut();
    }
    db.htSize = 0;
    db.keySize = 0;
    db.valSize = 0;
    db.htSizeBytes = 0;
    db.htMappedSize = 0;
    db.dbMappedSize = 0;
    db.shmCreator = Kdb_false;
    db.alreadyOpen = Kdb_false;
    db.hashTables = ptr::null_mut();
    db.mappedDb = ptr::null_mut();
    db.sharedCache = ptr::null_mut();
    db.sharedFd = 0;
    db.htFd = 0;
    db.sharedCacheFd = -1;
    db.shared = ptr::null_mut();
    db.tbl = [ptr::null_mut()];
    db.fd = 0;
}

/// Closes a database and makes `db` as new.
///
/// Calls in flight on this handle end first; later ones get INVALID_PARAMETERS. The last user
/// leaves a clean file on the medium and no shared objects. db->kdbSem is posted and closed, and
/// removed by the last user; db->semName is freed.
///
/// Answers 0; IO if something could not be made durable: everything is released, and the next open
/// recovers; INVALID_PARAMETERS if it is not open.
///
/// # Safety
/// `db` is NULL or points to a KISSDB.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KISSDB_close(db: *mut KISSDB) -> c_int {
    guard(KISSDB_ERROR_IO, || {
        // SAFETY: the caller's promise.
        let Some(db) = (unsafe { db.as_mut() }) else {
            return KISSDB_ERROR_INVALID_PARAMETERS;
        };
        let Some(handle) = handles::remove(db.hashTables as usize) else {
            return KISSDB_ERROR_INVALID_PARAMETERS;
        };
        // SAFETY: the caller's promise at open: it came from sem_open.
        let sem = unsafe { Sem::new(db.kdbSem) };
        let give_back = || {
            if let Some(sem) = sem {
                sem.give_back();
            }
        };
        let closed = (*handle).into_session().close(give_back);
        forget(db);
        if let Some(sem) = sem {
            sem.close();
        }
        db.kdbSem = ptr::null_mut();
        // SAFETY: NULL or the caller's malloc memory, ours by the contract.
        unsafe { libc::free(db.semName.cast()) };
        db.semName = ptr::null_mut();
        closed.map_or_else(
            |e| {
                // Whatever it was: the file is as it was left, and the next open recovers.
                code(&e);
                KISSDB_ERROR_IO
            },
            |()| 0,
        )
    })
}

/// Gives back what a failed KISSDB_open left because db->kdbSem was set: posts and closes the
/// semaphore, removes it if nobody else uses the database, and makes `db` as new. db->semName stays
/// the caller's. Does nothing if db->shared is NULL; an open database is not touched.
///
/// # Safety
/// `db` is NULL or points to a KISSDB.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanKdbStruct(db: *mut KISSDB) {
    guard((), || {
        // SAFETY: the caller's promise.
        let Some(db) = (unsafe { db.as_mut() }) else {
            return;
        };
        if db.shared.is_null() || handles::enter(db.hashTables as usize).is_some() {
            return;
        }
        // SAFETY: the caller's promise at open: it came from sem_open.
        if let Some(sem) = unsafe { Sem::new(db.kdbSem) } {
            // First: once the name is gone nobody can post it for those who wait, should we die.
            sem.give_back();
            if !db.semName.is_null() {
                // SAFETY: the caller's C string.
                let name = unsafe { CStr::from_ptr(db.semName) }.to_bytes();
                let used = name.strip_suffix(names::SEM).is_some_and(|stem| {
                    names::shm_path(&[stem, names::INFO].concat())
                        .is_some_and(|p| std::path::Path::new(&*p.to_string_lossy()).exists())
                });
                if !used {
                    sem::unlink(name);
                }
            }
            sem.close();
        }
        db.kdbSem = ptr::null_mut();
        forget(db);
    });
}

/// Reads a value.
///
/// `key`: a C string. `vbuf`: room for `bufsize` bytes, or NULL with 0 to ask for the size.
/// `vsize`: receives the size of the value in bytes. The value is copied only if it fits.
///
/// Answers 0; 1 if there is no such key; CORRUPT_DBFILE if both copies are damaged; IO;
/// INVALID_PARAMETERS.
///
/// # Safety
/// `db` points to a KISSDB, `key` to a C string, `vbuf` to `bufsize` bytes, `vsize` to a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KISSDB_get(
    db: *mut KISSDB,
    key: *const c_void,
    vbuf: *mut c_void,
    bufsize: u32,
    vsize: *mut u32,
) -> c_int {
    quick(KISSDB_ERROR_MALLOC, || {
        let got = (|| {
            // SAFETY: the caller's promise.
            let (handle, key) = unsafe { (enter(db)?, self::key(key)?) };
            if vsize.is_null() || (vbuf.is_null() && bufsize > 0) {
                return Err(Error::Invalid("vbuf or vsize is NULL"));
            }
            let buf = if vbuf.is_null() {
                &mut []
            } else {
                // SAFETY: the caller's promise: `bufsize` bytes that are its own.
                unsafe { std::slice::from_raw_parts_mut(vbuf.cast(), bufsize as usize) }
            };
            let Some(made) = Key::without_nul(key) else {
                return Ok(None);
            };
            match handle.reads.get(&made, buf) {
                Some(answer) => Ok(answer),
                None => {
                    let _whole = Whole::new();
                    handle.with(|s| s.get(key, buf))
                }
            }
        })();
        match got {
            Ok(Some(n)) => {
                // SAFETY: the caller's promise.
                unsafe { set(vsize, n as u32) };
                0
            }
            Ok(None) => 1,
            Err(e) => code(&e),
        }
    })
}

/// Sets the value of a key.
///
/// `key`: a C string of 1 to 127 bytes. `value`: `valueSize` bytes, at most the value size of the
/// file; NULL with 0. `bytesWritten`: receives `valueSize`, or 0 on an error; may be NULL.
///
/// Answers 0; INVALID_PARAMETERS; ACCESS_VIOLATION on a read-only handle; IO (disk full, errno
/// tells): the database is unchanged.
///
/// # Safety
/// `db` points to a KISSDB, `key` to a C string, `value` to `valueSize` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KISSDB_put(
    db: *mut KISSDB,
    key: *const c_void,
    value: *const c_void,
    valueSize: c_int,
    bytesWritten: *mut i32,
) -> c_int {
    guard(KISSDB_ERROR_MALLOC, || {
        // SAFETY: the caller's promise.
        unsafe { set(bytesWritten, 0) };
        let put = (|| {
            // SAFETY: the caller's promise.
            let (handle, key) = unsafe { (enter(db)?, self::key(key)?) };
            let size = usize::try_from(valueSize).map_err(|_| Error::Invalid("valueSize"))?;
            let value = match size {
                0 => &[],
                _ if value.is_null() => return Err(Error::Invalid("value is NULL")),
                _ if size > block::VALUE_LEN => return Err(Error::Invalid("valueSize")),
                // SAFETY: the caller's promise.
                _ => unsafe { std::slice::from_raw_parts(value.cast(), size) },
            };
            handle.with(|s| s.put(Key::without_nul(key), value, memory))
        })();
        match put {
            Ok(()) => {
                // SAFETY: the caller's promise.
                unsafe { set(bytesWritten, valueSize) };
                0
            }
            Err(e) => code(&e),
        }
    })
}

/// Deletes a key.
///
/// `bytesDeleted`: receives 0, or -1310723 if there is no such key; may be NULL.
///
/// Answers 0; 1 if there is no such key; INVALID_PARAMETERS; ACCESS_VIOLATION; IO.
///
/// # Safety
/// `db` points to a KISSDB, `key` to a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KISSDB_delete(
    db: *mut KISSDB,
    key: *const c_void,
    bytesDeleted: *mut i32,
) -> c_int {
    guard(KISSDB_ERROR_MALLOC, || {
        // SAFETY: the caller's promise.
        unsafe { set(bytesDeleted, 0) };
        let deleted = (|| {
            // SAFETY: the caller's promise.
            let (handle, key) = unsafe { (enter(db)?, self::key(key)?) };
            handle.with(|s| s.delete(Key::without_nul(key), memory))
        })();
        match deleted {
            Ok(true) => 0,
            Ok(false) => {
                // SAFETY: the caller's promise.
                unsafe { set(bytesDeleted, NOT_DELETED) };
                1
            }
            Err(e) => code(&e),
        }
    })
}

/// Begins an iteration. Put and delete are allowed meanwhile: each key that is there throughout
/// comes exactly once.
///
/// # Safety
/// `db` points to a KISSDB, `dbi` to a KISSDB_Iterator; NULL is left alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KISSDB_Iterator_init(db: *mut KISSDB, dbi: *mut KISSDB_Iterator) {
    if !dbi.is_null() {
        let start = KISSDB_Iterator {
            db,
            h_no: 0,
            h_idx: 0,
        };
        // SAFETY: the caller's promise.
        unsafe { dbi.write(start) };
    }
}

/// The next entry.
///
/// `kbuf`: receives key size bytes, zeros behind the key. `vbuf`: receives value size bytes, zeros
/// behind the value; NULL if the value is not wanted.
///
/// Answers KISSDB_ITERATOR_NEXT_ITEM_FOUND (1), NEXT_ITEM_NOT_FOUND (0) at the end, or an error.
/// Deleted and damaged entries are passed over.
///
/// # Safety
/// `dbi` came from KISSDB_Iterator_init and its database is open; the buffers have the sizes above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KISSDB_Iterator_next(
    dbi: *mut KISSDB_Iterator,
    kbuf: *mut c_void,
    vbuf: *mut c_void,
) -> c_int {
    quick(KISSDB_ERROR_MALLOC, || {
        let next = (|| {
            // SAFETY: the caller's promise.
            let dbi = unsafe { dbi.as_mut() }.ok_or(Error::Invalid("dbi is NULL"))?;
            if kbuf.is_null() {
                return Err(Error::Invalid("kbuf is NULL"));
            }
            // SAFETY: the caller's promise.
            let handle = unsafe { enter(dbi.db)? };
            let mut pos = Position {
                table: dbi.h_no,
                slot: dbi.h_idx,
            };
            let size = handle.sizes.key as usize;
            // SAFETY: the caller's promise: key size bytes that are its own.
            let key = unsafe { std::slice::from_raw_parts_mut(kbuf.cast::<u8>(), size) };
            let value = || {
                // SAFETY: the caller's promise: value size bytes that are its own.
                (!vbuf.is_null()).then(|| unsafe {
                    std::slice::from_raw_parts_mut(vbuf.cast(), handle.sizes.value as usize)
                })
            };
            let found = match handle.reads.next(&mut pos, key, value()) {
                Some(found) => found,
                None => {
                    let _whole = Whole::new();
                    let mut field = [0; block::KEY_LEN];
                    let found = handle.with(|s| s.next(&mut pos, &mut field, value()))?;
                    if found {
                        key.copy_from_slice(&field[..size]);
                    }
                    found
                }
            };
            dbi.h_no = pos.table;
            dbi.h_idx = pos.slot;
            Ok(found)
        })();
        match next {
            Ok(true) => KISSDB_ITERATOR_NEXT_ITEM_FOUND,
            Ok(false) => KISSDB_ITERATOR_NEXT_ITEM_NOT_FOUND,
            Err(e) => code(&e),
        }
    })
}
