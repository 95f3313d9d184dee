/*
 * What the programs here share: checks, a directory of their own that goes away at the end together
 * with everything that its databases left in /dev/shm, and children. Include it first.
 */
#ifndef CHECK_H
#define CHECK_H

#ifndef __cplusplus
#define _DEFAULT_SOURCE
#define _XOPEN_SOURCE 700
#endif

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <kissdb.h>

#define SETTINGS HASHTABLE_SLOT_COUNT, PERS_DB_MAX_LENGTH_KEY_NAME, PERS_DB_MAX_SIZE_KEY_DATA
#define RESOURCES HASHTABLE_SLOT_COUNT, 64, 212

/* ---- checks: the first that fails ends the program ---- */

static inline void check_failed(const char *file, int line, const char *what) {
    int e = errno;
    fprintf(stderr, "%s:%d: %s (errno %d: %s)\n", file, line, what, e, strerror(e));
    exit(1);
}

static inline void check_eq(long long got, long long want, const char *file, int line, const char *what) {
    if (got != want) {
        fprintf(stderr, "got %lld, want %lld\n", got, want);
        check_failed(file, line, what);
    }
}

static inline void check_str(const char *got, const char *want, const char *file, int line, const char *what) {
    if (got == NULL || strcmp(got, want) != 0) {
        fprintf(stderr, "got \"%s\", want \"%s\"\n", got == NULL ? "(null)" : got, want);
        check_failed(file, line, what);
    }
}

#define CHECK(cond) ((cond) ? (void)0 : check_failed(__FILE__, __LINE__, #cond))
#define CHECK_EQ(got, want) check_eq((long long)(got), (long long)(want), __FILE__, __LINE__, #got " == " #want)
#define CHECK_STR(got, want) check_str((got), (want), __FILE__, __LINE__, #got " is " #want)

/* ---- the directory, and what stands in /dev/shm for the databases in it ---- */

static char check_dir[256];
static pid_t check_pid;

/* The name of path's object, without the leading slash. */
static inline const char *object(const char *path, const char *tail) {
    static char name[1024];
    size_t n = 0;
    for (const char *p = path; *p != '\0' && n < 900; p++) {
        int plain = (*p >= '0' && *p <= '9') || (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z');
        name[n++] = plain ? *p : '_';
    }
    snprintf(name + n, sizeof name - n, "%s", tail);
    return name;
}

static inline int exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0;
}

/* Whether path's object is in /dev/shm. */
static inline int object_exists(const char *path, const char *tail) {
    char file[1200];
    snprintf(file, sizeof file, "/dev/shm/%s%s", strcmp(tail, "-sem") == 0 ? "sem." : "", object(path, tail));
    return exists(file);
}

/* How many names in /dev/shm belong to databases of this program. */
static inline int objects_left(int take_away) {
    char stem[1024], file[600];
    snprintf(stem, sizeof stem, "%s", object(check_dir, "_"));
    int n = 0;
    DIR *d = opendir("/dev/shm");
    for (struct dirent *e = NULL; d != NULL && (e = readdir(d)) != NULL;) {
        const char *name = strncmp(e->d_name, "sem.", 4) == 0 ? e->d_name + 4 : e->d_name;
        if (strncmp(name, stem, strlen(stem)) == 0) {
            n++;
            snprintf(file, sizeof file, "/dev/shm/%s", e->d_name);
            if (take_away)
                unlink(file);
            else
                fprintf(stderr, "left behind: %s\n", file);
        }
    }
    if (d != NULL)
        closedir(d);
    return n;
}

static inline int check_remove(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static inline void check_cleanup(void) {
    if (getpid() == check_pid) {
        objects_left(1);
        nftw(check_dir, check_remove, 16, FTW_DEPTH | FTW_PHYS);
    }
}

/* First call of main. A program that hangs is ended after the time given. */
static inline void begin(unsigned seconds) {
    const char *tmp = getenv("TMPDIR");
    struct timespec t;
    CHECK_EQ(clock_gettime(CLOCK_REALTIME, &t), 0);
    snprintf(check_dir, sizeof check_dir, "%s/kissdb-%ld-%ld-%ld", tmp == NULL ? P_tmpdir : tmp, (long)getpid(),
             (long)t.tv_sec, t.tv_nsec);
    CHECK_EQ(mkdir(check_dir, 0755), 0);
    CHECK_EQ(chmod(check_dir, 0755), 0);
    check_pid = getpid();
    CHECK_EQ(atexit(check_cleanup), 0);
    alarm(seconds);
}

/* Last call of main: every database is closed, so /dev/shm is as it was. */
static inline int end(void) {
    CHECK_EQ(objects_left(0), 0);
    return 0;
}

/* The path of a file in the directory. */
static inline const char *at(const char *name) {
    static char ring[8][1024];
    static int n;
    n = (n + 1) % 8;
    snprintf(ring[n], sizeof ring[n], "%s/%s", check_dir, name);
    return ring[n];
}

/* ---- files ---- */

static inline void write_file(const char *path, const void *bytes, size_t size) {
    FILE *f = fopen(path, "wb");
    CHECK(f != NULL);
    CHECK_EQ(fwrite(bytes, 1, size, f), size);
    CHECK_EQ(fclose(f), 0);
}

/* The contents of a file, malloc memory; *size is its length. */
static inline unsigned char *read_whole(const char *path, size_t *size) {
    FILE *f = fopen(path, "rb");
    CHECK(f != NULL);
    CHECK_EQ(fseek(f, 0, SEEK_END), 0);
    long n = ftell(f);
    rewind(f);
    unsigned char *p = (unsigned char *)malloc((size_t)n + 1);
    CHECK(p != NULL);
    CHECK_EQ(fread(p, 1, (size_t)n, f), n);
    fclose(f);
    *size = (size_t)n;
    return p;
}

static inline void write_at(const char *path, long offset, const void *bytes, size_t size) {
    FILE *f = fopen(path, "r+b");
    CHECK(f != NULL);
    CHECK_EQ(fseek(f, offset, SEEK_SET), 0);
    CHECK_EQ(fwrite(bytes, 1, size, f), size);
    CHECK_EQ(fclose(f), 0);
}

static inline void copy_file(const char *from, const char *to) {
    size_t n;
    unsigned char *p = read_whole(from, &n);
    write_file(to, p, n);
    free(p);
}

/* ---- time, children ---- */

static inline double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static inline void sleep_ms(long ms) {
    struct timespec t;
    t.tv_sec = ms / 1000;
    t.tv_nsec = ms % 1000 * 1000000;
    nanosleep(&t, NULL);
}

/* Fewer rounds where every instruction is watched. */
static inline int rounds(int n) {
    return getenv("KISSDB_VALGRIND") != NULL ? (n + 19) / 20 : n;
}

/* A child that runs work(arg), exits 0 and dies with its parent. */
static inline pid_t child(void (*work)(int), int arg) {
    fflush(NULL);
    pid_t parent = getpid(), pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(1);
        work(arg);
        exit(0);
    }
    return pid;
}

/* Waits for a child that ends by itself. */
static inline void join(pid_t pid) {
    int status;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 0);
}

/* Kills a child in the middle of whatever it does. */
static inline void end_child(pid_t pid) {
    int status;
    CHECK_EQ(kill(pid, SIGKILL), 0);
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* Memory that children share with their parent. */
static inline void *shared_memory(size_t size) {
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    return p;
}

static inline void wait_for(volatile int *flag) {
    while (!*flag)
        sleep_ms(1);
}

/* ---- databases ---- */

/* Opens a settings database without the middleware's semaphore. */
static inline void open_plain(KISSDB *db, const char *path, int mode) {
    memset(db, 0, sizeof *db);
    CHECK_EQ(KISSDB_open(db, path, mode, KISSDB_WRITE_MODE_WT, SETTINGS), 0);
}

static inline void put_text(KISSDB *db, const char *key, const char *text) {
    int32_t written = -1;
    CHECK_EQ(KISSDB_put(db, key, text, (int)strlen(text), &written), 0);
    CHECK_EQ(written, strlen(text));
}

/* The value of a key that is there, as a string. */
static inline const char *get_text(KISSDB *db, const char *key) {
    static char text[8029];
    uint32_t size = 0;
    CHECK_EQ(KISSDB_get(db, key, text, 8028, &size), 0);
    text[size] = '\0';
    return text;
}

#endif
