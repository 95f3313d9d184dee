//! The C ABI as its callers see it: structs, constants and functions declared a second time, from the specification and
//! not from the crate, and two callers built on them.
//!
//! [`Plain`] calls the functions and nothing else, as programs do that know of no locking. [`Handle`] does what the
//! middleware does around each call: semaphore, user count, rwlock and, in its later generation, mutex.
//!
//! Unsafe is needed here because everything behind the ABI is: the wrappers own the struct and the buffers that they
//! pass, so that the tests above them need none.
#![allow(
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    clippy::upper_case_acronyms
)]

use kissdb as _; // links the library: its symbols are what the declarations below name

use libc::{
    c_char, c_int, c_uint, c_ulong, c_void, pthread_mutex_t, pthread_rwlock_t, sem_t, size_t,
};
use std::cell::UnsafeCell;
use std::ffi::{CStr, CString};
use std::mem::{MaybeUninit, offset_of};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::{Mutex, PoisonError};

pub type Kdb_bool = i16;
pub const Kdb_true: Kdb_bool = -1;
pub const Kdb_false: Kdb_bool = 0;

pub const RDONLY: c_int = 1;
pub const RDWR: c_int = 2;
pub const RWCREAT: c_int = 3;
pub const RWREPLACE: c_int = 4;
/// Write through: the caller syncs after each change.
pub const WT: c_int = 5;
/// The caller caches.
pub const WC: c_int = 6;

pub const ERROR_IO: c_int = -1;
pub const ERROR_MALLOC: c_int = -2;
pub const ERROR_INVALID_PARAMETERS: c_int = -3;
pub const ERROR_CORRUPT_DBFILE: c_int = -4;
pub const ERROR_ACCESS_VIOLATION: c_int = -5;
pub const ERROR_OPEN_SHM: c_int = -7;
pub const ERROR_REMAP_SHM: c_int = -8;
pub const ERROR_MAP_SHM: c_int = -9;
pub const ERROR_RESIZE_SHM: c_int = -10;
pub const ERROR_CLOSE_SHM: c_int = -11;
pub const ERROR_WRONG_DATABASE_VERSION: c_int = -12;
pub const ERROR_WRONG_BUFSIZE: c_int = -13;
pub const ERROR_APPCRASH: c_int = -14;
/// What a delete of a key that is not there leaves in `bytesDeleted`.
pub const NOTHING_DELETED: i32 = -1_310_723;

/// The answer of [`Handle::open`] and [`Handle::close`] when the semaphore was not to be had within 5 s. Not the
/// library's: its calls answer nothing of the kind.
pub const SEM_TIMED_OUT: c_int = -1000;

/// Room for any key that an iterator may give.
const KEY_ROOM: usize = 256;
/// Room for any value: PERS_DB_MAX_SIZE_KEY_DATA.
pub const VALUE_ROOM: usize = 8028;

#[repr(C)]
pub struct KISSDB {
    pub htSize: u16,
    pub keySize: u64,
    pub valSize: u64,
    pub htSizeBytes: u64,
    pub htMappedSize: u64,
    pub dbMappedSize: u64,
    pub shmCreator: Kdb_bool,
    pub alreadyOpen: Kdb_bool,
    pub hashTables: *mut c_void,
    pub mappedDb: *mut c_char,
    pub sharedCache: *mut c_void,
    pub sharedFd: c_int,
    pub htFd: c_int,
    pub sharedCacheFd: c_int,
    pub semName: *mut c_char,
    pub sharedName: *mut c_char,
    pub cacheName: *mut c_char,
    pub htName: *mut c_char,
    pub shared: *mut Shared_Data_s,
    pub tbl: [*mut c_void; 1],
    pub kdbSem: *mut sem_t,
    pub fd: c_int,
}

#[repr(C)]
pub struct Shared_Data_s {
    pub htShmSize: u64,
    pub htNum: u16,
    pub refCount: u16,
    pub openMode: u16,
    pub writeMode: u16,
    pub cacheCreated: Kdb_bool,
    pub rwlock: pthread_rwlock_t,
    pub mutex: pthread_mutex_t,
    pub mutexInit: Kdb_bool,
    pub mappedDbSize: u64,
}

#[repr(C)]
pub struct KISSDB_Iterator {
    pub db: *mut KISSDB,
    pub h_no: c_ulong,
    pub h_idx: c_ulong,
}

/// The layout as it was measured on LP64.
#[cfg(all(
    target_os = "linux",
    target_arch = "x86_64",
    target_pointer_width = "64"
))]
const _: () = {
    assert!(size_of::<KISSDB>() == 160);
    assert!(offset_of!(KISSDB, htSize) == 0);
    assert!(offset_of!(KISSDB, keySize) == 8);
    assert!(offset_of!(KISSDB, valSize) == 16);
    assert!(offset_of!(KISSDB, htSizeBytes) == 24);
    assert!(offset_of!(KISSDB, htMappedSize) == 32);
    assert!(offset_of!(KISSDB, dbMappedSize) == 40);
    assert!(offset_of!(KISSDB, shmCreator) == 48);
    assert!(offset_of!(KISSDB, alreadyOpen) == 50);
    assert!(offset_of!(KISSDB, hashTables) == 56);
    assert!(offset_of!(KISSDB, mappedDb) == 64);
    assert!(offset_of!(KISSDB, sharedCache) == 72);
    assert!(offset_of!(KISSDB, sharedFd) == 80);
    assert!(offset_of!(KISSDB, htFd) == 84);
    assert!(offset_of!(KISSDB, sharedCacheFd) == 88);
    assert!(offset_of!(KISSDB, semName) == 96);
    assert!(offset_of!(KISSDB, sharedName) == 104);
    assert!(offset_of!(KISSDB, cacheName) == 112);
    assert!(offset_of!(KISSDB, htName) == 120);
    assert!(offset_of!(KISSDB, shared) == 128);
    assert!(offset_of!(KISSDB, tbl) == 136);
    assert!(offset_of!(KISSDB, kdbSem) == 144);
    assert!(offset_of!(KISSDB, fd) == 152);
    assert!(size_of::<Shared_Data_s>() == 136);
    assert!(offset_of!(Shared_Data_s, htShmSize) == 0);
    assert!(offset_of!(Shared_Data_s, htNum) == 8);
    assert!(offset_of!(Shared_Data_s, refCount) == 10);
    assert!(offset_of!(Shared_Data_s, openMode) == 12);
    assert!(offset_of!(Shared_Data_s, writeMode) == 14);
    assert!(offset_of!(Shared_Data_s, cacheCreated) == 16);
    assert!(offset_of!(Shared_Data_s, rwlock) == 24);
    assert!(offset_of!(Shared_Data_s, mutex) == 80);
    assert!(offset_of!(Shared_Data_s, mutexInit) == 120);
    assert!(offset_of!(Shared_Data_s, mappedDbSize) == 128);
    assert!(size_of::<KISSDB_Iterator>() == 24);
    assert!(offset_of!(KISSDB_Iterator, h_no) == 8);
    assert!(offset_of!(KISSDB_Iterator, h_idx) == 16);
};

unsafe extern "C" {
    pub fn KISSDB_open(
        db: *mut KISSDB,
        path: *const c_char,
        openMode: c_int,
        writeMode: c_int,
        hash_table_size: u16,
        key_size: u64,
        value_size: u64,
    ) -> c_int;
    pub fn KISSDB_close(db: *mut KISSDB) -> c_int;
    pub fn KISSDB_get(
        db: *mut KISSDB,
        key: *const c_void,
        vbuf: *mut c_void,
        bufsize: u32,
        vsize: *mut u32,
    ) -> c_int;
    pub fn KISSDB_put(
        db: *mut KISSDB,
        key: *const c_void,
        value: *const c_void,
        valueSize: c_int,
        bytesWritten: *mut i32,
    ) -> c_int;
    pub fn KISSDB_delete(db: *mut KISSDB, key: *const c_void, bytesDeleted: *mut i32) -> c_int;
    pub fn KISSDB_Iterator_init(db: *mut KISSDB, dbi: *mut KISSDB_Iterator);
    pub fn KISSDB_Iterator_next(
        dbi: *mut KISSDB_Iterator,
        kbuf: *mut c_void,
        vbuf: *mut c_void,
    ) -> c_int;

    pub fn kdbGetShmName(tail: *const c_char, path: *const c_char) -> *mut c_char;
    pub fn kdbShmemOpen(name: *const c_char, length: size_t, shmCreator: *mut Kdb_bool) -> c_int;
    pub fn getKdbShmemPtr(shmem: c_int, length: size_t) -> *mut c_void;
    pub fn freeKdbShmemPtr(shmem_ptr: *mut c_void, length: size_t) -> Kdb_bool;
    pub fn kdbShmemClose(shmem: c_int, shmName: *const c_char) -> Kdb_bool;
    pub fn Kdb_wrlock(lock: *mut pthread_rwlock_t);
    pub fn Kdb_rdlock(lock: *mut pthread_rwlock_t);
    pub fn Kdb_unlock(lock: *mut pthread_rwlock_t);
    pub fn checkIsLink(path: *const c_char, linkBuffer: *mut c_char) -> c_int;
    pub fn cleanKdbStruct(db: *mut KISSDB);
}

/// The sizes that an open is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub table: u16,
    pub key: u64,
    pub value: u64,
}

/// Permissions of the semaphores that tests make. That their owner may execute them means nothing and tells them from others.
pub const SEMAPHORE_MODE: u32 = 0o744;

/// Those of a settings database.
pub const SETTINGS: Sizes = Sizes {
    table: 510,
    key: 128,
    value: 8028,
};
/// Those of a resource table.
pub const RESOURCES: Sizes = Sizes {
    table: 510,
    key: 64,
    value: 212,
};

/// Keys and values in the order of an iterator.
pub type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// What `KISSDB_get` answered, unjudged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    pub rc: c_int,
    /// `vsize`; `u32::MAX` if the call did not set it.
    pub size: u32,
    /// The whole buffer; bytes that the call did not touch are [`UNTOUCHED`].
    pub buffer: Vec<u8>,
}

/// What buffers hold before a call.
pub const UNTOUCHED: u8 = 0xEE;

/// A KISSDB struct and the bare calls on it, with no locking at all. Any number of threads may use it at once: that is
/// the library's promise, and what the tests are to find out.
pub struct Plain {
    db: Box<UnsafeCell<KISSDB>>,
}

// SAFETY: the struct is only handed to the library, which promises that its calls may come from any thread (P5), and
// read field by field in places whose comments say when that is sound.
unsafe impl Send for Plain {}
// SAFETY: as above.
unsafe impl Sync for Plain {}

impl Plain {
    /// A zeroed struct, not open.
    pub fn new() -> Plain {
        // SAFETY: zero is valid for every field: numbers and pointers.
        let db: KISSDB = unsafe { MaybeUninit::zeroed().assume_init() };
        Plain {
            db: Box::new(UnsafeCell::new(db)),
        }
    }

    /// An open one, or what the open answered.
    pub fn opened(path: &Path, mode: c_int, sizes: Sizes) -> Result<Plain, c_int> {
        let db = Plain::new();
        match db.open(path, mode, WT, sizes) {
            0 => Ok(db),
            rc => Err(rc),
        }
    }

    /// The struct itself, for tests that look at fields or pass it on.
    pub fn as_ptr(&self) -> *mut KISSDB {
        self.db.get()
    }

    pub fn open(&self, path: &Path, mode: c_int, write_mode: c_int, sizes: Sizes) -> c_int {
        let path = c_path(path);
        // SAFETY: struct and path live through the call.
        unsafe {
            KISSDB_open(
                self.as_ptr(),
                path.as_ptr(),
                mode,
                write_mode,
                sizes.table,
                sizes.key,
                sizes.value,
            )
        }
    }

    pub fn close(&self) -> c_int {
        // SAFETY: the struct lives through the call; calls in flight are the library's to wait for.
        unsafe { KISSDB_close(self.as_ptr()) }
    }

    /// The answer and `bytesWritten`. The key ends at its first NUL, if it has one.
    pub fn put(&self, key: &[u8], value: &[u8]) -> (c_int, i32) {
        let key = c_key(key);
        let mut written = -7;
        let size = c_int::try_from(value.len()).unwrap_or(c_int::MAX);
        // SAFETY: key is NUL-terminated, value has size bytes, written is ours.
        let rc = unsafe {
            KISSDB_put(
                self.as_ptr(),
                key.as_ptr().cast(),
                value.as_ptr().cast(),
                size,
                &mut written,
            )
        };
        (rc, written)
    }

    /// The value, or what the get answered instead.
    pub fn get(&self, key: &[u8]) -> Result<Vec<u8>, c_int> {
        let Got {
            rc,
            size,
            mut buffer,
        } = self.get_into(key, VALUE_ROOM);
        if rc != 0 {
            return Err(rc);
        }
        buffer.truncate(size as usize);
        Ok(buffer)
    }

    /// A get with a buffer of `room` bytes.
    pub fn get_into(&self, key: &[u8], room: usize) -> Got {
        let key = c_key(key);
        let (mut buffer, mut size) = (vec![UNTOUCHED; room], u32::MAX);
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        // SAFETY: key is NUL-terminated, buffer has room bytes, size is ours.
        let rc = unsafe {
            KISSDB_get(
                self.as_ptr(),
                key.as_ptr().cast(),
                buffer.as_mut_ptr().cast(),
                room,
                &mut size,
            )
        };
        Got { rc, size, buffer }
    }

    /// The answer and `bytesDeleted`.
    pub fn delete(&self, key: &[u8]) -> (c_int, i32) {
        let key = c_key(key);
        let mut deleted = -7;
        // SAFETY: key is NUL-terminated, deleted is ours.
        let rc = unsafe { KISSDB_delete(self.as_ptr(), key.as_ptr().cast(), &mut deleted) };
        (rc, deleted)
    }

    /// An iterator at the beginning.
    pub fn iterate(&self) -> Iterate<'_> {
        let mut it = KISSDB_Iterator {
            db: ptr::null_mut(),
            h_no: 0,
            h_idx: 0,
        };
        // SAFETY: both structs live through the call.
        unsafe { KISSDB_Iterator_init(self.as_ptr(), &mut it) };
        Iterate { it, _db: self }
    }

    /// All keys that the iterator finds, in its order, or its error.
    pub fn keys(&self) -> Result<Vec<Vec<u8>>, c_int> {
        let mut it = self.iterate();
        let mut keys = Vec::new();
        loop {
            match it.next_key() {
                (1, key) => keys.push(key),
                (0, _) => return Ok(keys),
                (2, _) => {} // a deleted entry: passed over
                (rc, _) => return Err(rc),
            }
        }
    }

    /// All pairs that the iterator finds, in its order, or its error. Values are whole buffers: the value and what the
    /// iterator put behind it.
    pub fn pairs(&self) -> Result<Pairs, c_int> {
        let mut it = self.iterate();
        let mut pairs = Vec::new();
        loop {
            match it.next_pair() {
                (1, key, value) => pairs.push((key, value)),
                (0, ..) => return Ok(pairs),
                (2, ..) => {}
                (rc, ..) => return Err(rc),
            }
        }
    }

    pub fn is_open(&self) -> bool {
        // SAFETY: a plain read of our own struct; tests ask while no call opens or closes it.
        unsafe { (*self.as_ptr()).alreadyOpen != Kdb_false }
    }

    /// The descriptor on which the caller's fdatasync makes everything durable.
    pub fn fd(&self) -> c_int {
        // SAFETY: as in is_open.
        unsafe { (*self.as_ptr()).fd }
    }

    /// The name for the caller's write cache, while open.
    pub fn cache_name(&self) -> Option<String> {
        // SAFETY: as in is_open; the library keeps the string until the close.
        unsafe { text((*self.as_ptr()).cacheName) }
    }

    /// The head of the shared object; null while not open.
    pub fn shared(&self) -> *mut Shared_Data_s {
        // SAFETY: as in is_open.
        unsafe { (*self.as_ptr()).shared }
    }

    /// Gives up the struct without closing it, as a process does that dies.
    pub fn leak(self) {
        keep(self);
    }
}

/// Never dropped, but found by those who look for leaks.
pub fn keep<T>(what: T) {
    static KEPT: Mutex<Vec<usize>> = Mutex::new(Vec::new());
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    kept.push(Box::into_raw(Box::new(what)) as usize);
}

impl Default for Plain {
    fn default() -> Plain {
        Plain::new()
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        if self.is_open() {
            self.close();
        }
    }
}

/// A running iteration.
pub struct Iterate<'a> {
    it: KISSDB_Iterator,
    _db: &'a Plain,
}

impl Iterate<'_> {
    /// The answer and, where it is 1, the key up to its NUL; no value is asked for.
    pub fn next_key(&mut self) -> (c_int, Vec<u8>) {
        let mut key = [0u8; KEY_ROOM];
        // SAFETY: key has room for the largest key field, and a value buffer may be absent.
        let rc =
            unsafe { KISSDB_Iterator_next(&mut self.it, key.as_mut_ptr().cast(), ptr::null_mut()) };
        (rc, up_to_nul(&key))
    }

    /// The answer and, where it is 1, the key and [`VALUE_ROOM`] bytes of which the first valSize are the iterator's.
    pub fn next_pair(&mut self) -> (c_int, Vec<u8>, Vec<u8>) {
        let mut key = [0u8; KEY_ROOM];
        let mut value = vec![UNTOUCHED; VALUE_ROOM];
        // SAFETY: key and value have room for the largest sizes that a file may have.
        let rc = unsafe {
            KISSDB_Iterator_next(
                &mut self.it,
                key.as_mut_ptr().cast(),
                value.as_mut_ptr().cast(),
            )
        };
        (rc, up_to_nul(&key), value)
    }
}

/// The two generations of the middleware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// Semaphore, count and rwlock.
    Y2015,
    /// The robust mutex in the shared object as well.
    Y2019,
}

/// A handle used the way the middleware does it.
pub struct Handle {
    db: Plain,
    path: PathBuf,
    generation: Generation,
    durable: bool,
}

impl Handle {
    /// Not open yet; of the 2015 generation, without syncing.
    pub fn new(path: &Path) -> Handle {
        Handle {
            db: Plain::new(),
            path: path.to_owned(),
            generation: Generation::Y2015,
            durable: false,
        }
    }

    pub fn generation(mut self, generation: Generation) -> Handle {
        self.generation = generation;
        self
    }

    /// Sync after each change, as the middleware does in write-through mode. Off unless asked for: it is slow.
    pub fn durable(mut self, durable: bool) -> Handle {
        self.durable = durable;
        self
    }

    /// An open one of the 2015 generation, or what the open answered.
    pub fn opened(path: &Path, mode: c_int, sizes: Sizes) -> Result<Handle, c_int> {
        let handle = Handle::new(path);
        match handle.open(mode, WT, sizes) {
            0 => Ok(handle),
            rc => Err(rc),
        }
    }

    pub fn open(&self, mode: c_int, write_mode: c_int, sizes: Sizes) -> c_int {
        let db = self.db.as_ptr();
        if !self.db.is_open() {
            let path = c_path(&self.path);
            // SAFETY: the strings live through the calls; nobody else opens this struct at the same time.
            unsafe {
                let name = kdbGetShmName(c"-sem".as_ptr(), path.as_ptr());
                (*db).semName = name;
                let sem = libc::sem_open(name, libc::O_CREAT, SEMAPHORE_MODE, 1 as c_uint);
                (*db).kdbSem = if sem == libc::SEM_FAILED {
                    ptr::null_mut()
                } else {
                    sem
                };
            }
        }
        if !self.wait() {
            return SEM_TIMED_OUT;
        }
        let rc = self.db.open(&self.path, mode, write_mode, sizes);
        match rc {
            0 => {
                let mutex = self.lock_mutex();
                self.count(1);
                self.post();
                drop(mutex);
            }
            ERROR_APPCRASH => self.post(),
            _ => {
                // SAFETY: the struct is the one of the failed open. semName is ours and malloc's.
                unsafe {
                    cleanKdbStruct(db);
                    self.post();
                    libc::free((*db).semName.cast());
                    (*db).semName = ptr::null_mut();
                }
            }
        }
        rc
    }

    pub fn close(&self) -> c_int {
        self.close_with(|_| ())
    }

    /// A close that writes a cache back: `write_back` is called, under the lock, if this is the last user and a cache
    /// was made.
    pub fn close_with(&self, write_back: impl FnOnce(&Plain)) -> c_int {
        if self.db.shared().is_null() {
            return self.db.close();
        }
        let mutex = self.lock_mutex();
        if !self.wait() {
            return SEM_TIMED_OUT;
        }
        {
            let _lock = RwLocked::write(self.db.shared());
            self.count(-1);
            if self.ref_count() == 0 && self.cache_created() {
                write_back(&self.db);
            }
        }
        drop(mutex);
        self.db.close()
    }

    /// Runs several bare calls under the locks of one operation.
    pub fn locked<T>(&self, calls: impl FnOnce(&Plain) -> T) -> T {
        let _mutex = self.lock_mutex();
        let _lock = RwLocked::write(self.db.shared());
        calls(&self.db)
    }

    pub fn put(&self, key: &[u8], value: &[u8]) -> (c_int, i32) {
        self.changed(|db| db.put(key, value))
    }

    pub fn delete(&self, key: &[u8]) -> (c_int, i32) {
        self.changed(|db| db.delete(key))
    }

    pub fn get(&self, key: &[u8]) -> Result<Vec<u8>, c_int> {
        self.locked(|db| db.get(key))
    }

    pub fn get_into(&self, key: &[u8], room: usize) -> Got {
        self.locked(|db| db.get_into(key, room))
    }

    pub fn keys(&self) -> Result<Vec<Vec<u8>>, c_int> {
        self.locked(Plain::keys)
    }

    pub fn pairs(&self) -> Result<Pairs, c_int> {
        self.locked(Plain::pairs)
    }

    /// The bare calls on the same struct, without the locks.
    pub fn plain(&self) -> &Plain {
        &self.db
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The semaphore's value, while open.
    pub fn semaphore(&self) -> Option<c_int> {
        let mut value = 0;
        // SAFETY: kdbSem is a semaphore that is open, or null.
        unsafe {
            let sem = (*self.db.as_ptr()).kdbSem;
            (!sem.is_null() && libc::sem_getvalue(sem, &mut value) == 0).then_some(value)
        }
    }

    pub fn ref_count(&self) -> u16 {
        self.field(offset_of!(Shared_Data_s, refCount))
    }

    pub fn write_mode(&self) -> u16 {
        self.field(offset_of!(Shared_Data_s, writeMode))
    }

    pub fn cache_created(&self) -> bool {
        self.field(offset_of!(Shared_Data_s, cacheCreated)) != 0
    }

    /// What a caller does that has made its write cache.
    pub fn set_cache_created(&self, created: bool) {
        let shared = self.db.shared();
        assert!(!shared.is_null(), "not open");
        // SAFETY: shared is mapped while the handle is open; other processes read the field, hence volatile.
        unsafe {
            let field = &raw mut (*shared).cacheCreated;
            field.write_volatile(if created { Kdb_true } else { Kdb_false });
        }
    }

    /// Gives up the handle without closing it, as a process does that dies.
    pub fn leak(self) {
        keep(self);
    }

    /// Waits for the semaphore, at most 5 s. True without one.
    pub fn wait(&self) -> bool {
        // SAFETY: kdbSem is a semaphore that is open, or null; until is ours.
        unsafe {
            let sem = (*self.db.as_ptr()).kdbSem;
            if sem.is_null() {
                return true;
            }
            let mut until: libc::timespec = MaybeUninit::zeroed().assume_init();
            libc::clock_gettime(libc::CLOCK_REALTIME, &mut until);
            until.tv_sec += 5;
            loop {
                if libc::sem_timedwait(sem, &until) == 0 {
                    return true;
                }
                if *libc::__errno_location() != libc::EINTR {
                    return false;
                }
            }
        }
    }

    /// Posts the semaphore if there is one.
    pub fn post(&self) {
        // SAFETY: kdbSem is a semaphore that is open, or null.
        unsafe {
            let sem = (*self.db.as_ptr()).kdbSem;
            if !sem.is_null() {
                libc::sem_post(sem);
            }
        }
    }

    fn changed(&self, call: impl FnOnce(&Plain) -> (c_int, i32)) -> (c_int, i32) {
        self.locked(|db| {
            let answer = call(db);
            if self.durable && answer.0 == 0 {
                // SAFETY: fd is a descriptor of the open database.
                let synced = unsafe { libc::fdatasync(db.fd()) };
                assert_eq!(synced, 0, "fdatasync({})", db.fd());
            }
            answer
        })
    }

    /// Adds to the user count as the middleware does: no atomics, never below 0.
    fn count(&self, by: i32) {
        let shared = self.db.shared();
        // SAFETY: shared is mapped while the handle is open; the locks around us are the middleware's.
        unsafe {
            let field = &raw mut (*shared).refCount;
            let now = i32::from(field.read_volatile()) + by;
            field.write_volatile(u16::try_from(now.max(0)).unwrap_or(u16::MAX));
        }
    }

    /// One of the 16-bit fields of the shared object.
    fn field(&self, offset: usize) -> u16 {
        let shared = self.db.shared();
        assert!(!shared.is_null(), "not open");
        // SAFETY: shared is mapped while the handle is open; other processes write the field, hence volatile.
        unsafe { shared.byte_add(offset).cast::<u16>().read_volatile() }
    }

    /// The mutex of the 2019 generation, set up by whoever comes first.
    fn lock_mutex(&self) -> Option<MutexLocked> {
        let shared = self.db.shared();
        if self.generation == Generation::Y2015 || shared.is_null() {
            return None;
        }
        // SAFETY: shared is mapped; the mutex is set up either by the library or here, under the semaphore.
        unsafe {
            let (mutex, init) = (&raw mut (*shared).mutex, &raw mut (*shared).mutexInit);
            if init.read_volatile() == Kdb_false {
                let mut attr = MaybeUninit::uninit();
                libc::pthread_mutexattr_init(attr.as_mut_ptr());
                libc::pthread_mutexattr_setpshared(attr.as_mut_ptr(), libc::PTHREAD_PROCESS_SHARED);
                libc::pthread_mutexattr_setrobust(attr.as_mut_ptr(), libc::PTHREAD_MUTEX_ROBUST);
                libc::pthread_mutex_init(mutex, attr.as_ptr());
                libc::pthread_mutexattr_destroy(attr.as_mut_ptr());
                init.write_volatile(Kdb_true);
            }
            match libc::pthread_mutex_lock(mutex) {
                0 => {}
                libc::EOWNERDEAD => assert_eq!(libc::pthread_mutex_consistent(mutex), 0),
                error => panic!(
                    "pthread_mutex_lock: {}",
                    std::io::Error::from_raw_os_error(error)
                ),
            }
            Some(MutexLocked { mutex })
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.db.is_open() {
            self.close();
        }
    }
}

/// The rwlock held for writing, until dropped. A failing test must not leave it locked: its handle closes itself.
struct RwLocked {
    lock: *mut pthread_rwlock_t,
}

impl RwLocked {
    fn write(shared: *mut Shared_Data_s) -> RwLocked {
        assert!(!shared.is_null(), "not open");
        // SAFETY: shared is mapped while the handle is open.
        unsafe {
            let lock = &raw mut (*shared).rwlock;
            Kdb_wrlock(lock);
            RwLocked { lock }
        }
    }
}

impl Drop for RwLocked {
    fn drop(&mut self) {
        // SAFETY: locked in write, and the handle is still open.
        unsafe { Kdb_unlock(self.lock) }
    }
}

struct MutexLocked {
    mutex: *mut pthread_mutex_t,
}

impl Drop for MutexLocked {
    fn drop(&mut self) {
        // SAFETY: locked by this thread, and the handle is still open.
        unsafe { libc::pthread_mutex_unlock(self.mutex) };
    }
}

/// What kdbGetShmName answers, its memory given back.
pub fn shm_name(tail: &str, path: &Path) -> Option<String> {
    let tail = CString::new(tail).ok()?;
    let path = c_path(path);
    // SAFETY: the strings live through the call; its answer is malloc memory or null.
    unsafe {
        let name = kdbGetShmName(tail.as_ptr(), path.as_ptr());
        let answer = text(name);
        libc::free(name.cast());
        answer
    }
}

/// # Safety
/// `s` is null or a C string.
unsafe fn text(s: *const c_char) -> Option<String> {
    if s.is_null() {
        return None;
    }
    // SAFETY: the caller's word.
    Some(unsafe { CStr::from_ptr(s) }.to_string_lossy().into_owned())
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("a path has no NUL")
}

/// The key and its NUL, with no room behind, so that a reader that goes too far can be caught.
fn c_key(key: &[u8]) -> Vec<u8> {
    [key, b"\0"].concat()
}

fn up_to_nul(bytes: &[u8]) -> Vec<u8> {
    bytes.split(|&b| b == 0).next().unwrap_or_default().to_vec()
}
