/*
 * What callers do that is legal and rare: a holder of the lock whose main has ended, one who asks after it without descriptors
 * or without /proc, a link to a file that is not there yet, two threads that share the lock of a handle, a close beside one
 * who waits, a child that uses another database than its parent's, a SIGBUS that somebody sends. Each of these lost a lock,
 * hung or ended a process.
 */
#include "check.h"

#include <pthread.h>
#include <sys/resource.h>

static struct {
    int held;
    int released;
} *shared;

static KISSDB db;

/* ---- a holder who is alive keeps its lock ---- */

static void *hold(void *unused) {
    Kdb_wrlock(&db.shared->rwlock);
    shared->held = 1;
    sleep_ms(400);
    shared->released = 1;
    Kdb_unlock(&db.shared->rwlock);
    put_text(&db, "holder", "lives");
    CHECK_EQ(KISSDB_close(&db), 0);
    exit(0);
    return unused;
}

static void holder(int main_ends) {
    pthread_t thread;
    open_plain(&db, at("lock.db"), KISSDB_OPEN_MODE_RWCREAT);
    if (!main_ends)
        hold(NULL);
    CHECK_EQ(pthread_create(&thread, NULL, hold, NULL), 0);
    pthread_exit(NULL);
}

enum { PLAINLY, WITHOUT_DESCRIPTORS, WITHOUT_PROC };

static void asker(int how) {
    open_plain(&db, at("lock.db"), KISSDB_OPEN_MODE_RWCREAT);
    wait_for(&shared->held);
    if (how == WITHOUT_DESCRIPTORS) {
        struct rlimit limit;
        CHECK_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
        limit.rlim_cur = 64;
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
        while (dup(0) >= 0) {
        }
    }
    /* Only root may; who may not asks plainly. */
    if (how == WITHOUT_PROC && chroot(check_dir) == 0)
        CHECK_EQ(chdir("/"), 0);
    Kdb_wrlock(&db.shared->rwlock);
    CHECK(shared->released);
    Kdb_unlock(&db.shared->rwlock);
    put_text(&db, "asker", "waits");
    _exit(0);
}

static void is_waited_for(int main_ends, int how) {
    memset(shared, 0, sizeof *shared);
    pid_t one = child(holder, main_ends);
    wait_for(&shared->held);
    join(child(asker, how));
    join(one);
    open_plain(&db, at("lock.db"), KISSDB_OPEN_MODE_RWCREAT);
    CHECK_STR(get_text(&db, "holder"), "lives");
    CHECK_STR(get_text(&db, "asker"), "waits");
    CHECK_EQ(KISSDB_close(&db), 0);
    CHECK_EQ(unlink(at("lock.db")), 0);
}

/* ---- a link that leads to a file which is not there yet ---- */

static void through_a_link(void) {
    CHECK_EQ(symlink("there.db", at("link.db")), 0);
    open_plain(&db, at("link.db"), KISSDB_OPEN_MODE_RWCREAT);
    put_text(&db, "a", "b");
    CHECK_EQ(KISSDB_close(&db), 0);
    CHECK(exists(at("there.db")));
    CHECK_EQ(symlink("round.db", at("round.db")), 0);
    memset(&db, 0, sizeof db);
    CHECK_EQ(KISSDB_open(&db, at("round.db"), KISSDB_OPEN_MODE_RWCREAT, KISSDB_WRITE_MODE_WT, SETTINGS), -1);
}

/* ---- two threads, one handle, one lock ---- */

static volatile int got_it;

static void *write_locked(void *unused) {
    Kdb_wrlock(&db.shared->rwlock);
    got_it = 1;
    return unused;
}

static void readers_and_a_writer(void) {
    pthread_t writer;
    open_plain(&db, at("threads.db"), KISSDB_OPEN_MODE_RWCREAT);
    got_it = 0;
    Kdb_rdlock(&db.shared->rwlock);
    CHECK_EQ(pthread_create(&writer, NULL, write_locked, NULL), 0);
    sleep_ms(50);
    CHECK(!got_it);
    Kdb_unlock(&db.shared->rwlock);
    CHECK_EQ(pthread_join(writer, NULL), 0);
    Kdb_unlock(&db.shared->rwlock);
    /* Closed by who has the lock, while another thread waits for it. */
    got_it = 0;
    Kdb_wrlock(&db.shared->rwlock);
    CHECK_EQ(pthread_create(&writer, NULL, write_locked, NULL), 0);
    sleep_ms(50);
    CHECK(!got_it);
    CHECK_EQ(KISSDB_close(&db), 0);
    CHECK_EQ(pthread_join(writer, NULL), 0);
}

/* ---- a child that has nothing to do with its parent's database ---- */

static KISSDB parents;

static void uses_another(int unused) {
    (void)unused;
    open_plain(&db, at("childs.db"), KISSDB_OPEN_MODE_RWCREAT);
    Kdb_wrlock(&db.shared->rwlock);
    put_text(&db, "a", "b");
    Kdb_unlock(&db.shared->rwlock);
    pthread_rwlock_t plain = PTHREAD_RWLOCK_INITIALIZER;
    Kdb_wrlock(&plain);
    Kdb_unlock(&plain);
    CHECK_EQ(KISSDB_close(&db), 0);
}

static void a_child_beside(void) {
    int before;
    open_plain(&parents, at("parents.db"), KISSDB_OPEN_MODE_RWCREAT);
    before = parents.shared->refCount;
    join(child(uses_another, 0));
    CHECK_EQ(parents.shared->refCount, before);
    put_text(&parents, "a", "b");
    CHECK_EQ(KISSDB_close(&parents), 0);
    CHECK(!object_exists(at("parents.db"), "-shm-info"));
}

/* ---- a child without standard output: what it prints is not our object's ---- */

static void prints(int unused) {
    (void)unused;
    close(1);
    put_text(&parents, "c", "d");
    (void)!write(1, "some text", 9);
    CHECK_EQ(KISSDB_close(&parents), 0);
}

static void a_child_that_prints(void) {
    open_plain(&parents, at("prints.db"), KISSDB_OPEN_MODE_RWCREAT);
    uint16_t mode = parents.shared->openMode;
    join(child(prints, 0));
    CHECK_EQ(parents.shared->openMode, mode);
    CHECK_STR(get_text(&parents, "c"), "d");
    CHECK_EQ(KISSDB_close(&parents), 0);
}

/* ---- SIGBUS that is sent, and one that is ours ---- */

static void is_sent_one(int ignored) {
    if (ignored)
        signal(SIGBUS, SIG_IGN);
    open_plain(&db, at("bus.db"), KISSDB_OPEN_MODE_RWCREAT);
    for (int i = 0; i < 20; i++) {
        char key[20];
        snprintf(key, sizeof key, "key %d", i);
        put_text(&db, key, "value");
    }
    raise(SIGBUS);
    CHECK(ignored);
    CHECK_EQ(truncate(at("bus.db"), 4096), 0);
    uint32_t size;
    char value[8];
    CHECK(KISSDB_get(&db, "key 7", value, sizeof value, &size) != 0);
    KISSDB_close(&db);
}

static void sent(void) {
    int status;
    join(child(is_sent_one, 1));
    CHECK_EQ(unlink(at("bus.db")), 0);
    pid_t pid = child(is_sent_one, 0);
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
    objects_left(1);
}

/* ---- a name of a semaphore with nothing behind it ---- */

static void an_empty_semaphore(void) {
    char file[1200];
    snprintf(file, sizeof file, "/dev/shm/sem.%s", object(at("none.db"), "-sem"));
    write_file(file, "", 0);
    char *name = kdbGetShmName("-sem", at("none.db"));
    CHECK(name != NULL);
    free(name);
    CHECK_EQ(unlink(file), 0);
}

int main(void) {
    begin(600);
    /* Before anything of the library has a handler. */
    sent();
    shared = shared_memory(sizeof *shared);
    is_waited_for(0, WITHOUT_DESCRIPTORS);
    is_waited_for(0, WITHOUT_PROC);
    /* Memcheck takes what belongs to the last thread for lost, and needs seconds for the end of each child. */
    if (getenv("KISSDB_VALGRIND") == NULL) {
        is_waited_for(0, PLAINLY);
        is_waited_for(1, PLAINLY);
    }
    through_a_link();
    readers_and_a_writer();
    a_child_beside();
    a_child_that_prints();
    an_empty_semaphore();
    return end();
}
