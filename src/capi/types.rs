//! The structs and numbers that callers see. Every offset is part of the ABI and asserted below.
#![allow(
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    missing_docs
)]

use std::ffi::{c_char, c_int, c_ulong, c_void};

/// int16_t; Kdb_true is -1.
pub type Kdb_bool = i16;
pub const Kdb_true: Kdb_bool = -1;
pub const Kdb_false: Kdb_bool = 0;

/// Version of the file format.
pub const KISSDB_MAJOR_VERSION: c_int = 2;
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

pub const KISSDB_ITERATOR_NEXT_ITEM_NOT_FOUND: c_int = 0;
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
pub const KISSDB_ERROR_REMAP_SHM: c_int = -8;
/// A shared object could not be mapped.
pub const KISSDB_ERROR_MAP_SHM: c_int = -9;
/// /dev/shm is full.
pub const KISSDB_ERROR_RESIZE_SHM: c_int = -10;
pub const KISSDB_ERROR_CLOSE_SHM: c_int = -11;
/// The file has another version of the format.
pub const KISSDB_ERROR_WRONG_DATABASE_VERSION: c_int = -12;
pub const KISSDB_ERROR_WRONG_BUFSIZE: c_int = -13;
/// Not answered by this library: dead users are found and uncounted.
pub const KISSDB_ERROR_APPCRASH: c_int = -14;

/// Slots of a hash table that can hold data.
pub const HASHTABLE_SLOT_COUNT: usize = 510;
pub const HASHTABLE_START_DELIMITER: u64 = 0x33333333;
pub const HASHTABLE_END_DELIMITER: u64 = 0xCCCCCCCC;
pub const DATA_BLOCK_A_START_DELIMITER: u64 = 0x2AAAAAAA;
pub const DATA_BLOCK_A_END_DELIMITER: u64 = 0x55555555;
pub const DATA_BLOCK_B_START_DELIMITER: u64 = 0xE38E38E3;
pub const DATA_BLOCK_B_END_DELIMITER: u64 = 0xAAAAAAA8;
pub const DATA_BLOCK_A_DELETED_START_DELIMITER: u64 = 0xAAAAAAAA;
pub const DATA_BLOCK_A_DELETED_END_DELIMITER: u64 = 0xD5555555;
pub const DATA_BLOCK_B_DELETED_START_DELIMITER: u64 = 0x7E07E07E;
pub const DATA_BLOCK_B_DELETED_END_DELIMITER: u64 = 0x81F81F81;

/// The header of a file, 64 of its 4096 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Header_s {
    pub KdB: [c_char; 8],
    pub checksum: u64,
    pub closeFailed: u64,
    pub closeOk: u64,
    pub hash_table_size: u64,
    pub key_size: u64,
    pub value_size: u64,
    pub delimiter: u64,
}

/// A slot: offsets of the blocks in the file, and which of them is current (0: A).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Hashtable_slot_s {
    pub offsetA: i64,
    pub offsetB: i64,
    pub current: u64,
}

/// A hash table.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Hashtable_s {
    pub delimStart: u64,
    pub crc: u64,
    pub slots: [Hashtable_slot_s; 511],
    pub delimEnd: u64,
}

/// One of the two copies of a record.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct DataBlock_s {
    pub delimStart: u64,
    pub crc: u64,
    pub key: [c_char; 128],
    pub valSize: u32,
    pub value: [c_char; 8028],
    pub htNum: u64,
    pub delimEnd: u64,
}

/// What the users of a database share, at the start of its `-shm-info` object.
#[repr(C)]
pub struct Shared_Data_s {
    pub htShmSize: u64,
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
    /// The caller's.
    pub mutex: libc::pthread_mutex_t,
    /// The caller's.
    pub mutexInit: Kdb_bool,
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
    pub htSizeBytes: u64,
    pub htMappedSize: u64,
    pub dbMappedSize: u64,
    pub shmCreator: Kdb_bool,
    /// Kdb_true while open.
    pub alreadyOpen: Kdb_bool,
    pub hashTables: *mut Hashtable_s,
    pub mappedDb: *mut c_char,
    /// The caller's write cache.
    pub sharedCache: *mut c_void,
    pub sharedFd: c_int,
    pub htFd: c_int,
    /// The caller's; -1 after open and after close.
    pub sharedCacheFd: c_int,
    /// The caller's, malloc memory; freed by KISSDB_close.
    pub semName: *mut c_char,
    pub sharedName: *mut c_char,
    /// Name for the caller's write cache; made by KISSDB_open, freed by KISSDB_close.
    pub cacheName: *mut c_char,
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
    pub db: *mut KISSDB,
    pub h_no: c_ulong,
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

#[cfg(target_pointer_width = "64")]
layout!(KISSDB, 160, htSize 0, keySize 8, valSize 16, htSizeBytes 24, htMappedSize 32, dbMappedSize 40,
    shmCreator 48, alreadyOpen 50, hashTables 56, mappedDb 64, sharedCache 72, sharedFd 80, htFd 84,
    sharedCacheFd 88, semName 96, sharedName 104, cacheName 112, htName 120, shared 128, tbl 136,
    kdbSem 144, fd 152);
#[cfg(target_pointer_width = "64")]
layout!(Shared_Data_s, 136, htShmSize 0, htNum 8, refCount 10, openMode 12, writeMode 14, cacheCreated 16,
    rwlock 24, mutex 80, mutexInit 120, mappedDbSize 128);
#[cfg(target_pointer_width = "64")]
layout!(KISSDB_Iterator, 24, db 0, h_no 8, h_idx 16);
layout!(Header_s, 64, KdB 0, checksum 8, closeFailed 16, closeOk 24, hash_table_size 32, key_size 40,
    value_size 48, delimiter 56);
layout!(Hashtable_s, 12288, delimStart 0, crc 8, slots 16, delimEnd 12280);
layout!(DataBlock_s, 8192, delimStart 0, crc 8, key 16, valSize 144, value 148, htNum 8176, delimEnd 8184);
