/*
 * Four processes on one database, with the middleware's locking and without any: nothing gets lost,
 * counters add up. A process that is killed, at random moments, with the lock, inside a put, with the
 * semaphore: the others go on within a second, and what it was answered is there. Handles across fork.
 */
#include "check.h"
#include "middleware.h"

enum { PROCESSES = 4 };

static struct {
    int ready;
    int go;
    long answered[PROCESSES];
    int from_handle;
} *shared;

static int turns;

static void put_number(KISSDB *db, const char *key, long n) {
    char text[300];
    int32_t written;
    snprintf(text, sizeof text, "%ld", n);
    memset(text + strlen(text) + 1, 'x', sizeof text - strlen(text) - 1);
    CHECK_EQ(KISSDB_put(db, key, text, (int)(100 + n % 200), &written), 0);
}

static long get_number(KISSDB *db, const char *key) {
    char text[300];
    uint32_t size = 0;
    int answer = KISSDB_get(db, key, text, sizeof text, &size);
    if (answer == 1)
        return 0;
    CHECK_EQ(answer, 0);
    long n = atol(text);
    CHECK_EQ(size, 100 + n % 200);
    for (size_t i = strlen(text) + 1; i < size; i++)
        CHECK_EQ(text[i], 'x');
    return n;
}

static void start_line(void) {
    __atomic_add_fetch(&shared->ready, 1, __ATOMIC_SEQ_CST);
    wait_for(&shared->go);
}

static void run_four(void (*work)(int)) {
    pid_t pids[PROCESSES];
    memset(shared, 0, sizeof *shared);
    for (int i = 0; i < PROCESSES; i++)
        pids[i] = child(work, i);
    while (__atomic_load_n(&shared->ready, __ATOMIC_SEQ_CST) < PROCESSES)
        sleep_ms(1);
    shared->go = 1;
    for (int i = 0; i < PROCESSES; i++)
        join(pids[i]);
}

/* ---- with the middleware's locking: read, add one, write ---- */

static void counts_with_lock(int i) {
    static Middleware m;
    m.generation = i % 2 ? 2019 : 2015;
    CHECK_EQ(mw_open(&m, at("locked.db"), KISSDB_OPEN_MODE_RWCREAT, KISSDB_WRITE_MODE_WC), 0);
    start_line();
    char own[20];
    snprintf(own, sizeof own, "own %d", i);
    for (int n = 1; n <= turns; n++) {
        /* The lock alone must do: the mutex is not all callers'. */
        Kdb_wrlock(&m.db.shared->rwlock);
        put_number(&m.db, "counter", get_number(&m.db, "counter") + 1);
        put_number(&m.db, own, n);
        Kdb_unlock(&m.db.shared->rwlock);
        if (n % 16 == 0) {
            Kdb_rdlock(&m.db.shared->rwlock);
            long sum = 0;
            char key[20];
            for (int j = 0; j < PROCESSES; j++) {
                snprintf(key, sizeof key, "own %d", j);
                sum += get_number(&m.db, key);
            }
            CHECK_EQ(get_number(&m.db, "counter"), sum);
            Kdb_unlock(&m.db.shared->rwlock);
        }
        /* Openers and closers in between. Not of 2019: one of them that opens and one that closes can
           stall each other for 5 s, semaphore against mutex. */
        if (n % 50 == 0 && m.generation == 2015) {
            mw_close(&m);
            CHECK_EQ(mw_open(&m, at("locked.db"), KISSDB_OPEN_MODE_RDWR, KISSDB_WRITE_MODE_WC), 0);
        }
    }
    mw_close(&m);
}

static void with_lock(void) {
    turns = rounds(400);
    run_four(counts_with_lock);
    KISSDB db;
    CHECK_EQ(objects_left(0), 0);
    open_plain(&db, at("locked.db"), KISSDB_OPEN_MODE_RDONLY);
    CHECK_EQ(get_number(&db, "counter"), PROCESSES * turns);
    CHECK_EQ(KISSDB_close(&db), 0);
}

/* ---- without any lock: own keys, common keys, deletes, iterations ---- */

static void counts_without_lock(int i) {
    KISSDB db;
    KISSDB_Iterator it;
    char key[128], name[32];
    open_plain(&db, at("free.db"), KISSDB_OPEN_MODE_RWCREAT);
    start_line();
    for (int n = 1; n <= turns; n++) {
        snprintf(name, sizeof name, "own %d %d", i, n % 10);
        put_number(&db, name, get_number(&db, name) + 1);
        put_number(&db, "common", 1000 * i + n);
        get_number(&db, "common"); /* somebody's, but whole */
        int32_t deleted;
        snprintf(name, sizeof name, "now and then %d", n % 3);
        if (n % 2)
            put_number(&db, name, i);
        else
            CHECK(KISSDB_delete(&db, name, &deleted) >= 0);
        if (n % 40 == 0) {
            int common = 0;
            KISSDB_Iterator_init(&db, &it);
            int answer;
            while ((answer = KISSDB_Iterator_next(&it, key, NULL)) == 1)
                common += strcmp(key, "common") == 0;
            CHECK_EQ(answer, 0);
            CHECK_EQ(common, 1);
            CHECK_EQ(KISSDB_close(&db), 0);
            open_plain(&db, at("free.db"), KISSDB_OPEN_MODE_RDWR);
        }
    }
    CHECK_EQ(KISSDB_close(&db), 0);
}

static void without_lock(void) {
    turns = rounds(400);
    run_four(counts_without_lock);
    KISSDB db;
    char name[32];
    CHECK_EQ(objects_left(0), 0);
    open_plain(&db, at("free.db"), KISSDB_OPEN_MODE_RDONLY);
    long sum = 0;
    for (int i = 0; i < PROCESSES; i++)
        for (int n = 0; n < 10; n++) {
            snprintf(name, sizeof name, "own %d %d", i, n);
            sum += get_number(&db, name);
        }
    CHECK_EQ(sum, PROCESSES * turns);
    CHECK_EQ(KISSDB_close(&db), 0);
}

/* ---- killed while it has the lock ---- */

static void dies_with_lock(int how) {
    static Middleware m;
    m.generation = 2015;
    CHECK_EQ(mw_open(&m, at("victim.db"), KISSDB_OPEN_MODE_RWCREAT, KISSDB_WRITE_MODE_WC), 0);
    if (how == 0)
        Kdb_wrlock(&m.db.shared->rwlock);
    else
        Kdb_rdlock(&m.db.shared->rwlock);
    if (how == 0)
        put_number(&m.db, "victim", 7);
    __atomic_add_fetch(&shared->ready, 1, __ATOMIC_SEQ_CST);
    for (;;)
        pause();
}

static void killed_with_lock(int how) {
    static Middleware m;
    const char *path = at("victim.db");
    memset(&m, 0, sizeof m);
    memset(shared, 0, sizeof *shared);
    m.generation = 2015;
    CHECK_EQ(mw_open(&m, path, KISSDB_OPEN_MODE_RWCREAT, KISSDB_WRITE_MODE_WC), 0);
    put_number(&m.db, "mine", 1);
    pid_t pid = child(dies_with_lock, how);
    wait_for(&shared->ready);
    end_child(pid);
    double start = now();
    Kdb_wrlock(&m.db.shared->rwlock);
    put_number(&m.db, "mine", 2);
    Kdb_unlock(&m.db.shared->rwlock);
    CHECK(now() - start < 1);
    CHECK_EQ(get_number(&m.db, "victim"), how == 0 ? 7 : 0);
    CHECK_EQ(mw_close(&m), 0);
    CHECK(now() - start < 2);
    CHECK_EQ(objects_left(0), 0);
    CHECK_EQ(remove(path), 0);
}

/* ---- killed while it has the semaphore, inside an open that is not counted yet ---- */

static void dies_with_semaphore(int opened) {
    static Middleware m;
    KISSDB *db = &m.db;
    db->semName = kdbGetShmName("-sem", at("sem.db"));
    db->kdbSem = sem_open(db->semName, O_CREAT, 0644, 1);
    CHECK(db->kdbSem != SEM_FAILED);
    CHECK_EQ(mw_wait(&m), 0);
    if (opened)
        CHECK_EQ(KISSDB_open(db, at("sem.db"), KISSDB_OPEN_MODE_RWCREAT, KISSDB_WRITE_MODE_WC, SETTINGS), 0);
    shared->ready = 1;
    for (;;)
        pause();
}

static void killed_with_semaphore(int opened, int survivor) {
    static Middleware m, late;
    const char *path = at("sem.db");
    memset(&m, 0, sizeof m);
    memset(&late, 0, sizeof late);
    memset(shared, 0, sizeof *shared);
    m.generation = late.generation = 2015;
    if (survivor)
        CHECK_EQ(mw_open(&m, path, KISSDB_OPEN_MODE_RWCREAT, KISSDB_WRITE_MODE_WC), 0);
    pid_t pid = child(dies_with_semaphore, opened);
    wait_for(&shared->ready);
    end_child(pid);
    double start = now();
    int value = 0;
    while (survivor && value == 0) { /* its calls find that nobody is left who would post it */
        put_number(&m.db, "k", 1);
        CHECK_EQ(sem_getvalue(m.db.kdbSem, &value), 0);
        CHECK(value <= 1);
        CHECK(now() - start < 1);
        sleep_ms(10);
    }
    start = now();
    CHECK_EQ(mw_open(&late, path, KISSDB_OPEN_MODE_RWCREAT, KISSDB_WRITE_MODE_WC), 0);
    double waited = now() - start;
    if (waited >= 1)
        fprintf(stderr, "opened=%d survivor=%d: waited %.2f s\n", opened, survivor, waited);
    CHECK(waited < 1);
    CHECK_EQ(sem_getvalue(late.db.kdbSem, &value), 0);
    CHECK_EQ(value, 1);
    CHECK_EQ(late.db.shared->refCount, 1 + survivor);
    put_number(&late.db, "k", 2);
    CHECK_EQ(mw_close(&late), 0);
    if (survivor) {
        CHECK_EQ(m.db.shared->refCount, 1);
        CHECK_EQ(get_number(&m.db, "k"), 2);
        CHECK_EQ(mw_close(&m), 0);
    }
    CHECK(now() - start < 3);
    CHECK_EQ(objects_left(0), 0);
    CHECK_EQ(remove(path), 0);
}

/* ---- killed inside a loop of puts ---- */

static int locking;

static void puts_until_killed(int i) {
    static Middleware m;
    char key[32];
    snprintf(key, sizeof key, "victim %d", i);
    m.generation = 2015;
    if (locking)
        CHECK_EQ(mw_open(&m, at("loop.db"), KISSDB_OPEN_MODE_RWCREAT, KISSDB_WRITE_MODE_WC), 0);
    else
        open_plain(&m.db, at("loop.db"), KISSDB_OPEN_MODE_RWCREAT);
    long n = get_number(&m.db, key);
    CHECK(n == shared->answered[i] || n == shared->answered[i] + 1);
    shared->ready = 1;
    for (;;) {
        if (locking)
            Kdb_wrlock(&m.db.shared->rwlock);
        put_number(&m.db, key, ++n);
        shared->answered[i] = n;
        if (locking)
            Kdb_unlock(&m.db.shared->rwlock);
    }
}

static void killed_in_put(int with_locking) {
    static Middleware m;
    KISSDB plain;
    char key[32];
    const char *path = at("loop.db");
    int kills = rounds(60);
    memset(&m, 0, sizeof m);
    memset(shared, 0, sizeof *shared);
    locking = with_locking;
    m.generation = 2015;
    srand(1);
    for (int n = 0; n < kills; n++) {
        /* Sometimes with a survivor beside it, sometimes the next process has to recover. */
        int survivor = n % 3 != 0, i = n % PROCESSES;
        if (survivor && with_locking)
            CHECK_EQ(mw_open(&m, path, KISSDB_OPEN_MODE_RWCREAT, KISSDB_WRITE_MODE_WC), 0);
        else if (survivor)
            open_plain(&m.db, path, KISSDB_OPEN_MODE_RWCREAT);
        shared->ready = 0;
        pid_t pid = child(puts_until_killed, i);
        wait_for(&shared->ready);
        struct timespec nap = {0, rand() % 8000000};
        nanosleep(&nap, NULL);
        end_child(pid);
        snprintf(key, sizeof key, "victim %d", i);
        long answered = shared->answered[i];
        double start = now();
        if (survivor) {
            if (with_locking)
                Kdb_wrlock(&m.db.shared->rwlock);
            long there = get_number(&m.db, key);
            CHECK(there == answered || there == answered + 1);
            put_number(&m.db, "survivor", n);
            if (with_locking)
                Kdb_unlock(&m.db.shared->rwlock);
            CHECK(now() - start < 1);
        }
        /* A fresh one beside or after it. */
        open_plain(&plain, path, KISSDB_OPEN_MODE_RDWR);
        long there = get_number(&plain, key);
        CHECK(there == answered || there == answered + 1);
        shared->answered[i] = there;
        put_number(&plain, "fresh", n);
        CHECK_EQ(KISSDB_close(&plain), 0);
        if (survivor && with_locking)
            CHECK_EQ(mw_close(&m), 0);
        else if (survivor)
            CHECK_EQ(KISSDB_close(&m.db), 0);
    }
    /* The last closer does not know the dead ones' semaphore; their names may stay until the next. */
    if (with_locking) {
        CHECK_EQ(mw_open(&m, path, KISSDB_OPEN_MODE_RWCREAT, KISSDB_WRITE_MODE_WC), 0);
        CHECK_EQ(mw_close(&m), 0);
    }
    CHECK_EQ(objects_left(0), 0);
    CHECK_EQ(remove(path), 0);
}

/* ---- fork with an open handle ---- */

static Middleware inherited;

static void uses_inherited(int i) {
    char key[32];
    snprintf(key, sizeof key, "child %d", i);
    for (int n = 1; n <= 50; n++) {
        Kdb_wrlock(&inherited.db.shared->rwlock);
        put_number(&inherited.db, "counter", get_number(&inherited.db, "counter") + 1);
        Kdb_unlock(&inherited.db.shared->rwlock);
        put_number(&inherited.db, key, n);
    }
    if (i % 2 == 0)
        CHECK_EQ(KISSDB_close(&inherited.db), 0);
    /* else it ends with the handle open */
}

static void forked(void) {
    memset(&inherited, 0, sizeof inherited);
    open_plain(&inherited.db, at("fork.db"), KISSDB_OPEN_MODE_RWCREAT);
    put_number(&inherited.db, "before", 1);
    pid_t pids[PROCESSES];
    for (int i = 0; i < PROCESSES; i++)
        pids[i] = child(uses_inherited, i);
    put_number(&inherited.db, "parent", 1);
    for (int i = 0; i < PROCESSES; i++)
        join(pids[i]);
    CHECK_EQ(get_number(&inherited.db, "counter"), 50 * PROCESSES);
    CHECK_EQ(get_number(&inherited.db, "child 3"), 50);
    CHECK_EQ(get_number(&inherited.db, "before"), 1);
    CHECK_EQ(KISSDB_close(&inherited.db), 0);
    CHECK_EQ(objects_left(0), 0);
}

/* ---- fork while another thread is inside a call on the same handle ---- */

static int stop;

static void *puts_until_told(void *unused) {
    (void)unused;
    char key[20], value[3000];
    int32_t written;
    memset(value, 'x', sizeof value);
    for (int n = 0; !__atomic_load_n(&stop, __ATOMIC_SEQ_CST); n++) {
        snprintf(key, sizeof key, "thread %d", n % 50);
        CHECK_EQ(KISSDB_put(&inherited.db, key, value, sizeof value, &written), 0);
    }
    return NULL;
}

static void adds_and_closes(int unused) {
    (void)unused;
    alarm(20);
    Kdb_wrlock(&inherited.db.shared->rwlock);
    put_number(&inherited.db, "counter", get_number(&inherited.db, "counter") + 1);
    Kdb_unlock(&inherited.db.shared->rwlock);
    CHECK_EQ(KISSDB_close(&inherited.db), 0);
}

static void forked_beside_thread(void) {
    pthread_t thread;
    int children = 100;
    /* In a child, what the other thread had just allocated belongs to nobody: memcheck calls it lost. */
    if (getenv("KISSDB_VALGRIND") != NULL)
        return;
    memset(&inherited, 0, sizeof inherited);
    open_plain(&inherited.db, at("thread.db"), KISSDB_OPEN_MODE_RWCREAT);
    stop = 0;
    CHECK_EQ(pthread_create(&thread, NULL, puts_until_told, NULL), 0);
    for (int i = 0; i < children; i++)
        join(child(adds_and_closes, 0));
    __atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(get_number(&inherited.db, "counter"), children);
    CHECK_EQ(KISSDB_close(&inherited.db), 0);
}

static void killed_holding_lock(void) {
    killed_with_lock(0);
    killed_with_lock(1);
}

static void killed_putting(void) {
    killed_in_put(0);
    killed_in_put(1);
}

static void semaphore_after_open(void) {
    killed_with_semaphore(1, 1);
    killed_with_semaphore(1, 0);
}

static void semaphore_before_open(void) {
    killed_with_semaphore(0, 1);
    killed_with_semaphore(0, 0);
}

static const struct {
    const char *name;
    void (*run)(void);
} parts[] = {
    {"with_lock", with_lock},
    {"without_lock", without_lock},
    {"forked", forked},
    {"forked_beside_thread", forked_beside_thread},
    {"killed_holding_lock", killed_holding_lock},
    {"killed_putting", killed_putting},
    {"semaphore_after_open", semaphore_after_open},
    {"semaphore_before_open", semaphore_before_open},
};

/* With a name: only that part. */
int main(int argc, char **argv) {
    begin(240);
    *(void **)&shared = shared_memory(4096);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (argc < 2 || strcmp(argv[1], parts[i].name) == 0) {
            fprintf(stderr, "%s\n", parts[i].name);
            parts[i].run();
            CHECK_EQ(objects_left(0), 0);
        }
    return end();
}
