/*
 * How the persistence middleware calls the library, both of its generations: 2015, and 2019 with its
 * own mutex in the shared struct and a different order of unlocking. Include check.h first.
 */
#ifndef MIDDLEWARE_H
#define MIDDLEWARE_H

#include <pthread.h>
#include <semaphore.h>

/* The middleware's write cache: changes that reach the database at the last close. */
typedef struct qhasharr_s {
    int used;
    struct {
        char key[128];
        char value[256];
        int size; /* -1: to be deleted */
    } items[64];
} qhasharr_t;

typedef struct {
    KISSDB db;
    int generation; /* 2015 or 2019 */
} Middleware;

static inline void mw_lock_mutex(Middleware *m) {
    if (m->generation != 2019)
        return;
    Shared_Data_s *shared = m->db.shared;
    if (shared->mutexInit == Kdb_false) {
        pthread_mutexattr_t attr;
        CHECK_EQ(pthread_mutexattr_init(&attr), 0);
        CHECK_EQ(pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED), 0);
        CHECK_EQ(pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST), 0);
        CHECK_EQ(pthread_mutex_init(&shared->mutex, &attr), 0);
        shared->mutexInit = Kdb_true;
    }
    int answer = pthread_mutex_lock(&shared->mutex);
    if (answer == EOWNERDEAD)
        answer = pthread_mutex_consistent(&shared->mutex);
    CHECK_EQ(answer, 0);
}

static inline void mw_unlock_mutex(Middleware *m) {
    if (m->generation == 2019)
        CHECK_EQ(pthread_mutex_unlock(&m->db.shared->mutex), 0);
}

/* Waits for the semaphore, 5 s at most; goes on without it, as the middleware does. */
static inline int mw_wait(Middleware *m) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 5;
    int answer;
    while ((answer = sem_timedwait(m->db.kdbSem, &until)) != 0 && errno == EINTR) {
    }
    return answer;
}

/* The struct is zeroed once, before the first open, by the caller. */
static inline int mw_open(Middleware *m, const char *path, int mode, int write_mode) {
    KISSDB *db = &m->db;
    if (db->alreadyOpen == Kdb_false) {
        db->semName = kdbGetShmName("-sem", path);
        CHECK(db->semName != NULL);
        db->kdbSem = sem_open(db->semName, O_CREAT, 0644, 1);
        CHECK(db->kdbSem != SEM_FAILED);
    }
    mw_wait(m);
    int answer = KISSDB_open(db, path, mode, write_mode, SETTINGS);
    if (answer == 0) {
        mw_lock_mutex(m);
        db->shared->refCount++;
        sem_post(db->kdbSem);
        mw_unlock_mutex(m);
    } else {
        CHECK(answer != KISSDB_ERROR_APPCRASH);
        cleanKdbStruct(db);
        if (db->kdbSem != NULL)
            sem_post(db->kdbSem);
        free(db->semName);
        db->semName = NULL;
    }
    return answer;
}

static inline void mw_enter(Middleware *m) {
    mw_lock_mutex(m);
    Kdb_wrlock(&m->db.shared->rwlock);
}

static inline void mw_leave(Middleware *m) {
    if (m->db.shared->writeMode == KISSDB_WRITE_MODE_WT)
        fdatasync(m->db.fd);
    Kdb_unlock(&m->db.shared->rwlock);
    mw_unlock_mutex(m);
}

/* Maps the cache, and makes it if there is none. */
static inline qhasharr_t *mw_cache(Middleware *m) {
    KISSDB *db = &m->db;
    if (db->sharedCacheFd == -1) {
        Kdb_bool made = Kdb_false;
        db->sharedCacheFd = kdbShmemOpen(db->cacheName, sizeof(qhasharr_t), &made);
        CHECK(db->sharedCacheFd != -1);
        db->sharedCache = getKdbShmemPtr(db->sharedCacheFd, sizeof(qhasharr_t));
        CHECK(db->sharedCache != (void *)-1);
        if (made == Kdb_true) {
            memset(db->sharedCache, 0, sizeof(qhasharr_t));
            db->shared->cacheCreated = Kdb_true;
        }
        db->tbl[0] = (qhasharr_t *)db->sharedCache;
    }
    return db->tbl[0];
}

/* A change into the cache; size -1 deletes. */
static inline void mw_cached(Middleware *m, const char *key, const char *value, int size) {
    mw_enter(m);
    qhasharr_t *cache = mw_cache(m);
    int i = 0;
    while (i < cache->used && strcmp(cache->items[i].key, key) != 0)
        i++;
    CHECK(i < 64);
    snprintf(cache->items[i].key, sizeof cache->items[i].key, "%s", key);
    memcpy(cache->items[i].value, value, size > 0 ? (size_t)size : 0);
    cache->items[i].size = size;
    if (i == cache->used)
        cache->used++;
    mw_leave(m);
}

static inline int mw_put(Middleware *m, const char *key, const char *text) {
    int32_t written = 0;
    mw_enter(m);
    int answer = KISSDB_put(&m->db, key, text, (int)strlen(text), &written);
    mw_leave(m);
    return answer;
}

/* The value as a string; NULL if there is no such key. */
static inline const char *mw_get(Middleware *m, const char *key) {
    static char text[8029];
    uint32_t size = 0;
    mw_enter(m);
    int answer = KISSDB_get(&m->db, key, text, 8028, &size);
    mw_leave(m);
    CHECK(answer == 0 || answer == 1);
    text[size] = '\0';
    return answer == 0 ? text : NULL;
}

/* Everything in the cache goes into the database; how many changes. */
static inline int mw_write_back(Middleware *m) {
    KISSDB *db = &m->db;
    int32_t n;
    qhasharr_t *cache = mw_cache(m);
    int changes = cache->used;
    for (int i = 0; i < changes; i++)
        if (cache->items[i].size < 0)
            CHECK(KISSDB_delete(db, cache->items[i].key, &n) >= 0);
        else
            CHECK_EQ(KISSDB_put(db, cache->items[i].key, cache->items[i].value, cache->items[i].size, &n), 0);
    CHECK_EQ(freeKdbShmemPtr(db->sharedCache, sizeof(qhasharr_t)), Kdb_true);
    CHECK_EQ(kdbShmemClose(db->sharedCacheFd, db->cacheName), Kdb_true);
    db->sharedCache = NULL;
    db->sharedCacheFd = -1;
    db->tbl[0] = NULL;
    return changes;
}

/* Closes; how many cached changes were written back. */
static inline int mw_close(Middleware *m) {
    KISSDB *db = &m->db;
    int changes = 0;
    mw_lock_mutex(m);
    mw_wait(m);
    Kdb_wrlock(&db->shared->rwlock);
    if (db->shared->refCount > 0)
        db->shared->refCount--;
    if (db->shared->refCount == 0 && db->shared->cacheCreated != Kdb_false) {
        changes = mw_write_back(m);
    } else if (db->sharedCacheFd != -1) {
        freeKdbShmemPtr(db->sharedCache, sizeof(qhasharr_t));
        close(db->sharedCacheFd);
    }
    Kdb_unlock(&db->shared->rwlock);
    mw_unlock_mutex(m);
    CHECK_EQ(KISSDB_close(db), 0);
    return changes;
}

#endif
