/*
 * malloc fails inside the library: once at the n-th allocation, for every n, and from the n-th on. No call ends the
 * process: each answers 0 or an error code, what was answered with 0 is there afterwards, and the file is whole.
 */
#include "check.h"

/* glibc's own, behind those below. */
extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static int armed, forever;
static long count, nth;

static int fails(void) {
    if (!armed)
        return 0;
    count++;
    if (count != nth && !(forever && count > nth))
        return 0;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t n) { return fails() ? NULL : __libc_malloc(n); }
void *calloc(size_t n, size_t m) { return fails() ? NULL : __libc_calloc(n, m); }
void *realloc(void *p, size_t n) { return fails() ? NULL : __libc_realloc(p, n); }
int posix_memalign(void **p, size_t align, size_t n) {
    *p = fails() ? NULL : __libc_memalign(align, n);
    return *p == NULL ? ENOMEM : 0;
}

static int answer;

static void arm(void) { armed = 1; }
static int disarm(int answered) {
    armed = 0;
    return answer = answered;
}
/* An answer of the library under the failing malloc. */
#define FAULTY(call) disarm((arm(), (call)))

static void work(const char *path) {
    KISSDB db;
    KISSDB_Iterator it;
    int32_t done = -1;
    uint32_t size = 0;
    char key[129], value[8028];
    memset(&db, 0, sizeof db);
    db.semName = strdup(object(path, "-sem"));
    db.kdbSem = sem_open(db.semName, O_CREAT, 0644, 1);
    CHECK(db.kdbSem != SEM_FAILED);
    CHECK_EQ(sem_wait(db.kdbSem), 0);
    FAULTY(KISSDB_open(&db, path, KISSDB_OPEN_MODE_RWCREAT, KISSDB_WRITE_MODE_WT, SETTINGS));
    if (answer != 0) {
        /* -7 to -10: the shared object. */
        CHECK(answer == -1 || answer == -2 || (answer <= -7 && answer >= -10));
        armed = 1;
        cleanKdbStruct(&db);
        armed = 0;
        CHECK(db.kdbSem == NULL);
        return;
    }
    db.shared->refCount++;
    sem_post(db.kdbSem);
    /* One that is there: it may not seem to be gone. */
    FAULTY(KISSDB_get(&db, "/there", value, sizeof value, &size));
    CHECK(answer == 0 || answer == -2);
    CHECK(answer != 0 || (size == 3 && memcmp(value, "yes", 3) == 0));
    int put = FAULTY(KISSDB_put(&db, "/new", "value", 5, &done));
    CHECK(put == 0 || put == -2);
    CHECK_EQ(done, put == 0 ? 5 : 0);
    int deleted = FAULTY(KISSDB_delete(&db, "/goes", &done));
    CHECK(deleted == 0 || deleted == -2);
    KISSDB_Iterator_init(&db, &it);
    for (int n = 0; n < 5 && FAULTY(KISSDB_Iterator_next(&it, key, value)) == 1; n++)
        CHECK(key[0] == '/');
    CHECK(answer == 0 || answer == 1 || answer == -2);
    armed = 1;
    free(kdbGetShmName("-shm-info", path));
    Kdb_wrlock(&db.shared->rwlock);
    Kdb_unlock(&db.shared->rwlock);
    armed = 0;
    CHECK_EQ(sem_wait(db.kdbSem), 0);
    db.shared->refCount--;
    CHECK_EQ(FAULTY(KISSDB_close(&db)), 0);
    /* With memory again. */
    open_plain(&db, path, KISSDB_OPEN_MODE_RDWR);
    CHECK_STR(get_text(&db, "/there"), "yes");
    CHECK_EQ(KISSDB_get(&db, "/new", value, sizeof value, &size), put == 0 ? 0 : 1);
    CHECK_EQ(KISSDB_get(&db, "/goes", value, sizeof value, &size), deleted == 0 ? 1 : 0);
    CHECK_EQ(KISSDB_close(&db), 0);
}

static void one_life(int n) {
    nth = n;
    count = 0;
    KISSDB db;
    const char *path = at("memory.db");
    open_plain(&db, path, KISSDB_OPEN_MODE_RWCREAT);
    put_text(&db, "/there", "yes");
    put_text(&db, "/goes", "soon");
    CHECK_EQ(KISSDB_delete(&db, "/new", &(int32_t){0}) >= 0, 1);
    if (forever)
        /* Not closed: recovery is without memory as well. */
        memset(&db, 0, sizeof db);
    else
        CHECK_EQ(KISSDB_close(&db), 0);
    work(path);
    /* Reached if so many allocations were made. */
    exit(count >= nth ? 0 : 42);
}

int main(void) {
    begin(100);
    /* memcheck has a malloc of its own. */
    if (getenv("KISSDB_VALGRIND") != NULL)
        return end();
    int last = 0;
    for (forever = 0; forever < 2; forever++) {
        for (int n = 1;; n++) {
            pid_t pid = child(one_life, n);
            int status;
            CHECK_EQ(waitpid(pid, &status, 0), pid);
            if (!WIFEXITED(status) || (WEXITSTATUS(status) != 0 && WEXITSTATUS(status) != 42)) {
                fprintf(stderr, "allocation %d fails %s: status %x\n", n, forever ? "for ever" : "once", status);
                exit(1);
            }
            unlink(at("memory.db"));
            objects_left(1);
            if (WEXITSTATUS(status) == 42)
                break;
            last = n;
        }
    }
    CHECK(last > 20);
    printf("%d allocations\n", last);
    return end();
}
