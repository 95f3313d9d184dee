/*
 * KISSDB 2.3: a file of keys and values that loses nothing and hangs nobody.
 * SPDX-License-Identifier: MPL-2.0
 *
 * Made from the Rust source by cbindgen: change src/capi, then run
 *     KISSDB_BLESS=1 cargo test --test header
 *
 * Every call checks its pointers (NULL: KISSDB_ERROR_INVALID_PARAMETERS) and prints nothing;
 * kissdb_set_log tells of recovery and damage. All of them may be used by any number of threads and
 * processes at the same time, with or without Kdb_wrlock around them. Buffers belong to the caller;
 * the library keeps no pointer to them. Sizes are bytes. Link with: pkg-config --cflags --libs kissdb
 */

#ifndef KISSDB_H
#define KISSDB_H

#include <pthread.h>
#include <semaphore.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#if defined(__SIZEOF_PTHREAD_RWLOCK_T) && !defined(__USE_UNIX98) && !defined(__USE_XOPEN2K)
/* -std=c99 without _XOPEN_SOURCE or the like: glibc leaves this type out. */
typedef union {
    char kissdb_size[__SIZEOF_PTHREAD_RWLOCK_T];
    long kissdb_align;
} pthread_rwlock_t;
#endif

/* Longest key of a settings database, with its NUL, and largest value. */
#ifndef PERS_DB_MAX_LENGTH_KEY_NAME
#define PERS_DB_MAX_LENGTH_KEY_NAME 128
#endif
#ifndef PERS_DB_MAX_SIZE_KEY_DATA
#define PERS_DB_MAX_SIZE_KEY_DATA 8028
#endif

/* Belongs to the caller, who may make it a typedef. */
struct qhasharr_s;

/** Version of the file format. */
#define KISSDB_MAJOR_VERSION 2

/** Version of the file format, behind the dot. */
#define KISSDB_MINOR_VERSION 3

/** The file must exist and is never written. */
#define KISSDB_OPEN_MODE_RDONLY 1

/** The file must exist. */
#define KISSDB_OPEN_MODE_RDWR 2

/** The file is made (0666 less the umask) if there is none. */
#define KISSDB_OPEN_MODE_RWCREAT 3

/** The file is emptied or made; KISSDB_ERROR_ACCESS_VIOLATION while others have it open. */
#define KISSDB_OPEN_MODE_RWREPLACE 4

/** Write through: the caller calls fdatasync(db->fd) after its changes. */
#define KISSDB_WRITE_MODE_WT 5

/** The caller caches. */
#define KISSDB_WRITE_MODE_WC 6

/** The end: there are no more entries. */
#define KISSDB_ITERATOR_NEXT_ITEM_NOT_FOUND 0

/** Key and value are those of the next entry. */
#define KISSDB_ITERATOR_NEXT_ITEM_FOUND 1

/** Not answered by this library. */
#define KISSDB_ITERATOR_DELETED_ITEM 2

/** I/O error or disk full; errno tells. */
#define KISSDB_ERROR_IO (-1)

/** Out of memory. */
#define KISSDB_ERROR_MALLOC (-2)

/** An argument is out of range, or the handle is not open. */
#define KISSDB_ERROR_INVALID_PARAMETERS (-3)

/** Not a database, or a record whose two copies are damaged. */
#define KISSDB_ERROR_CORRUPT_DBFILE (-4)

/** The handle is read-only, or the database is in use. */
#define KISSDB_ERROR_ACCESS_VIOLATION (-5)

/** A shared object could not be opened or may not be trusted. */
#define KISSDB_ERROR_OPEN_SHM (-7)

/** Not answered by this library. */
#define KISSDB_ERROR_REMAP_SHM (-8)

/** A shared object could not be mapped. */
#define KISSDB_ERROR_MAP_SHM (-9)

/** /dev/shm is full. */
#define KISSDB_ERROR_RESIZE_SHM (-10)

/** Not answered by this library. */
#define KISSDB_ERROR_CLOSE_SHM (-11)

/** The file has another version of the format. */
#define KISSDB_ERROR_WRONG_DATABASE_VERSION (-12)

/** Not answered by this library: a buffer that is too small is left alone. */
#define KISSDB_ERROR_WRONG_BUFSIZE (-13)

/** Not answered by this library: dead users are found and uncounted. */
#define KISSDB_ERROR_APPCRASH (-14)

/**
 * Something is lost or can't be promised: a record of which both copies are damaged, a sync that
 * failed, a file that was cut off while open, a page that the medium has no room for.
 */
#define KISSDB_LOG_ERROR 1

/**
 * Something was wrong and is mended, or served all the same: a damaged copy whose twin is good, a
 * lost table, a user or a holder of the semaphore that died.
 */
#define KISSDB_LOG_WARNING 2

/** Recovery: that it began and why, that it ended and what it found. */
#define KISSDB_LOG_INFO 3

/** Slots of a hash table that can hold data. */
#define HASHTABLE_SLOT_COUNT 510

/** First word of a hash table in the file. */
#define HASHTABLE_START_DELIMITER 0x33333333ULL

/** Last word of a hash table. */
#define HASHTABLE_END_DELIMITER 0xCCCCCCCCULL

/** First word of a live block A. */
#define DATA_BLOCK_A_START_DELIMITER 0x2AAAAAAAULL

/** Last word of a live block A. */
#define DATA_BLOCK_A_END_DELIMITER 0x55555555ULL

/** First word of a live block B. */
#define DATA_BLOCK_B_START_DELIMITER 0xE38E38E3ULL

/** Last word of a live block B. */
#define DATA_BLOCK_B_END_DELIMITER 0xAAAAAAA8ULL

/** First word of a deleted block A. */
#define DATA_BLOCK_A_DELETED_START_DELIMITER 0xAAAAAAAAULL

/** Last word of a deleted block A. */
#define DATA_BLOCK_A_DELETED_END_DELIMITER 0xD5555555ULL

/** First word of a deleted block B. */
#define DATA_BLOCK_B_DELETED_START_DELIMITER 0x7E07E07EULL

/** Last word of a deleted block B. */
#define DATA_BLOCK_B_DELETED_END_DELIMITER 0x81F81F81ULL

/** int16_t; Kdb_true is -1. */
typedef int16_t Kdb_bool;

/** A slot: offsets of the blocks in the file, and which of them is current (0: A). */
typedef struct Hashtable_slot_s {
    /** Of block A in bytes; negative if the record is deleted, 0 if there is none. */
    int64_t offsetA;
    /** Of block B, likewise. */
    int64_t offsetB;
    /** 0 if block A holds the value, else block B. */
    uint64_t current;
} Hashtable_slot_s;

/** A hash table. */
typedef struct Hashtable_s {
    /** HASHTABLE_START_DELIMITER. */
    uint64_t delimStart;
    /** pcoCrc32 of the slots. */
    uint64_t crc;
    /** 510 for data; offsetA of the last is the offset of the next table. */
    struct Hashtable_slot_s slots[511];
    /** HASHTABLE_END_DELIMITER. */
    uint64_t delimEnd;
} Hashtable_s;

/** What the users of a database share, at the start of its -shm-info object. */
typedef struct Shared_Data_s {
    /** The library's. */
    uint64_t htShmSize;
    /** The library's. */
    uint16_t htNum;
    /** Living handles that were opened with kdbSem set; the caller counts. */
    uint16_t refCount;
    /** The strongest KISSDB_OPEN_MODE_* among the users. */
    uint16_t openMode;
    /** The KISSDB_WRITE_MODE_* of the first user. */
    uint16_t writeMode;
    /** Whether the caller's write cache exists. */
    Kdb_bool cacheCreated;
    /** For Kdb_wrlock, Kdb_rdlock and Kdb_unlock only. */
    pthread_rwlock_t rwlock;
    /** The caller's (2019); the library does not touch it. */
    pthread_mutex_t mutex;
    /** Whether mutex is initialised; the caller's. */
    Kdb_bool mutexInit;
    /** The library's. */
    uint64_t mappedDbSize;
} Shared_Data_s;

/** A handle. The caller zeroes it before the first open; KISSDB_close leaves it as new. */
typedef struct KISSDB {
    /** Slots of each hash table, from the file. */
    uint16_t htSize;
    /** Size of a key in bytes, from the file. */
    uint64_t keySize;
    /** Size of a value in bytes, from the file. */
    uint64_t valSize;
    /** Size of a hash table in bytes. */
    uint64_t htSizeBytes;
    /** The library's. */
    uint64_t htMappedSize;
    /** The library's. */
    uint64_t dbMappedSize;
    /** The library's. */
    Kdb_bool shmCreator;
    /** Kdb_true while open. */
    Kdb_bool alreadyOpen;
    /** The library's: no pointer that may be followed. */
    struct Hashtable_s *hashTables;
    /** The library's. */
    char *mappedDb;
    /** The caller's write cache. */
    void *sharedCache;
    /** The shared object's descriptor; the library's. */
    int sharedFd;
    /** The -ht object's descriptor; the library's. */
    int htFd;
    /** The caller's; -1 after open and after close. */
    int sharedCacheFd;
    /** The caller's, malloc memory; freed by KISSDB_close. */
    char *semName;
    /** The library's. */
    char *sharedName;
    /** Name for the caller's write cache; made by KISSDB_open, freed by KISSDB_close. */
    char *cacheName;
    /** The library's. */
    char *htName;
    /** What the users share; valid until KISSDB_close. */
    struct Shared_Data_s *shared;
    /** The caller's. */
    struct qhasharr_s *tbl[1];
    /** The caller's semaphore; posted and closed by KISSDB_close. */
    sem_t *kdbSem;
    /** The database file: fdatasync(fd) makes everything answered so far durable. */
    int fd;
} KISSDB;

/** A position in a database. */
typedef struct KISSDB_Iterator {
    /** The database. */
    struct KISSDB *db;
    /** The library's. */
    unsigned long h_no;
    /** The library's. */
    unsigned long h_idx;
} KISSDB_Iterator;

/**
 * Receives a message: context as it was given, KISSDB_LOG_*, and one line of text without an end
 * of line, which the library frees when the callback returns.
 */
typedef void (*kissdb_log_callback)(void *context, int level, const char *message);

/** The header of a file, 64 of its 4096 bytes. */
typedef struct Header_s {
    /** KdB, 2, ., 3, 00. */
    char KdB[8];
    /** 0, not read. */
    uint64_t checksum;
    /** 1 while open for writing, 0 after a clean close. */
    uint64_t closeFailed;
    /** 0 while open for writing, 1 after a clean close. */
    uint64_t closeOk;
    /** Slots in use in each hash table. */
    uint64_t hash_table_size;
    /** Size of a key in bytes. */
    uint64_t key_size;
    /** Size of a value in bytes. */
    uint64_t value_size;
    /** 0. */
    uint64_t delimiter;
} Header_s;

/** One of the two copies of a record. */
typedef struct DataBlock_s {
    /** DATA_BLOCK_*_START_DELIMITER. */
    uint64_t delimStart;
    /** pcoCrc32 from key on, over key size + 4 + value size + 8 bytes of the file's sizes. */
    uint64_t crc;
    /** Ends with a NUL, zeros behind it. */
    char key[128];
    /** Size of the value in bytes. */
    uint32_t valSize;
    /** Zeros behind its end. */
    char value[8028];
    /** Number of the table that has this record's slot. */
    uint64_t htNum;
    /** DATA_BLOCK_*_END_DELIMITER. */
    uint64_t delimEnd;
} DataBlock_s;

/** Yes. */
#define Kdb_true (-1)

/** No. */
#define Kdb_false 0

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Opens a database.
 *
 * db: zeroed before its first use; a handle that is open already is left as it is and 0 is
 * answered. path: of the file. openMode: KISSDB_OPEN_MODE_*. writeMode: any number, kept for
 * callers. hash_table_size (slots, 1 to 510), key_size (bytes, 1 to 128), value_size (bytes,
 * 1 to 8028): for a new file; those of an existing file win.
 *
 * Answers 0 or a KISSDB_ERROR_*: INVALID_PARAMETERS, IO (errno tells), CORRUPT_DBFILE,
 * ACCESS_VIOLATION (RWREPLACE while others use it), WRONG_DATABASE_VERSION, OPEN_SHM, MAP_SHM,
 * RESIZE_SHM. After an error nothing stays locked; if db->kdbSem was set, cleanKdbStruct gives the
 * rest back. A database that was not closed is recovered.
 *
 * Requires: db points to a KISSDB whose kdbSem is NULL or came from sem_open; path is a C string.
 */
int KISSDB_open(struct KISSDB *db,
                const char *path,
                int openMode,
                int writeMode,
                uint16_t hash_table_size,
                uint64_t key_size,
                uint64_t value_size);

/**
 * Closes a database and makes db as new.
 *
 * Calls in flight on this handle end first; later ones get INVALID_PARAMETERS. The last user
 * leaves a clean file on the medium and no shared objects. db->kdbSem is posted and closed, and
 * removed by the last user; db->semName is freed.
 *
 * Answers 0; IO if something could not be made durable: everything is released, and the next open
 * recovers; INVALID_PARAMETERS if it is not open.
 *
 * Requires: db is NULL or points to a KISSDB.
 */
int KISSDB_close(struct KISSDB *db);

/**
 * Gives back what a failed KISSDB_open left because db->kdbSem was set: posts and closes the
 * semaphore, removes it if nobody else uses the database, and makes db as new. db->semName stays
 * the caller's. Does nothing if db->shared is NULL; an open database is not touched.
 *
 * Requires: db is NULL or points to a KISSDB.
 */
void cleanKdbStruct(struct KISSDB *db);

/**
 * Reads a value.
 *
 * key: a C string. vbuf: room for bufsize bytes, or NULL with 0 to ask for the size.
 * vsize: receives the size of the value in bytes. The value is copied only if it fits.
 *
 * Answers 0; 1 if there is no such key; CORRUPT_DBFILE if both copies are damaged; IO;
 * INVALID_PARAMETERS.
 *
 * Requires: db points to a KISSDB, key to a C string, vbuf to bufsize bytes, vsize to a number.
 */
int KISSDB_get(struct KISSDB *db, const void *key, void *vbuf, uint32_t bufsize, uint32_t *vsize);

/**
 * Sets the value of a key.
 *
 * key: a C string of 1 to 127 bytes. value: valueSize bytes, at most the value size of the
 * file; NULL with 0. bytesWritten: receives valueSize, or 0 on an error; may be NULL.
 *
 * Answers 0; INVALID_PARAMETERS; ACCESS_VIOLATION on a read-only handle; IO (disk full, errno
 * tells): the database is unchanged.
 *
 * Requires: db points to a KISSDB, key to a C string, value to valueSize bytes.
 */
int KISSDB_put(struct KISSDB *db,
               const void *key,
               const void *value,
               int valueSize,
               int32_t *bytesWritten);

/**
 * Deletes a key.
 *
 * bytesDeleted: receives 0, or -1310723 if there is no such key; may be NULL.
 *
 * Answers 0; 1 if there is no such key; INVALID_PARAMETERS; ACCESS_VIOLATION; IO.
 *
 * Requires: db points to a KISSDB, key to a C string.
 */
int KISSDB_delete(struct KISSDB *db, const void *key, int32_t *bytesDeleted);

/**
 * Begins an iteration. Put and delete are allowed meanwhile: each key that is there throughout
 * comes exactly once.
 *
 * Requires: db points to a KISSDB, dbi to a KISSDB_Iterator; NULL is left alone.
 */
void KISSDB_Iterator_init(struct KISSDB *db, struct KISSDB_Iterator *dbi);

/**
 * The next entry.
 *
 * kbuf: receives key size bytes, zeros behind the key. vbuf: receives value size bytes, zeros
 * behind the value; NULL if the value is not wanted.
 *
 * Answers KISSDB_ITERATOR_NEXT_ITEM_FOUND (1), NEXT_ITEM_NOT_FOUND (0) at the end, or an error.
 * Deleted and damaged entries are passed over.
 *
 * Requires: dbi came from KISSDB_Iterator_init and its database is open; the buffers have the sizes above.
 */
int KISSDB_Iterator_next(struct KISSDB_Iterator *dbi, void *kbuf, void *vbuf);

/**
 * The name of a shared object: /, the path with every byte that is no ASCII letter or digit
 * replaced by _, and tail ("-shm-info", "-ht", "-cache", "-sem").
 *
 * Answers malloc memory, which the caller frees; NULL if an argument is NULL or without memory.
 * Asked for "-sem", which callers do right before they wait for that semaphore, it waits itself as
 * long as the semaphore is taken by somebody alive (3 s at most), and posts it if its holder died.
 *
 * Requires: tail and path are C strings or NULL.
 */
char *kdbGetShmName(const char *tail, const char *path);

/**
 * Opens a shared object of length bytes, and makes it if there is none.
 *
 * shmCreator: receives Kdb_true if it was made now. Answers its descriptor, which the caller
 * closes with kdbShmemClose; -1 on an error.
 *
 * Requires: name is a C string, shmCreator points to a Kdb_bool; NULL is an error.
 */
int kdbShmemOpen(const char *name, size_t length, Kdb_bool *shmCreator);

/**
 * Maps length bytes of a shared object for reading and writing; (void*)-1 on an error.
 *
 * Requires: shmem is a descriptor of kdbShmemOpen.
 */
void *getKdbShmemPtr(int shmem, size_t length);

/**
 * Unmaps what getKdbShmemPtr answered. Kdb_true or Kdb_false.
 *
 * Requires: shmem_ptr and length are those of a getKdbShmemPtr, and nobody uses the memory any more.
 */
Kdb_bool freeKdbShmemPtr(void *shmem_ptr, size_t length);

/**
 * Closes a shared object and removes its name. Kdb_true or Kdb_false.
 *
 * Requires: shmem is a descriptor of kdbShmemOpen that is not used afterwards; shmName is its name.
 */
Kdb_bool kdbShmemClose(int shmem, const char *shmName);

/**
 * Takes the lock for writing. For shared->rwlock of an open database a dead owner is found out and
 * the lock taken from it; any other lock is treated as a plain pthread_rwlock_t.
 *
 * Requires: lock is NULL, shared->rwlock of an open database, or an initialised pthread_rwlock_t.
 */
void Kdb_wrlock(pthread_rwlock_t *lock);

/**
 * Takes the lock for reading, like Kdb_wrlock.
 *
 * Requires: As Kdb_wrlock.
 */
void Kdb_rdlock(pthread_rwlock_t *lock);

/**
 * Gives the lock back.
 *
 * Requires: As Kdb_wrlock; the caller holds the lock.
 */
void Kdb_unlock(pthread_rwlock_t *lock);

/**
 * Whether the directory part of path is a symbolic link: 1, and the path with the link resolved
 * in linkBuffer (256 bytes); else, or if the answer is too long, -1.
 *
 * Requires: path is a C string or NULL, linkBuffer has 256 bytes.
 */
int checkIsLink(const char *path, char *linkBuffer);

/**
 * The checksum of the file format over theSize bytes, continuing from crc (0 to begin). It is
 * not CRC-32.
 *
 * Requires: buf points to theSize bytes; NULL counts as none.
 */
unsigned int pcoCrc32(unsigned int crc, const unsigned char *buf, size_t theSize);

/**
 * Tells a callback of recovery and damage, in all databases of this process; without one the
 * library is silent.
 *
 * callback: takes the place of the one before; NULL for silence. context: handed to it. level:
 * KISSDB_LOG_ERROR, WARNING or INFO: that and the more important ones.
 *
 * A message is the file's path and what happened, with the offset in bytes and the key where they
 * are known. The callback runs in the thread whose call met it, right before that call returns; it
 * may use the library, which is not logged then, but what its caller holds, such as Kdb_wrlock, is
 * held. It may not throw or jump out. At a call of this function another thread may be inside the
 * old callback or about to enter it. Each call keeps some 60 bytes until the process ends.
 *
 * Answers 0; INVALID_PARAMETERS for another level; MALLOC.
 *
 * Requires: callback may be called from any thread with context until the process ends or no other
 * thread uses the library.
 */
int kissdb_set_log(kissdb_log_callback callback,
                   void *context,
                   int level);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* KISSDB_H */
