/* Calls of the operating system that fail when told to: preloaded into a child of tests/faults.rs.
 *
 * KISSDB_FAULT is "what n error how": the n-th call of the group `what` fails with this errno, `how` is "once" or "ever"
 * (from the n-th on). Calls count only while the child has armed the shim, that is, inside calls of the library.
 * kissdb_fault_armed(1) and (0) arm and disarm it, kissdb_fault_injected() tells how many calls have failed.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>
#include <dirent.h>

static char what[32];
static long nth, calls, injected;
static int failure, ever, armed;

__attribute__((constructor)) static void begin(void)
{
    char how[8] = "";
    const char *told = getenv("KISSDB_FAULT");
    if (told && sscanf(told, "%31s %ld %d %7s", what, &nth, &failure, how) == 4)
        ever = strcmp(how, "ever") == 0;
}

void kissdb_fault_armed(int yes) { __atomic_store_n(&armed, yes, __ATOMIC_SEQ_CST); }
long kissdb_fault_injected(void) { return __atomic_load_n(&injected, __ATOMIC_SEQ_CST); }

/* Whether this call is to fail. */
static int fails(const char *group)
{
    if (!__atomic_load_n(&armed, __ATOMIC_SEQ_CST) || strcmp(group, what) != 0)
        return 0;
    long n = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
    if (n != nth && !(ever && n > nth))
        return 0;
    __atomic_add_fetch(&injected, 1, __ATOMIC_SEQ_CST);
    errno = failure;
    return 1;
}

#define REAL(name) ((__typeof__(&name))real(#name))
static void *real(const char *name)
{
    void *f = dlsym(RTLD_NEXT, name);
    if (!f)
        abort();
    return f;
}

#define OPENER(name)                                                                                                   \
    int name(const char *path, int flags, ...)                                                                         \
    {                                                                                                                  \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = va_arg(rest, mode_t);                                                                            \
        va_end(rest);                                                                                                  \
        return fails("open") ? -1 : REAL(name)(path, flags, mode);                                                     \
    }
OPENER(open)
OPENER(open64)

int openat(int dir, const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, mode_t);
    va_end(rest);
    return fails("open") ? -1 : REAL(openat)(dir, path, flags, mode);
}

int shm_open(const char *name, int flags, mode_t mode)
{
    return fails("shm_open") ? -1 : ((int (*)(const char *, int, mode_t))real("shm_open"))(name, flags, mode);
}

DIR *opendir(const char *path) { return fails("opendir") ? NULL : REAL(opendir)(path); }

#define MAPPER(name, off)                                                                                              \
    void *name(void *at, size_t len, int prot, int flags, int fd, off offset)                                          \
    {                                                                                                                  \
        typedef void *(*f)(void *, size_t, int, int, int, off);                                                        \
        return fails("mmap") ? (void *)-1 : ((f)real(#name))(at, len, prot, flags, fd, offset);                        \
    }
MAPPER(mmap, off_t)
MAPPER(mmap64, off64_t)

#define SIMPLE(group, name, params, args)                                                                              \
    int name params                                                                                                    \
    {                                                                                                                  \
        typedef int(*f) params;                                                                                        \
        return fails(group) ? -1 : ((f)real(#name))args;                                                               \
    }
SIMPLE("ftruncate", ftruncate, (int fd, off_t len), (fd, len))
SIMPLE("ftruncate", ftruncate64, (int fd, off64_t len), (fd, len))
SIMPLE("linkat", linkat, (int a, const char *from, int b, const char *to, int flags), (a, from, b, to, flags))
SIMPLE("unlink", unlink, (const char *path), (path))
SIMPLE("fstat", fstat, (int fd, struct stat *to), (fd, to))
SIMPLE("fstat", fstat64, (int fd, struct stat64 *to), (fd, to))
SIMPLE("fchown", fchown, (int fd, uid_t u, gid_t g), (fd, u, g))
SIMPLE("fchmod", fchmod, (int fd, mode_t m), (fd, m))
SIMPLE("getrlimit", getrlimit, (int what_limit, void *to), (what_limit, to))
SIMPLE("madvise", madvise, (void *at, size_t len, int advice), (at, len, advice))
SIMPLE("statx", statx, (int d, const char *path, int flags, unsigned mask, struct statx *to), (d, path, flags, mask, to))

/* "half_fallocate": a file system that has room for half of it, and leaves the file so much longer. */
#define ALLOCATOR(name, off)                                                                                           \
    int name(int fd, int mode, off from, off len)                                                                      \
    {                                                                                                                  \
        int (*f)(int, int, off, off) = (int (*)(int, int, off, off))real(#name);                                       \
        if (fails("half_fallocate")) {                                                                                 \
            f(fd, mode, from, len / 2);                                                                                \
            errno = failure;                                                                                           \
            return -1;                                                                                                 \
        }                                                                                                              \
        return fails("fallocate") ? -1 : f(fd, mode, from, len);                                                       \
    }
ALLOCATOR(fallocate, off_t)
ALLOCATOR(fallocate64, off64_t)

/* These answer the error itself. */
#define ANSWERING(name, off)                                                                                           \
    int name(int fd, off from, off len)                                                                                \
    {                                                                                                                  \
        typedef int (*f)(int, off, off);                                                                               \
        return fails("posix_fallocate") ? failure : ((f)real(#name))(fd, from, len);                                   \
    }
ANSWERING(posix_fallocate, off_t)
ANSWERING(posix_fallocate64, off64_t)

#define FCNTL(name)                                                                                                    \
    int name(int fd, int command, ...)                                                                                 \
    {                                                                                                                  \
        va_list rest;                                                                                                  \
        va_start(rest, command);                                                                                       \
        void *more = va_arg(rest, void *);                                                                             \
        va_end(rest);                                                                                                  \
        typedef int (*f)(int, int, ...);                                                                               \
        return fails("fcntl") ? -1 : ((f)real(#name))(fd, command, more);                                              \
    }
FCNTL(fcntl)
FCNTL(fcntl64)

/* "short": one byte less than asked for; no error. */
#define MOVER(group, name, type, off)                                                                                  \
    ssize_t name(int fd, type buf, size_t len, off at)                                                                 \
    {                                                                                                                  \
        typedef ssize_t (*f)(int, type, size_t, off);                                                                  \
        if (len > 1 && fails("short_" group))                                                                          \
            len--;                                                                                                     \
        return fails(group) ? -1 : ((f)real(#name))(fd, buf, len, at);                                                 \
    }
MOVER("pread", pread, void *, off_t)
MOVER("pread", pread64, void *, off64_t)
MOVER("pwrite", pwrite, const void *, off_t)
MOVER("pwrite", pwrite64, const void *, off64_t)

/* Whether this is the directory that KISSDB_FAULT_DIRECTORY names. */
static int is_the_directory(int fd)
{
    const char *path = getenv("KISSDB_FAULT_DIRECTORY");
    struct stat it, told;
    return path && syscall(SYS_fstat, fd, &it) == 0 && syscall(SYS_newfstatat, AT_FDCWD, path, &told, 0) == 0 &&
           it.st_dev == told.st_dev && it.st_ino == told.st_ino;
}

/* The library syncs and sleeps by this one. */
long syscall(long number, ...)
{
    va_list rest;
    long a[6];
    va_start(rest, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(rest, long);
    va_end(rest);
    if ((number == SYS_fdatasync || number == SYS_fsync || number == SYS_msync) && fails("sync"))
        return -1;
    if (number == SYS_fsync && is_the_directory((int)a[0]) && fails("directory_sync"))
        return -1;
    if (number == SYS_futex && fails("futex"))
        return -1;
    return ((long (*)(long, ...))real("syscall"))(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
