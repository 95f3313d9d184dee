/*
 * Both generations of the persistence middleware work as they stand: their semaphore, their counting
 * of users, their mutex, their write cache, which the last one of them writes back, and the names that
 * their own tests look for in /dev/shm.
 */
#include "check.h"
#include "middleware.h"

static void one_user(int generation) {
    Middleware m;
    const char *path = at("one.db");
    memset(&m, 0, sizeof m);
    m.generation = generation;
    for (int life = 0; life < 3; life++) {
        /* The same struct again and again; it was zeroed only once. */
        CHECK_EQ(mw_open(&m, path, KISSDB_OPEN_MODE_RWCREAT, KISSDB_WRITE_MODE_WT), 0);
        CHECK_EQ(m.db.shared->refCount, 1);
        CHECK_EQ(m.db.sharedCacheFd, -1);
        CHECK(object_exists(path, "-shm-info") && object_exists(path, "-ht") && object_exists(path, "-sem"));
        CHECK(!object_exists(path, "-cache"));
        if (life > 0)
            CHECK_STR(mw_get(&m, "life"), life == 1 ? "first" : "second");
        CHECK_EQ(mw_put(&m, "life", life == 0 ? "first" : "second"), 0);
        int value = -1;
        CHECK_EQ(sem_getvalue(m.db.kdbSem, &value), 0);
        CHECK_EQ(value, 1);
        CHECK_EQ(mw_close(&m), 0);
        CHECK(m.db.kdbSem == NULL && m.db.semName == NULL);
        CHECK(!object_exists(path, "-shm-info") && !object_exists(path, "-ht"));
        CHECK(!object_exists(path, "-sem") && !object_exists(path, "-cache"));
    }
    CHECK_EQ(remove(path), 0);
}

/* Several handles: the count is right at each step, the semaphore goes with the last. */
static void count(int generation) {
    static Middleware m[4];
    const char *path = at("count.db");
    memset(m, 0, sizeof m);
    for (int i = 0; i < 4; i++) {
        m[i].generation = generation;
        CHECK_EQ(mw_open(&m[i], path, KISSDB_OPEN_MODE_RWCREAT, KISSDB_WRITE_MODE_WT), 0);
        CHECK_EQ(m[0].db.shared->refCount, i + 1);
    }
    /* A user without the semaphore does not count, neither coming nor going. */
    KISSDB plain;
    open_plain(&plain, path, KISSDB_OPEN_MODE_RDWR);
    CHECK_EQ(m[0].db.shared->refCount, 4);
    put_text(&plain, "k", "v");
    CHECK_EQ(KISSDB_close(&plain), 0);
    CHECK_EQ(m[0].db.shared->refCount, 4);
    for (int i = 3; i >= 0; i--) {
        CHECK_STR(mw_get(&m[i], "k"), "v");
        CHECK(object_exists(path, "-sem"));
        CHECK_EQ(mw_close(&m[i]), 0);
        if (i > 0)
            CHECK_EQ(m[0].db.shared->refCount, i);
    }
    CHECK(!object_exists(path, "-sem"));
    CHECK_EQ(remove(path), 0);
}

/* Cached changes become part of the database at the last close, not before. */
static void cache(int generation) {
    static Middleware a, b;
    const char *path = at("cache.db");
    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    a.generation = b.generation = generation;
    CHECK_EQ(mw_open(&a, path, KISSDB_OPEN_MODE_RWCREAT, KISSDB_WRITE_MODE_WC), 0);
    CHECK_EQ(mw_put(&a, "deleted", "is there"), 0);
    CHECK_EQ(mw_open(&b, path, KISSDB_OPEN_MODE_RDWR, KISSDB_WRITE_MODE_WC), 0);
    CHECK_STR(b.db.cacheName, a.db.cacheName);
    mw_cached(&a, "from a", "1", 1);
    CHECK(object_exists(path, "-cache"));
    CHECK_EQ(b.db.shared->cacheCreated, Kdb_true);
    mw_cached(&b, "from b", "2", 1);
    mw_cached(&b, "from a", "3", 1);
    mw_cached(&a, "deleted", "", -1);
    CHECK(mw_get(&a, "from a") == NULL);
    CHECK_EQ(mw_close(&a), 0);
    CHECK(object_exists(path, "-cache"));
    CHECK_EQ(b.db.shared->refCount, 1);
    CHECK_EQ(mw_close(&b), 3);
    CHECK(!object_exists(path, "-cache") && !object_exists(path, "-shm-info"));

    KISSDB plain;
    uint32_t size;
    open_plain(&plain, path, KISSDB_OPEN_MODE_RDONLY);
    CHECK_STR(get_text(&plain, "from a"), "3");
    CHECK_STR(get_text(&plain, "from b"), "2");
    CHECK_EQ(KISSDB_get(&plain, "deleted", NULL, 0, &size), 1);
    CHECK_EQ(KISSDB_close(&plain), 0);
    CHECK_EQ(remove(path), 0);
}

/* The last closer may be one that opened read-only: it carries out what the others have cached. */
static void read_only_closer(int generation) {
    static Middleware writer, reader;
    int32_t n;
    const char *path = at("reader.db");
    memset(&writer, 0, sizeof writer);
    memset(&reader, 0, sizeof reader);
    writer.generation = reader.generation = generation;
    CHECK_EQ(mw_open(&writer, path, KISSDB_OPEN_MODE_RWCREAT, KISSDB_WRITE_MODE_WC), 0);
    CHECK_EQ(mw_put(&writer, "k", "v"), 0);
    CHECK_EQ(mw_open(&reader, path, KISSDB_OPEN_MODE_RDONLY, KISSDB_WRITE_MODE_WC), 0);
    CHECK_EQ(KISSDB_put(&reader.db, "k", "w", 1, &n), KISSDB_ERROR_ACCESS_VIOLATION);
    mw_cached(&writer, "k", "cached", 6);
    CHECK_EQ(mw_close(&writer), 0);
    CHECK(reader.db.shared->openMode != KISSDB_OPEN_MODE_RDONLY);
    CHECK_EQ(mw_close(&reader), 1);

    KISSDB plain;
    open_plain(&plain, path, KISSDB_OPEN_MODE_RDONLY);
    CHECK_STR(get_text(&plain, "k"), "cached");
    CHECK_EQ(KISSDB_close(&plain), 0);
    CHECK_EQ(remove(path), 0);
}

/* An open that fails gives everything back through cleanKdbStruct, also beside users. */
static void failed_open(int generation) {
    Middleware m, user;
    const char *path = at("failed.db");
    memset(&m, 0, sizeof m);
    memset(&user, 0, sizeof user);
    m.generation = user.generation = generation;
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(mw_open(&m, at("none.db"), KISSDB_OPEN_MODE_RDWR, KISSDB_WRITE_MODE_WT), KISSDB_ERROR_IO);
        CHECK(m.db.kdbSem == NULL && m.db.shared == NULL && m.db.alreadyOpen == Kdb_false);
        CHECK_EQ(objects_left(0), 0);
        CHECK_EQ(mw_open(&m, at("none.db"), 99, KISSDB_WRITE_MODE_WT), KISSDB_ERROR_INVALID_PARAMETERS);
        CHECK_EQ(objects_left(0), 0);
    }
    write_file(path, "no database at all", 18);
    CHECK_EQ(mw_open(&m, path, KISSDB_OPEN_MODE_RDWR, KISSDB_WRITE_MODE_WT), KISSDB_ERROR_CORRUPT_DBFILE);
    CHECK_EQ(objects_left(0), 0);
    CHECK_EQ(remove(path), 0);

    /* The step between: shared is what cleanKdbStruct goes by. */
    m.db.semName = kdbGetShmName("-sem", path);
    m.db.kdbSem = sem_open(m.db.semName, O_CREAT, 0644, 1);
    CHECK(m.db.kdbSem != SEM_FAILED);
    sem_t *second = sem_open(m.db.semName, 0);
    CHECK(second != SEM_FAILED);
    CHECK_EQ(mw_wait(&m), 0);
    CHECK_EQ(KISSDB_open(&m.db, path, KISSDB_OPEN_MODE_RDWR, KISSDB_WRITE_MODE_WT, SETTINGS), KISSDB_ERROR_IO);
    CHECK(m.db.shared != NULL && m.db.kdbSem != NULL);
    cleanKdbStruct(&m.db);
    CHECK(m.db.shared == NULL && m.db.kdbSem == NULL && m.db.semName != NULL);
    int value = -1;
    CHECK_EQ(sem_getvalue(second, &value), 0);
    CHECK_EQ(value, 1);
    CHECK(!object_exists(path, "-sem"));
    sem_close(second);
    free(m.db.semName);
    m.db.semName = NULL;

    /* Beside a user the semaphore stays; the user does not notice. */
    CHECK_EQ(mw_open(&user, path, KISSDB_OPEN_MODE_RWCREAT, KISSDB_WRITE_MODE_WT), 0);
    CHECK_EQ(mw_put(&user, "k", "v"), 0);
    CHECK_EQ(mw_open(&m, path, KISSDB_OPEN_MODE_RWREPLACE, KISSDB_WRITE_MODE_WT), KISSDB_ERROR_ACCESS_VIOLATION);
    CHECK(object_exists(path, "-sem"));
    CHECK_EQ(user.db.shared->refCount, 1);
    CHECK_EQ(sem_getvalue(user.db.kdbSem, &value), 0);
    CHECK_EQ(value, 1);
    CHECK_STR(mw_get(&user, "k"), "v");
    CHECK_EQ(mw_open(&m, path, KISSDB_OPEN_MODE_RDWR, KISSDB_WRITE_MODE_WT), 0);
    CHECK_EQ(user.db.shared->refCount, 2);
    CHECK_EQ(mw_close(&user), 0);
    CHECK_STR(mw_get(&m, "k"), "v");
    CHECK_EQ(mw_close(&m), 0);
    CHECK_EQ(remove(path), 0);
}

/* All users die with changes in the cache: the next one finds the cache and writes it back. */
static int *ready;
static int child_generation;

static void dies_with_cache(int i) {
    static Middleware m;
    m.generation = child_generation;
    CHECK_EQ(mw_open(&m, at("orphan.db"), KISSDB_OPEN_MODE_RWCREAT, KISSDB_WRITE_MODE_WC), 0);
    CHECK_EQ(mw_put(&m, "direct", "written"), 0);
    mw_cached(&m, i == 0 ? "cached 0" : "cached 1", "kept", 4);
    ready[i] = 1;
    for (;;)
        pause();
}

static void orphaned_cache(int generation) {
    static Middleware m;
    const char *path = at("orphan.db");
    memset(&m, 0, sizeof m);
    m.generation = child_generation = generation;
    ready[0] = ready[1] = 0;
    pid_t pids[2];
    for (int i = 0; i < 2; i++) {
        pids[i] = child(dies_with_cache, i);
        wait_for(&ready[i]);
    }
    end_child(pids[0]);
    end_child(pids[1]);
    CHECK(object_exists(path, "-shm-info") && object_exists(path, "-cache"));
    double start = now();
    CHECK_EQ(mw_open(&m, path, KISSDB_OPEN_MODE_RDWR, KISSDB_WRITE_MODE_WC), 0);
    CHECK(now() - start < 2);
    CHECK_EQ(m.db.shared->refCount, 1);
    CHECK_EQ(m.db.shared->cacheCreated, Kdb_true);
    CHECK_EQ(m.db.shared->writeMode, KISSDB_WRITE_MODE_WC);
    CHECK_STR(mw_get(&m, "direct"), "written");
    CHECK_EQ(mw_close(&m), 2);
    CHECK(!object_exists(path, "-shm-info") && !object_exists(path, "-cache") && !object_exists(path, "-sem"));

    KISSDB plain;
    open_plain(&plain, path, KISSDB_OPEN_MODE_RDONLY);
    CHECK_STR(get_text(&plain, "cached 0"), "kept");
    CHECK_STR(get_text(&plain, "cached 1"), "kept");
    CHECK_EQ(KISSDB_close(&plain), 0);
    CHECK_EQ(remove(path), 0);
}

/* One of two users dies: the count that the other reads inside its close is right all the same. */
static void dies(int i) {
    static Middleware m;
    m.generation = child_generation;
    CHECK_EQ(mw_open(&m, at("count.db"), KISSDB_OPEN_MODE_RWCREAT, KISSDB_WRITE_MODE_WC), 0);
    ready[i] = 1;
    for (;;)
        pause();
}

static void dead_user(int generation) {
    static Middleware m, late;
    const char *path = at("count.db");
    memset(&m, 0, sizeof m);
    memset(&late, 0, sizeof late);
    m.generation = late.generation = child_generation = generation;
    ready[0] = ready[1] = 0;
    CHECK_EQ(mw_open(&m, path, KISSDB_OPEN_MODE_RWCREAT, KISSDB_WRITE_MODE_WC), 0);
    pid_t first = child(dies, 0), second = child(dies, 1);
    wait_for(&ready[0]);
    wait_for(&ready[1]);
    CHECK_EQ(m.db.shared->refCount, 3);
    end_child(first);
    CHECK_EQ(mw_open(&late, path, KISSDB_OPEN_MODE_RDWR, KISSDB_WRITE_MODE_WC), 0);
    CHECK_EQ(late.db.shared->refCount, 3); /* m, second, late */
    CHECK_EQ(mw_close(&late), 0);
    mw_cached(&m, "k", "v", 1);
    end_child(second);
    CHECK_EQ(mw_close(&m), 1); /* the last user: writes back */
    CHECK(!object_exists(path, "-shm-info") && !object_exists(path, "-cache") && !object_exists(path, "-sem"));
    CHECK_EQ(remove(path), 0);
}

int main(void) {
    begin(120);
    ready = (int *)shared_memory(4096);
    for (int generation = 2015; generation <= 2019; generation += 4) {
        one_user(generation);
        count(generation);
        cache(generation);
        read_only_closer(generation);
        failed_open(generation);
        orphaned_cache(generation);
        dead_user(generation);
        CHECK_EQ(objects_left(0), 0);
    }
    return end();
}
