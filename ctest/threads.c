/*
 * Threads of one process: on one handle that they share, on a handle each, and while another thread
 * opens and closes; no lock but the library's own.
 */
#include "check.h"

#include <pthread.h>

enum { THREADS = 4 };

static KISSDB common;
static int turns;
static const char *path;

static void add_one(KISSDB *db, const char *key) {
    int32_t done;
    int n = 0;
    uint32_t size;
    int answer = KISSDB_get(db, key, &n, sizeof n, &size);
    CHECK(answer == 1 || (answer == 0 && size == sizeof n));
    n++;
    CHECK_EQ(KISSDB_put(db, key, &n, sizeof n, &done), 0);
    CHECK_EQ(done, sizeof n);
}

static void work(KISSDB *db, int who) {
    char key[129], value[8028];
    KISSDB_Iterator it;
    for (int n = 0; n < turns; n++) {
        int32_t done;
        uint32_t size;
        snprintf(key, sizeof key, "thread %d", who);
        add_one(db, key);
        /* A value of one byte over and over: whoever wrote it, it is whole. */
        int length = 1 + (who * 1000 + n * 13) % 8000;
        memset(value, 'a' + who, (size_t)length);
        CHECK_EQ(KISSDB_put(db, "common", value, length, &done), 0);
        CHECK_EQ(KISSDB_get(db, "common", value, sizeof value, &size), 0);
        for (uint32_t i = 1; i < size; i++)
            CHECK_EQ(value[i], value[0]);
        if (n % 20 == 0) {
            int mine = 0;
            KISSDB_Iterator_init(db, &it);
            while (KISSDB_Iterator_next(&it, key, value) == 1)
                mine += atoi(key + 7) == who && strncmp(key, "thread ", 7) == 0;
            CHECK_EQ(mine, 1);
        }
    }
}

static void *on_common(void *who) {
    work(&common, (int)(size_t)who);
    return NULL;
}

static void *on_own(void *who) {
    KISSDB db;
    open_plain(&db, path, KISSDB_OPEN_MODE_RDWR);
    work(&db, (int)(size_t)who);
    CHECK_EQ(KISSDB_close(&db), 0);
    return NULL;
}

static void *opens_and_closes(void *unused) {
    (void)unused;
    for (int n = 0; n < turns; n++) {
        KISSDB db;
        open_plain(&db, path, n % 2 ? KISSDB_OPEN_MODE_RDWR : KISSDB_OPEN_MODE_RDONLY);
        CHECK_STR(get_text(&db, "fixed"), "value");
        CHECK_EQ(KISSDB_close(&db), 0);
    }
    return NULL;
}

static void *locks_and_adds(void *db) {
    for (int n = 0; n < turns; n++) {
        Kdb_wrlock(&((KISSDB *)db)->shared->rwlock);
        add_one((KISSDB *)db, "under the lock");
        Kdb_unlock(&((KISSDB *)db)->shared->rwlock);
    }
    return NULL;
}

static void check_counts(KISSDB *db, int want) {
    char key[32];
    for (int i = 0; i < THREADS; i++) {
        int n;
        uint32_t size;
        snprintf(key, sizeof key, "thread %d", i);
        CHECK_EQ(KISSDB_get(db, key, &n, sizeof n, &size), 0);
        CHECK_EQ(n, want);
    }
}

static void run(void *(*f)(void *), void *(*beside)(void *)) {
    pthread_t threads[THREADS + 1];
    for (size_t i = 0; i < THREADS; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, f, (void *)i), 0);
    if (beside != NULL)
        CHECK_EQ(pthread_create(&threads[THREADS], NULL, beside, NULL), 0);
    for (size_t i = 0; i < THREADS + (beside != NULL); i++)
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
}

/* Closing waits for the calls in flight; what comes later is told that it is closed. */
static int go_on;

static void *gets_until_closed(void *unused) {
    (void)unused;
    char value[8028];
    uint32_t size;
    int answer;
    __atomic_add_fetch(&go_on, 1, __ATOMIC_SEQ_CST);
    while ((answer = KISSDB_get(&common, "fixed", value, sizeof value, &size)) == 0)
        CHECK(size == 5 && memcmp(value, "value", 5) == 0);
    CHECK_EQ(answer, KISSDB_ERROR_INVALID_PARAMETERS);
    return NULL;
}

static void closed_under_way(void) {
    for (int n = 0; n < rounds(40); n++) {
        pthread_t threads[2];
        go_on = 0;
        for (int i = 0; i < 2; i++)
            CHECK_EQ(pthread_create(&threads[i], NULL, gets_until_closed, NULL), 0);
        while (__atomic_load_n(&go_on, __ATOMIC_SEQ_CST) < 2)
            sleep_ms(1);
        CHECK_EQ(KISSDB_close(&common), 0);
        for (int i = 0; i < 2; i++)
            CHECK_EQ(pthread_join(threads[i], NULL), 0);
        open_plain(&common, path, KISSDB_OPEN_MODE_RDWR);
    }
}

int main(void) {
    begin(200);
    turns = rounds(200);
    path = strdup(at("threads.db"));
    open_plain(&common, path, KISSDB_OPEN_MODE_RWCREAT);
    put_text(&common, "fixed", "value");

    run(on_common, NULL);
    check_counts(&common, turns);
    run(on_own, opens_and_closes);
    check_counts(&common, 2 * turns);
    run(on_common, opens_and_closes);
    check_counts(&common, 3 * turns);

    /* Two handles and the callers' lock. */
    KISSDB second;
    open_plain(&second, path, KISSDB_OPEN_MODE_RDWR);
    pthread_t threads[2];
    CHECK_EQ(pthread_create(&threads[0], NULL, locks_and_adds, &common), 0);
    CHECK_EQ(pthread_create(&threads[1], NULL, locks_and_adds, &second), 0);
    CHECK_EQ(pthread_join(threads[0], NULL), 0);
    CHECK_EQ(pthread_join(threads[1], NULL), 0);
    int n;
    uint32_t size;
    CHECK_EQ(KISSDB_get(&common, "under the lock", &n, sizeof n, &size), 0);
    CHECK_EQ(n, 2 * turns);
    CHECK_EQ(KISSDB_close(&second), 0);

    closed_under_way();
    CHECK_EQ(KISSDB_close(&common), 0);
    free((void *)path);
    return end();
}
