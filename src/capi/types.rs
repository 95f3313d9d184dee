//! The structs and numbers that callers see. Every offset is part of the ABI and asserted below.
#![allow(non_camel_case_types, non_snake_case, non_upper_case_globals)]

use crate::sys::shm::Shared;
use std::ffi::{c_char, c_int, c_ulong, c_void};

/// int16_t; Kdb_true is -1.
pub type Kdb_bool = i16;
/// Yes.
pub const Kdb_true: Kdb_bool = -1;
/// No.
pub const Kdb_false: Kdb_bool = 0;

/// Version of the file format.
pub const KISSDB_MAJOR_VERSION: c_int = 2;
/// Version of the file format, behind the dot.
pub const KISSDB_MINOR_VERSION: c_int = 3;

/// The file must exist and is never written.
pub const KISSDB_OPEN_MODE_RDONLY: c_int = 1;
/// The file must exist.
pub const KISSDB_OPEN_MODE_RDWR: c_int = 2;
/// The file is made (0666 less the umask) if there is none.
pub const KISSDB_OPEN_MODE_RWCREAT: c_int = 3;
/// The file is emptied or made; KISSDB_ERROR_ACCESS_VIOLATION while others have it open.
pub const KISSDB_OPEN_MODE_RWREPLACE: c_int = 4;
/// Write through: the caller calls fdatasync(db->fd) after its changes.
pub const KISSDB_WRITE_MODE_WT: c_int = 5;
/// The caller caches.
pub const KISSDB_WRITE_MODE_WC: c_int = 6;

/// The end: there are no more entries.
pub const KISSDB_ITERATOR_NEXT_ITEM_NOT_FOUND: c_int = 0;
/// Key and value are those of the next entry.
pub const KISSDB_ITERATOR_NEXT_ITEM_FOUND: c_int = 1;
/// Not answered by this library.
pub const KISSDB_ITERATOR_DELETED_ITEM: c_int = 2;

/// I/O error or disk full; errno tells.
pub const KISSDB_ERROR_IO: c_int = -1;
/// Out of memory.
pub const KISSDB_ERROR_MALLOC: c_int = -2;
/// An argument is out of range, or the handle is not open.
pub const KISSDB_ERROR_INVALID_PARAMETERS: c_int = -3;
/// Not a database, or a record whose two copies are damaged.
pub const KISSDB_ERROR_CORRUPT_DBFILE: c_int = -4;
/// The handle is read-only, or the database is in use.
pub const KISSDB_ERROR_ACCESS_VIOLATION: c_int = -5;
/// A shared object could not be opened or may not be trusted.
pub const KISSDB_ERROR_OPEN_SHM: c_int = -7;
/// Not answered by this library.
pub const KISSDB_ERROR_REMAP_SHM: c_int = -8;
/// A shared object could not be mapped.
pub const KISSDB_ERROR_MAP_SHM: c_int = -9;
/// /dev/shm is full.
pub const KISSDB_ERROR_RESIZE_SHM: c_int = -10;
/// Not answered by this library.
pub const KISSDB_ERROR_CLOSE_SHM: c_int = -11;
/// The file has another version of the format.
pub const KISSDB_ERROR_WRONG_DATABASE_VERSION: c_int = -12;
/// Not answered by this library: a buffer that is too small is left alone.
pub const KISSDB_ERROR_WRONG_BUFSIZE: c_int = -13;
/// Not answered by this library: dead users are found and uncounted.
pub const KISSDB_ERROR_APPCRASH: c_int = -14;

/// Something is lost or can't be promised: a record of which both copies are damaged, a sync that
/// failed, a file that was cut off while open, a page that the medium has no room for.
pub const KISSDB_LOG_ERROR: c_int = 1;
/// Something was wrong and is mended, or served all the same: a damaged copy whose twin is good, a
/// lost table, a user or a holder of the semaphore that died.
pub const KISSDB_LOG_WARNING: c_int = 2;
/// Recovery: that it began and why, that it ended and what it found.
pub const KISSDB_LOG_INFO: c_int = 3;

/// Slots of a hash table that can hold data.
pub const HASHTABLE_SLOT_COUNT: usize = 510;
/// First word of a hash table in the file.
pub const HASHTABLE_START_DELIMITER: u64 = 0x33333333;
/// Last word of a hash table.
pub const HASHTABLE_END_DELIMITER: u64 = 0xCCCCCCCC;
/// First word of a live block A.
pub const DATA_BLOCK_A_START_DELIMITER: u64 = 0x2AAAAAAA;
/// Last word of a live block A.
pub const DATA_BLOCK_A_END_DELIMITER: u64 = 0x55555555;
/// First word of a live block B.
pub const DATA_BLOCK_B_START_DELIMITER: u64 = 0xE38E38E3;
/// Last word of a live block B.
pub const DATA_BLOCK_B_END_DELIMITER: u64 = 0xAAAAAAA8;
/// First word of a deleted block A.
pub const DATA_BLOCK_A_DELETED_START_DELIMITER: u64 = 0xAAAAAAAA;
/// Last word of a deleted block A.
pub const DATA_BLOCK_A_DELETED_END_DELIMITER: u64 = 0xD5555555;
/// First word of a deleted block B.
pub const DATA_BLOCK_B_DELETED_START_DELIMITER: u64 = 0x7E07E07E;
/// Last word of a deleted block B.
pub const DATA_BLOCK_B_DELETED_END_DELIMITER: u64 = 0x81F81F81;

/// The header of a file, 64 of its 4096 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Header_s {
    /// `KdB`, 2, `.`, 3, `00`.
    pub KdB: [c_char; 8],
    /// 0, not read.
    pub checksum: u64,
    /// 1 while open for writing, 0 after a clean close.
    pub closeFailed: u64,
    /// 0 while open for writing, 1 after a clean close.
    pub closeOk: u64,
    /// Slots in use in each hash table.
    pub hash_table_size: u64,
    /// Size of a key in bytes.
    pub key_size: u64,
    /// Size of a value in bytes.
    pub value_size: u64,
    /// 0.
    pub delimiter: u64,
}

/// A slot: offsets of the blocks in the file, and which of them is current (0: A).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Hashtable_slot_s {
    /// Of block A in bytes; negative if the record is deleted, 0 if there is none.
    pub offsetA: i64,
    /// Of block B, likewise.
    pub offsetB: i64,
    /// 0 if block A holds the value, else block B.
    pub current: u64,
}

/// A hash table.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Hashtable_s {
    /// HASHTABLE_START_DELIMITER.
    pub delimStart: u64,
    /// pcoCrc32 of the slots.
    pub crc: u64,
    /// 510 for data; offsetA of the last is the offset of the next table.
    pub slots: [Hashtable_slot_s; 511],
    /// HASHTABLE_END_DELIMITER.
    pub delimEnd: u64,
}

/// One of the two copies of a record.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct DataBlock_s {
    /// DATA_BLOCK_*_START_DELIMITER.
    pub delimStart: u64,
    /// pcoCrc32 from key on, over key size + 4 + value size + 8 bytes of the file's sizes.
    pub crc: u64,
    /// Ends with a NUL, zeros behind it.
    pub key: [c_char; 128],
    /// Size of the value in bytes.
    pub valSize: u32,
    /// Zeros behind its end.
    pub value: [c_char; 8028],
    /// Number of the table that has this record's slot.
    pub htNum: u64,
    /// DATA_BLOCK_*_END_DELIMITER.
    pub delimEnd: u64,
}

/// What the users of a database share, at the start of its `-shm-info` object.
#[repr(C)]
pub struct Shared_Data_s {
    /// The library's.
    pub htShmSize: u64,
    /// The library's.
    pub htNum: u16,
    /// Living handles that were opened with kdbSem set; the caller counts.
    pub refCount: u16,
    /// The strongest KISSDB_OPEN_MODE_* among the users.
    pub openMode: u16,
    /// The KISSDB_WRITE_MODE_* of the first user.
    pub writeMode: u16,
    /// Whether the caller's write cache exists.
    pub cacheCreated: Kdb_bool,
    /// For Kdb_wrlock, Kdb_rdlock and Kdb_unlock only.
    pub rwlock: libc::pthread_rwlock_t,
    /// The caller's (2019); the library does not touch it.
    pub mutex: libc::pthread_mutex_t,
    /// Whether `mutex` is initialised; the caller's.
    pub mutexInit: Kdb_bool,
    /// The library's.
    pub mappedDbSize: u64,
}

/// Belongs to the caller.
#[repr(C)]
pub struct qhasharr_s {
    _private: [u8; 0],
}

/// A handle. The caller zeroes it before the first open; KISSDB_close leaves it as new.
#[repr(C)]
pub struct KISSDB {
    /// Slots of each hash table, from the file.
    pub htSize: u16,
    /// Size of a key in bytes, from the file.
    pub keySize: u64,
    /// Size of a value in bytes, from the file.
    pub valSize: u64,
    /// Size of a hash table in bytes.
    pub htSizeBytes: u64,
    /// The library's.
    pub htMappedSize: u64,
    /// The library's.
    pub dbMappedSize: u64,
    /// The library's.
    pub shmCreator: Kdb_bool,
    /// Kdb_true while open.
    pub alreadyOpen: Kdb_bool,
    /// The library's: no pointer that may be followed.
    pub hashTables: *mut Hashtable_s,
    /// The library's.
    pub mappedDb: *mut c_char,
    /// The caller's write cache.
    pub sharedCache: *mut c_void,
    /// The shared object's descriptor; the library's.
    pub sharedFd: c_int,
    /// The -ht object's descriptor; the library's.
    pub htFd: c_int,
    /// The caller's; -1 after open and after close.
    pub sharedCacheFd: c_int,
    /// The caller's, malloc memory; freed by KISSDB_close.
    pub semName: *mut c_char,
    /// The library's.
    pub sharedName: *mut c_char,
    /// Name for the caller's write cache; made by KISSDB_open, freed by KISSDB_close.
    pub cacheName: *mut c_char,
    /// The library's.
    pub htName: *mut c_char,
    /// What the users share; valid until KISSDB_close.
    pub shared: *mut Shared_Data_s,
    /// The caller's.
    pub tbl: [*mut qhasharr_s; 1],
    /// The caller's semaphore; posted and closed by KISSDB_close.
    pub kdbSem: *mut libc::sem_t,
    /// The database file: fdatasync(fd) makes everything answered so far durable.
    pub fd: c_int,
}

/// A position in a database.
#[repr(C)]
#[derive(Debug)]
pub struct KISSDB_Iterator {
    /// The database.
    pub db: *mut KISSDB,
    /// The library's.
    pub h_no: c_ulong,
    /// The library's.
    pub h_idx: c_ulong,
}

macro_rules! layout {
    ($type:ty, $size:expr, $($field:ident $offset:expr),*) => {
        const _: () = {
            assert!(size_of::<$type>() == $size);
            $(assert!(std::mem::offset_of!($type, $field) == $offset);)*
        };
    };
}

layout!(KISSDB, 160, htSize 0, keySize 8, valSize 16, htSizeBytes 24, htMappedSize 32, dbMappedSize 40,
    shmCreator 48, alreadyOpen 50, hashTables 56, mappedDb 64, sharedCache 72, sharedFd 80, htFd 84,
    sharedCacheFd 88, semName 96, sharedName 104, cacheName 112, htName 120, shared 128, tbl 136,
    kdbSem 144, fd 152);
/// 40 bytes on x86-64, 48 on aarch64.
const MUTEX: usize = size_of::<libc::pthread_mutex_t>();
layout!(Shared_Data_s, 96 + MUTEX, htShmSize 0, htNum 8, refCount 10, openMode 12, writeMode 14, cacheCreated 16,
    rwlock 24, mutex 80, mutexInit 80 + MUTEX, mappedDbSize 88 + MUTEX);
// What callers see of it is what the library shares.
const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<Shared>() == size_of::<Shared_Data_s>());
    assert!(offset_of!(Shared, callers) == offset_of!(Shared_Data_s, rwlock));
    assert!(offset_of!(Shared, mapped_db_size) == offset_of!(Shared_Data_s, mappedDbSize));
};
layout!(KISSDB_Iterator, 24, db 0, h_no 8, h_idx 16);
layout!(Header_s, 64, KdB 0, checksum 8, closeFailed 16, closeOk 24, hash_table_size 32, key_size 40,
    value_size 48, delimiter 56);
layout!(Hashtable_s, 12288, delimStart 0, crc 8, slots 16, delimEnd 12280);
layout!(DataBlock_s, 8192, delimStart 0, crc 8, key 16, valSize 144, value 148, htNum 8176, delimEnd 8184);
