/*
 * Every function of the C interface gives every answer that its description names, to callers that
 * use no lock: NULLs, sizes, keys, values, bad files, rights, life cycle, iteration, helpers.
 */
#include "check.h"

#include <sys/resource.h>
#include <sys/types.h>

static unsigned char out[8028], in[8028];
static uint32_t got;
static int32_t done;

static int open_sizes(KISSDB *db, const char *path, int mode, uint16_t slots, uint64_t key, uint64_t value) {
    memset(db, 0, sizeof *db);
    int answer = KISSDB_open(db, path, mode, KISSDB_WRITE_MODE_WT, slots, key, value);
    if (answer != 0) {
        /* Without a semaphore the failed open has cleaned up by itself; doing it again is harmless. */
        int e = errno;
        CHECK(db->shared == NULL && db->alreadyOpen == Kdb_false);
        cleanKdbStruct(db);
        CHECK(!object_exists(path, "-shm-info") && !object_exists(path, "-ht"));
        errno = e;
    }
    return answer;
}

static int open_mode(KISSDB *db, const char *path, int mode) {
    return open_sizes(db, path, mode, SETTINGS);
}

static void nulls(void) {
    KISSDB db;
    KISSDB_Iterator it;
    char key[128], value[8028];
    memset(&db, 0, sizeof db);
    CHECK_EQ(KISSDB_open(NULL, at("n.db"), KISSDB_OPEN_MODE_RWCREAT, KISSDB_WRITE_MODE_WT, SETTINGS), -3);
    CHECK_EQ(KISSDB_open(&db, NULL, KISSDB_OPEN_MODE_RWCREAT, KISSDB_WRITE_MODE_WT, SETTINGS), -3);
    for (int opened = 0; opened < 3; opened++) {
        /* Never opened, open, closed. */
        if (opened == 1)
            CHECK_EQ(open_mode(&db, at("n.db"), KISSDB_OPEN_MODE_RWCREAT), 0);
        if (opened == 2)
            CHECK_EQ(KISSDB_close(&db), 0);

        CHECK_EQ(KISSDB_get(NULL, "k", out, 10, &got), -3);
        CHECK_EQ(KISSDB_get(&db, NULL, out, 10, &got), -3);
        CHECK_EQ(KISSDB_get(&db, "k", NULL, 10, &got), -3);
        CHECK_EQ(KISSDB_get(&db, "k", out, 10, NULL), -3);
        done = 77;
        CHECK_EQ(KISSDB_put(NULL, "k", "v", 1, &done), -3);
        CHECK_EQ(done, 0);
        done = 77;
        CHECK_EQ(KISSDB_put(&db, NULL, "v", 1, &done), -3);
        CHECK_EQ(done, 0);
        done = 77;
        CHECK_EQ(KISSDB_put(&db, "k", NULL, 1, &done), -3);
        CHECK_EQ(done, 0);
        CHECK_EQ(KISSDB_delete(NULL, "k", &done), -3);
        CHECK_EQ(KISSDB_delete(&db, NULL, &done), -3);

        KISSDB_Iterator_init(&db, NULL);
        KISSDB_Iterator_init(NULL, &it);
        CHECK_EQ(KISSDB_Iterator_next(&it, key, value), -3);
        KISSDB_Iterator_init(&db, &it);
        CHECK_EQ(KISSDB_Iterator_next(&it, NULL, value), -3);
        CHECK_EQ(KISSDB_Iterator_next(NULL, key, value), -3);

        if (opened != 1) {
            /* Not open: the same answer with arguments that are all right. */
            CHECK_EQ(KISSDB_get(&db, "k", out, 10, &got), -3);
            done = 77;
            CHECK_EQ(KISSDB_put(&db, "k", "v", 1, &done), -3);
            CHECK_EQ(done, 0);
            CHECK_EQ(KISSDB_delete(&db, "k", &done), -3);
            CHECK_EQ(KISSDB_Iterator_next(&it, key, value), -3);
            CHECK_EQ(KISSDB_close(&db), -3);
            cleanKdbStruct(&db);
        }
    }
    CHECK_EQ(KISSDB_close(NULL), -3);
    cleanKdbStruct(NULL);

    /* bytesWritten and bytesDeleted may be NULL. */
    CHECK_EQ(open_mode(&db, at("n.db"), KISSDB_OPEN_MODE_RWCREAT), 0);
    CHECK_EQ(KISSDB_put(&db, "k", "v", 1, NULL), 0);
    CHECK_EQ(KISSDB_delete(&db, "k", NULL), 0);
    CHECK_EQ(KISSDB_delete(&db, "k", NULL), 1);
    CHECK_EQ(KISSDB_close(&db), 0);
}

static void sizes(void) {
    KISSDB db;
    const char *path = at("sizes.db");
    static const struct {
        uint16_t slots;
        uint64_t key, value;
    } bad[] = {{0, 128, 8028},   {510, 0, 8028},   {510, 128, 0},           {511, 128, 8028},
               {510, 129, 8028}, {510, 128, 8029}, {65535, 128, 8028},      {510, UINT64_MAX, 8028},
               {510, 128, UINT64_MAX}, {510, (1ULL << 32) + 128, 8028}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_EQ(open_sizes(&db, path, KISSDB_OPEN_MODE_RWCREAT, bad[i].slots, bad[i].key, bad[i].value), -3);
        CHECK_EQ(open_sizes(&db, path, KISSDB_OPEN_MODE_RWREPLACE, bad[i].slots, bad[i].key, bad[i].value), -3);
        CHECK(!exists(path));
    }
    static const int modes[] = {0, 5, 6, -1, 2147483647, -2147483647 - 1};
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        CHECK_EQ(open_mode(&db, path, modes[i]), -3);
        CHECK(!exists(path));
    }
    /* The smallest and the largest. */
    CHECK_EQ(open_sizes(&db, at("small.db"), KISSDB_OPEN_MODE_RWCREAT, 1, 1, 1), 0);
    CHECK_EQ(KISSDB_put(&db, "a", "1", 1, &done), 0);
    CHECK_EQ(KISSDB_put(&db, "b", "2", 1, &done), 0);
    CHECK_EQ(KISSDB_put(&db, "c", "33", 2, &done), -3);
    CHECK_EQ(done, 0);
    CHECK_EQ(KISSDB_close(&db), 0);
    CHECK_EQ(open_sizes(&db, path, KISSDB_OPEN_MODE_RWCREAT, 510, 128, 8028), 0);
    CHECK_EQ(KISSDB_close(&db), 0);

    /* Those of an existing file win, whatever the arguments are. */
    CHECK_EQ(open_sizes(&db, at("small.db"), KISSDB_OPEN_MODE_RWCREAT, 510, 128, 8028), 0);
    CHECK_EQ(db.htSize, 1);
    CHECK_EQ(db.keySize, 1);
    CHECK_EQ(db.valSize, 1);
    CHECK_EQ(db.htSizeBytes, sizeof(Hashtable_s));
    CHECK_STR(get_text(&db, "b"), "2");
    CHECK_EQ(KISSDB_close(&db), 0);
    CHECK_EQ(open_sizes(&db, path, KISSDB_OPEN_MODE_RDWR, 0, 0, 0), 0);
    CHECK_EQ(db.valSize, 8028);
    CHECK_EQ(KISSDB_close(&db), 0);

    /* RWREPLACE takes the arguments again. */
    CHECK_EQ(open_sizes(&db, path, KISSDB_OPEN_MODE_RWREPLACE, RESOURCES), 0);
    CHECK_EQ(db.keySize, 64);
    CHECK_EQ(db.valSize, 212);
    CHECK_EQ(KISSDB_close(&db), 0);

    /* Any write mode is taken. */
    memset(&db, 0, sizeof db);
    CHECK_EQ(KISSDB_open(&db, path, KISSDB_OPEN_MODE_RDWR, 12345, SETTINGS), 0);
    CHECK_EQ(db.shared->writeMode, 12345);
    CHECK_EQ(KISSDB_close(&db), 0);
}

/* The file's bytes are what they were. */
static void untouched(const char *path, const void *bytes, size_t size) {
    size_t n;
    unsigned char *now_there = read_whole(path, &n);
    CHECK_EQ(n, size);
    CHECK(memcmp(now_there, bytes, size) == 0);
    free(now_there);
}

static void bad_files(void) {
    KISSDB db;
    const char *path = at("bad.db");
    static const int modes[] = {KISSDB_OPEN_MODE_RDONLY, KISSDB_OPEN_MODE_RDWR, KISSDB_OPEN_MODE_RWCREAT};

    /* Not there, or no file. */
    for (int m = 0; m < 2; m++) {
        errno = 0;
        CHECK_EQ(open_mode(&db, at("none.db"), modes[m]), -1);
        CHECK_EQ(errno, ENOENT);
        CHECK(!exists(at("none.db")));
    }
    for (int m = 0; m < 3; m++) {
        errno = 0;
        CHECK_EQ(open_mode(&db, at("no/such/directory.db"), modes[m]), -1);
        CHECK_EQ(errno, ENOENT);
        errno = 0;
        CHECK_EQ(open_mode(&db, "", modes[m]), -1);
        CHECK_EQ(errno, ENOENT);
        CHECK_EQ(open_mode(&db, check_dir, modes[m]), -1);
    }
    CHECK_EQ(mkfifo(path, 0600), 0);
    CHECK_EQ(open_mode(&db, path, KISSDB_OPEN_MODE_RDWR), -1);
    CHECK_EQ(remove(path), 0);
    for (int m = 0; m < 3; m++) {
        int answer = open_mode(&db, "/dev/null", modes[m]);
        CHECK(answer == -1 || answer == -4);
    }

    /* A good one to be spoiled. */
    open_plain(&db, path, KISSDB_OPEN_MODE_RWCREAT);
    put_text(&db, "a", "1");
    CHECK_EQ(KISSDB_close(&db), 0);
    size_t size;
    unsigned char *good = read_whole(path, &size), *bad = (unsigned char *)malloc(size);
    static const struct {
        long offset;
        uint64_t value;
        size_t bytes;
        int answer;
    } spoilt[] = {
        {0, 'X', 1, -4},          {2, 'b', 1, -4},          {3, 1, 1, -12},   {5, 4, 1, -12},
        {32, 0, 8, -4},           {32, 511, 8, -4},         {40, 0, 8, -4},   {40, 129, 8, -4},
        {48, 0, 8, -4},           {48, 8029, 8, -4},        {32, UINT64_MAX, 8, -4},
        {40, 1ULL << 32, 8, -4},  {48, 1ULL << 63, 8, -4},
    };
    for (size_t i = 0; i < sizeof spoilt / sizeof *spoilt; i++) {
        memcpy(bad, good, size);
        memcpy(bad + spoilt[i].offset, &spoilt[i].value, spoilt[i].bytes);
        write_file(path, bad, size);
        for (int m = 0; m < 3; m++) {
            CHECK_EQ(open_mode(&db, path, modes[m]), spoilt[i].answer);
            untouched(path, bad, size);
        }
    }

    /* Too short, and not ours. */
    memset(bad, 'x', size);
    static const size_t short_sizes[] = {1, 2, 3, 55, 64, 100, 4095, 4096};
    for (size_t i = 0; i < sizeof short_sizes / sizeof *short_sizes; i++) {
        write_file(path, bad, short_sizes[i]);
        for (int m = 0; m < 3; m++) {
            CHECK_EQ(open_mode(&db, path, modes[m]), -4);
            untouched(path, bad, short_sizes[i]);
        }
    }

    /* Too short, but zero or the start of a header: a creation that was cut off. */
    for (int zero = 0; zero < 2; zero++)
        for (size_t i = 0; i < sizeof short_sizes / sizeof *short_sizes; i++) {
            if (!zero && short_sizes[i] == 4096)
                continue; /* that one is complete */
            if (zero)
                memset(bad, 0, size);
            else
                memcpy(bad, good, size);
            write_file(path, bad, short_sizes[i]);
            errno = 0;
            CHECK_EQ(open_mode(&db, path, KISSDB_OPEN_MODE_RDONLY), -1);
            CHECK(errno != 0);
            untouched(path, bad, short_sizes[i]);
            CHECK_EQ(open_sizes(&db, path, KISSDB_OPEN_MODE_RDWR, RESOURCES), 0);
            /* Sizes: the file's if they are there, else the arguments. */
            CHECK_EQ(db.keySize, !zero && short_sizes[i] >= 56 ? 128 : 64);
            KISSDB_Iterator it;
            KISSDB_Iterator_init(&db, &it);
            CHECK_EQ(KISSDB_Iterator_next(&it, out, NULL), 0);
            put_text(&db, "b", "2");
            CHECK_EQ(KISSDB_close(&db), 0);
        }
    write_file(path, bad, 0);
    CHECK_EQ(open_mode(&db, path, KISSDB_OPEN_MODE_RDONLY), -1);
    CHECK_EQ(open_mode(&db, path, KISSDB_OPEN_MODE_RDWR), 0);
    CHECK_EQ(KISSDB_close(&db), 0);

    /* RWREPLACE takes what it finds away. */
    memset(bad, 'x', size);
    write_file(path, bad, size);
    CHECK_EQ(open_mode(&db, path, KISSDB_OPEN_MODE_RWREPLACE), 0);
    CHECK_EQ(KISSDB_close(&db), 0);
    CHECK_EQ(open_mode(&db, path, KISSDB_OPEN_MODE_RDONLY), 0);
    CHECK_EQ(KISSDB_close(&db), 0);
    free(good);
    free(bad);
}

/* A path whose object name is longer than a file name can be. */
static void long_paths(void) {
    KISSDB db;
    char path[300];
    for (int length = 245; length <= 250; length++) {
        memset(path, 0, sizeof path);
        snprintf(path, sizeof path, "%s/", check_dir);
        size_t n = strlen(path);
        CHECK(n < 200);
        memset(path + n, 'p', (size_t)length - n);
        CHECK_EQ(open_mode(&db, path, KISSDB_OPEN_MODE_RWCREAT), length < 247 ? 0 : -7);
        if (length < 247)
            CHECK_EQ(KISSDB_close(&db), 0);
    }
}

static void values(void) {
    KISSDB db;
    open_plain(&db, at("values.db"), KISSDB_OPEN_MODE_RWCREAT);
    for (size_t i = 0; i < sizeof in; i++)
        in[i] = (unsigned char)(i * 7 + i / 251);
    int step = rounds(20) == 20 ? 1 : 97;
    for (int pass = 0; pass < 2; pass++) {
        for (int size = 0; size <= 8028; size += size < 8000 ? step : 1) {
            char key[32];
            snprintf(key, sizeof key, "/value/%d", size % 50);
            if (pass == 0 || size % 400 == 0)
                CHECK_EQ(KISSDB_put(&db, key, in + (8028 - size), size, &done), 0);
            else
                continue;
            CHECK_EQ(done, size);
            memset(out, 0xEE, sizeof out);
            got = 99999;
            CHECK_EQ(KISSDB_get(&db, key, out, sizeof out, &got), 0);
            CHECK_EQ(got, size);
            CHECK(memcmp(out, in + (8028 - size), (size_t)size) == 0);
            CHECK(size == 8028 || out[size] == 0xEE);
        }
        CHECK_EQ(KISSDB_close(&db), 0);
        open_plain(&db, at("values.db"), KISSDB_OPEN_MODE_RDWR);
    }
    CHECK_EQ(KISSDB_put(&db, "nothing", NULL, 0, &done), 0);
    CHECK_EQ(done, 0);
    CHECK_EQ(KISSDB_get(&db, "nothing", NULL, 0, &got), 0);
    CHECK_EQ(got, 0);

    static const int bad[] = {-1, -8028, 8029, 65536, 2147483647, -2147483647 - 1};
    put_text(&db, "kept", "as it was");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        done = 77;
        CHECK_EQ(KISSDB_put(&db, "kept", in, bad[i], &done), -3);
        CHECK_EQ(done, 0);
        CHECK_STR(get_text(&db, "kept"), "as it was");
    }

    /* Room for the size only, none, one byte less, exactly enough. */
    got = 0;
    CHECK_EQ(KISSDB_get(&db, "kept", NULL, 0, &got), 0);
    CHECK_EQ(got, 9);
    for (uint32_t room = 0; room < 12; room++) {
        memset(out, 0xEE, sizeof out);
        got = 0;
        CHECK_EQ(KISSDB_get(&db, "kept", out, room, &got), 0);
        CHECK_EQ(got, 9);
        CHECK(room < 9 ? out[0] == 0xEE : memcmp(out, "as it was\xEE", 10) == 0);
    }
    CHECK_EQ(KISSDB_close(&db), 0);
}

static void keys(void) {
    KISSDB db;
    char key[200];
    open_plain(&db, at("keys.db"), KISSDB_OPEN_MODE_RWCREAT);
    static const int lengths[] = {0, 1, 63, 64, 65, 126, 127, 128, 129, 190};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        int length = lengths[i], good = length > 0 && length < 128;
        memset(key, 'k', sizeof key);
        key[length] = '\0';
        CHECK_EQ(KISSDB_get(&db, key, out, sizeof out, &got), 1);
        done = 77;
        CHECK_EQ(KISSDB_delete(&db, key, &done), 1);
        CHECK_EQ(done, -1310723);
        done = 77;
        CHECK_EQ(KISSDB_put(&db, key, "v", 1, &done), good ? 0 : -3);
        CHECK_EQ(done, good);
        CHECK_EQ(KISSDB_get(&db, key, out, sizeof out, &got), good ? 0 : 1);
    }
    /* A prefix, a longer one and bytes above 127 are keys of their own. */
    put_text(&db, "/a", "1");
    put_text(&db, "/a/", "2");
    put_text(&db, "/\xc3\xa4\xff", "3");
    CHECK_STR(get_text(&db, "/a"), "1");
    CHECK_STR(get_text(&db, "/a/"), "2");
    CHECK_STR(get_text(&db, "/\xc3\xa4\xff"), "3");
    CHECK_EQ(KISSDB_get(&db, "/", out, sizeof out, &got), 1);

    done = 77;
    CHECK_EQ(KISSDB_delete(&db, "/a", &done), 0);
    CHECK_EQ(done, 0);
    CHECK_EQ(KISSDB_get(&db, "/a", out, sizeof out, &got), 1);
    CHECK_EQ(KISSDB_delete(&db, "/a", &done), 1);
    CHECK_EQ(done, -1310723);
    put_text(&db, "/a", "again");
    CHECK_STR(get_text(&db, "/a"), "again");
    CHECK_STR(get_text(&db, "/a/"), "2");
    CHECK_EQ(KISSDB_close(&db), 0);
}

static void rights(void) {
    KISSDB a, b;
    const char *path = at("rights.db");
    mode_t mask = umask(027);
    open_plain(&a, path, KISSDB_OPEN_MODE_RWCREAT);
    umask(mask);
    struct stat st;
    CHECK_EQ(stat(path, &st), 0);
    CHECK_EQ(st.st_mode & 07777, 0640);
    put_text(&a, "k", "v");

    /* Nobody replaces what others use; they do not notice. */
    CHECK_EQ(KISSDB_put(&a, "l", "w", 1, &done), 0);
    memset(&b, 0, sizeof b);
    CHECK_EQ(KISSDB_open(&b, path, KISSDB_OPEN_MODE_RWREPLACE, KISSDB_WRITE_MODE_WT, SETTINGS), -5);
    cleanKdbStruct(&b);
    CHECK_STR(get_text(&a, "k"), "v");

    /* A reader beside a writer sees what it does, but keeps its own rights. */
    open_plain(&b, path, KISSDB_OPEN_MODE_RDONLY);
    CHECK_STR(get_text(&b, "k"), "v");
    put_text(&a, "k", "v2");
    CHECK_STR(get_text(&b, "k"), "v2");
    done = 77;
    CHECK_EQ(KISSDB_put(&b, "k", "v3", 2, &done), -5);
    CHECK_EQ(done, 0);
    done = 77;
    CHECK_EQ(KISSDB_delete(&b, "k", &done), -5);
    CHECK_EQ(done, 0);
    CHECK_STR(get_text(&a, "k"), "v2");
    /* The strongest mode among the users, and the first one's write mode. */
    CHECK_EQ(b.shared->openMode, KISSDB_OPEN_MODE_RWCREAT);
    CHECK_EQ(b.shared->writeMode, KISSDB_WRITE_MODE_WT);
    CHECK_EQ(KISSDB_close(&a), 0);
    CHECK_EQ(b.shared->openMode, KISSDB_OPEN_MODE_RDONLY);
    CHECK_EQ(KISSDB_put(&b, "k", "v3", 2, &done), -5);
    CHECK_STR(get_text(&b, "k"), "v2");

    /* A writer that comes later works beside a reader that was first. */
    open_plain(&a, path, KISSDB_OPEN_MODE_RDWR);
    put_text(&a, "k", "v4");
    CHECK_STR(get_text(&b, "k"), "v4");
    CHECK_EQ(KISSDB_close(&b), 0);
    CHECK_EQ(KISSDB_close(&a), 0);

    /* Read-only: the file stays as it is. */
    size_t size;
    unsigned char *before = read_whole(path, &size);
    open_plain(&b, path, KISSDB_OPEN_MODE_RDONLY);
    CHECK_STR(get_text(&b, "k"), "v4");
    CHECK_EQ(KISSDB_put(&b, "k", "v5", 2, &done), -5);
    CHECK_EQ(KISSDB_delete(&b, "none", &done), -5);
    CHECK_EQ(KISSDB_close(&b), 0);
    untouched(path, before, size);

    /* So it does for a reader and a writer that change nothing. */
    open_plain(&b, path, KISSDB_OPEN_MODE_RDWR);
    CHECK_STR(get_text(&b, "k"), "v4");
    CHECK_EQ(KISSDB_delete(&b, "none", &done), 1);
    CHECK_EQ(KISSDB_close(&b), 0);
    untouched(path, before, size);

    /* Not closed: a reader recovers in memory. */
    uint64_t flags[2] = {1, 0};
    write_at(path, 16, flags, sizeof flags);
    free(before);
    before = read_whole(path, &size);
    open_plain(&b, path, KISSDB_OPEN_MODE_RDONLY);
    CHECK_STR(get_text(&b, "k"), "v4");
    CHECK_STR(get_text(&b, "l"), "w");
    CHECK_EQ(KISSDB_close(&b), 0);
    untouched(path, before, size);
    free(before);

    /* A writer repairs it. */
    open_plain(&b, path, KISSDB_OPEN_MODE_RDWR);
    CHECK_STR(get_text(&b, "k"), "v4");
    CHECK_STR(get_text(&b, "l"), "w");
    CHECK_EQ(KISSDB_close(&b), 0);
    before = read_whole(path, &size);
    memcpy(flags, before + 16, sizeof flags);
    CHECK(flags[0] == 0 && flags[1] == 1);
    free(before);

    /* Replaced: as new. */
    open_plain(&b, path, KISSDB_OPEN_MODE_RWREPLACE);
    CHECK_EQ(KISSDB_get(&b, "k", out, sizeof out, &got), 1);
    CHECK_EQ(KISSDB_close(&b), 0);
    CHECK_EQ(stat(path, &st), 0);
    CHECK_EQ(st.st_size, 4096);
}

/* What only root gets around: run by a child without root's rights. */
static void as_nobody(int unused) {
    (void)unused;
    KISSDB db;
    if (geteuid() == 0) {
        CHECK_EQ(setgid(65534), 0);
        CHECK_EQ(setuid(65534), 0);
    }
    errno = 0;
    CHECK_EQ(open_mode(&db, at("sealed/a.db"), KISSDB_OPEN_MODE_RDWR), -1);
    CHECK_EQ(errno, EACCES);
    errno = 0;
    CHECK_EQ(open_mode(&db, at("sealed/new.db"), KISSDB_OPEN_MODE_RWCREAT), -1);
    CHECK_EQ(errno, EACCES);
    CHECK_EQ(open_mode(&db, at("sealed/a.db"), KISSDB_OPEN_MODE_RDONLY), 0);
    CHECK_STR(get_text(&db, "k"), "v");
    CHECK_EQ(KISSDB_close(&db), 0);
}

static void sealed(void) {
    KISSDB db;
    CHECK_EQ(mkdir(at("sealed"), 0755), 0);
    open_plain(&db, at("sealed/a.db"), KISSDB_OPEN_MODE_RWCREAT);
    put_text(&db, "k", "v");
    CHECK_EQ(KISSDB_close(&db), 0);
    CHECK_EQ(chmod(at("sealed/a.db"), 0444), 0);
    CHECK_EQ(chmod(at("sealed"), 0555), 0);
    join(child(as_nobody, 0));
    CHECK_EQ(chmod(at("sealed"), 0755), 0);
}

/* A file that may not grow: the answer is an error, the process lives, the database is as before. */
static void no_room(int unused) {
    (void)unused;
    KISSDB db;
    char key[32];
    open_plain(&db, at("full.db"), KISSDB_OPEN_MODE_RWCREAT);
    put_text(&db, "first", "1");
    struct rlimit limit = {65536, 65536};
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    int n = 0, answer = 0;
    for (; n < 100; n++) {
        snprintf(key, sizeof key, "key %d", n);
        errno = 0;
        done = 77;
        if ((answer = KISSDB_put(&db, key, key, (int)strlen(key), &done)) != 0)
            break;
    }
    CHECK_EQ(answer, -1);
    CHECK_EQ(errno, EFBIG);
    CHECK_EQ(done, 0);
    CHECK_EQ(KISSDB_get(&db, key, out, sizeof out, &got), 1);
    put_text(&db, "first", "2");
    CHECK_EQ(KISSDB_delete(&db, "key 0", &done), 0);
    CHECK_EQ(KISSDB_close(&db), 0);
}

/* Not enough of something for an open: an error code, nothing left behind; enough again: it works. */
static void limits(int unused) {
    (void)unused;
    KISSDB db;
    const char *path = at("limits.db");
    open_plain(&db, path, KISSDB_OPEN_MODE_RWCREAT);
    put_text(&db, "k", "v");
    CHECK_EQ(KISSDB_close(&db), 0);
    struct rlimit before, limit;

    /* Descriptors: 0, 1 and 2 are taken. */
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
    int opened = 0;
    for (rlim_t n = 3; n < 40; n++) {
        limit.rlim_cur = n;
        limit.rlim_max = before.rlim_max;
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
        errno = 0;
        int answer = open_mode(&db, path, KISSDB_OPEN_MODE_RDWR);
        int e = errno;
        if (answer == 0) {
            CHECK_STR(get_text(&db, "k"), "v");
            opened++;
        }
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
        if (answer == 0) {
            CHECK_EQ(KISSDB_close(&db), 0);
        } else {
            CHECK_EQ(opened, 0);
            CHECK(answer == KISSDB_ERROR_IO || answer == KISSDB_ERROR_OPEN_SHM);
            CHECK_EQ(e, EMFILE);
        }
        CHECK_EQ(objects_left(0), 0);
    }
    CHECK(opened > 0);

    /* Shared memory that can't be given its size. */
    CHECK_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit.rlim_cur = 100;
    limit.rlim_max = before.rlim_max;
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    CHECK_EQ(open_mode(&db, path, KISSDB_OPEN_MODE_RDWR), KISSDB_ERROR_RESIZE_SHM);
    Kdb_bool made = 7;
    char *name = kdbGetShmName("-cache", path);
    CHECK_EQ(kdbShmemOpen(name, 5000, &made), -1);
    free(name);
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
    CHECK_EQ(objects_left(0), 0);
    open_plain(&db, path, KISSDB_OPEN_MODE_RDWR);
    CHECK_STR(get_text(&db, "k"), "v");
    CHECK_EQ(KISSDB_close(&db), 0);
}

/* Shared objects are open to who may open the file, and to no program that is executed. */
static void object_rights(void) {
    KISSDB db;
    static const char *const tails[] = {"-shm-info", "-ht", "-cache"};
    static const mode_t modes[] = {0600, 0640, 0664, 0666};
    for (size_t m = 0; m < sizeof modes / sizeof *modes; m++) {
        const char *path = at("modes.db");
        mode_t mask = umask(0777 & ~modes[m]);
        open_plain(&db, path, KISSDB_OPEN_MODE_RWCREAT);
        umask(077);
        Kdb_bool made;
        int cache = kdbShmemOpen(db.cacheName, 100, &made);
        CHECK(cache >= 0 && made == Kdb_true);
        for (int i = 0; i < 3; i++) {
            struct stat st, of_file;
            char file[1200];
            snprintf(file, sizeof file, "/dev/shm/%s", object(path, tails[i]));
            CHECK_EQ(stat(file, &st), 0);
            CHECK_EQ(stat(path, &of_file), 0);
            CHECK_EQ(of_file.st_mode & 0777, modes[m]);
            CHECK_EQ(st.st_mode & 0777, modes[m]);
            CHECK_EQ(st.st_gid, of_file.st_gid);
        }
        CHECK_EQ(fcntl(cache, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
        CHECK_EQ(fcntl(db.sharedFd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
        CHECK_EQ(fcntl(db.htFd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
        CHECK_EQ(kdbShmemClose(cache, db.cacheName), Kdb_true);
        CHECK_EQ(KISSDB_close(&db), 0);
        umask(mask);
        CHECK_EQ(remove(path), 0);
    }
}

/* Two files whose object names are the same; one file under several names. */
static void names(void) {
    KISSDB a, b, c;
    open_plain(&a, at("x.db"), KISSDB_OPEN_MODE_RWCREAT);
    open_plain(&b, at("x_db"), KISSDB_OPEN_MODE_RWCREAT);
    put_text(&a, "k", "dot");
    put_text(&b, "k", "underscore");
    CHECK_STR(get_text(&a, "k"), "dot");
    CHECK(strcmp(a.cacheName, b.cacheName) != 0);
    open_plain(&c, at("x_db"), KISSDB_OPEN_MODE_RDWR);
    CHECK_STR(get_text(&c, "k"), "underscore");
    CHECK_STR(c.cacheName, b.cacheName);
    CHECK_EQ(KISSDB_close(&a), 0);
    put_text(&c, "k", "still there");
    CHECK_STR(get_text(&b, "k"), "still there");
    CHECK_EQ(KISSDB_close(&b), 0);
    CHECK_EQ(KISSDB_close(&c), 0);
    CHECK_EQ(objects_left(0), 0);

    CHECK_EQ(link(at("x.db"), at("hard.db")), 0);
    CHECK_EQ(symlink("x.db", at("soft.db")), 0);
    char twisted[1200];
    snprintf(twisted, sizeof twisted, "%s/./x.db", check_dir);
    const char *const others[] = {at("hard.db"), at("soft.db"), twisted};
    open_plain(&a, at("x.db"), KISSDB_OPEN_MODE_RDWR);
    for (int i = 0; i < 3; i++) {
        char text[20];
        open_plain(&b, others[i], KISSDB_OPEN_MODE_RDWR);
        snprintf(text, sizeof text, "way %d", i);
        put_text(&b, "k", text);
        CHECK_STR(get_text(&a, "k"), text);
        put_text(&a, "k", "straight");
        CHECK_STR(get_text(&b, "k"), "straight");
        CHECK_STR(b.cacheName, a.cacheName);
        memset(&c, 0, sizeof c);
        CHECK_EQ(KISSDB_open(&c, others[i], KISSDB_OPEN_MODE_RWREPLACE, KISSDB_WRITE_MODE_WT, SETTINGS), -5);
        CHECK_EQ(KISSDB_close(&b), 0);
        CHECK_STR(get_text(&a, "k"), "straight");
    }
    CHECK_EQ(KISSDB_close(&a), 0);
}

/* Somebody makes the file shorter under us: an error code, no crash, and nobody is stuck. */
static void shortened(void) {
    KISSDB db;
    char key[129];
    const char *path = at("short.db");
    for (int keep = 0; keep < 3; keep++) {
        open_plain(&db, path, KISSDB_OPEN_MODE_RWREPLACE);
        for (int i = 0; i < 30; i++) {
            snprintf(key, sizeof key, "key %d", i);
            put_text(&db, key, key);
        }
        CHECK_EQ(truncate(path, keep * 16384), 0);
        int failed = 0;
        for (int i = 0; i < 30; i++) {
            snprintf(key, sizeof key, "key %d", i);
            int answer = KISSDB_get(&db, key, out, sizeof out, &got);
            CHECK(answer <= 1);
            failed += answer < 0;
            KISSDB_put(&db, key, "x", 1, &done);
            KISSDB_delete(&db, key, &done);
        }
        KISSDB_Iterator it;
        KISSDB_Iterator_init(&db, &it);
        for (int i = 0; i < 100 && KISSDB_Iterator_next(&it, key, NULL) == 1; i++) {
        }
        CHECK(failed > 0);
        KISSDB_close(&db);
        CHECK_EQ(KISSDB_close(&db), -3);
    }
}

static void cycle(void) {
    KISSDB db, other;
    KISSDB_Iterator it;
    const char *path = at("cycle.db");
    char name[1100];
    open_plain(&db, path, KISSDB_OPEN_MODE_RWCREAT);
    CHECK_EQ(db.alreadyOpen, Kdb_true);
    CHECK_EQ(db.htSize, 510);
    CHECK_EQ(db.keySize, 128);
    CHECK_EQ(db.valSize, 8028);
    CHECK_EQ(db.sharedCacheFd, -1);
    CHECK(db.sharedCache == NULL && db.shared != NULL && db.kdbSem == NULL && db.semName == NULL);
    CHECK_EQ(db.shared->openMode, KISSDB_OPEN_MODE_RWCREAT);
    CHECK_EQ(db.shared->writeMode, KISSDB_WRITE_MODE_WT);
    CHECK_EQ(db.shared->cacheCreated, Kdb_false);
    CHECK_EQ(db.shared->refCount, 0);
    snprintf(name, sizeof name, "/%s", object(path, "-cache"));
    CHECK_STR(db.cacheName, name);
    CHECK(object_exists(path, "-shm-info") && object_exists(path, "-ht"));
    CHECK(!object_exists(path, "-cache") && !object_exists(path, "-sem"));

    /* fd is a descriptor of the file. */
    struct stat by_fd, by_path;
    CHECK_EQ(fstat(db.fd, &by_fd), 0);
    CHECK_EQ(stat(path, &by_path), 0);
    CHECK_EQ(by_fd.st_ino, by_path.st_ino);
    put_text(&db, "k", "v");
    CHECK_EQ(fdatasync(db.fd), 0);
    CHECK_EQ(fcntl(db.fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);

    /* Open already: nothing is loaded again, nothing counted twice. */
    CHECK_EQ(KISSDB_open(&db, path, KISSDB_OPEN_MODE_RDWR, KISSDB_WRITE_MODE_WC, SETTINGS), 0);
    CHECK_STR(get_text(&db, "k"), "v");
    CHECK_EQ(db.shared->writeMode, KISSDB_WRITE_MODE_WT);

    /* A second handle in the process; each sees the other's changes. */
    open_plain(&other, path, KISSDB_OPEN_MODE_RDWR);
    CHECK_STR(get_text(&other, "k"), "v");
    put_text(&other, "k", "w");
    put_text(&other, "l", "x");
    CHECK_STR(get_text(&db, "k"), "w");
    KISSDB_Iterator_init(&other, &it);
    CHECK_EQ(KISSDB_close(&other), 0);
    CHECK(object_exists(path, "-shm-info") && object_exists(path, "-ht"));
    CHECK_EQ(KISSDB_Iterator_next(&it, out, NULL), -3);
    CHECK_STR(get_text(&db, "l"), "x");
    CHECK_EQ(KISSDB_close(&db), 0);
    CHECK(!object_exists(path, "-shm-info") && !object_exists(path, "-ht"));

    /* Closed: as new, and closed for every call. */
    KISSDB fresh;
    memset(&fresh, 0, sizeof fresh);
    fresh.sharedCacheFd = -1;
    CHECK_EQ(db.alreadyOpen, Kdb_false);
    CHECK(db.htSize == 0 && db.keySize == 0 && db.valSize == 0 && db.hashTables == NULL && db.mappedDb == NULL);
    CHECK(db.sharedCache == NULL && db.semName == NULL && db.sharedName == NULL && db.cacheName == NULL);
    CHECK(db.htName == NULL && db.shared == NULL && db.tbl[0] == NULL && db.kdbSem == NULL);
    CHECK_EQ(db.sharedCacheFd, -1);
    CHECK_EQ(KISSDB_close(&db), -3);
    CHECK_EQ(KISSDB_close(&db), -3);
    CHECK_EQ(KISSDB_get(&db, "k", out, sizeof out, &got), -3);

    /* The same struct again, without zeroing it. */
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(KISSDB_open(&db, path, KISSDB_OPEN_MODE_RDWR, KISSDB_WRITE_MODE_WT, SETTINGS), 0);
        CHECK_STR(get_text(&db, "k"), "w");
        CHECK_EQ(KISSDB_close(&db), 0);
    }

    /* Closing a copy of a handle that is closed already does not harm a new one in its place. */
    CHECK_EQ(KISSDB_open(&db, path, KISSDB_OPEN_MODE_RDWR, KISSDB_WRITE_MODE_WT, SETTINGS), 0);
    memcpy(&other, &db, sizeof other);
    CHECK_EQ(KISSDB_close(&db), 0);
    open_plain(&db, path, KISSDB_OPEN_MODE_RDWR);
    CHECK_EQ(KISSDB_get(&other, "k", out, sizeof out, &got), -3);
    CHECK_STR(get_text(&db, "k"), "w");
    CHECK_EQ(KISSDB_close(&db), 0);
}

static void damage(void) {
    KISSDB db;
    const char *path = at("damage.db");
    open_plain(&db, path, KISSDB_OPEN_MODE_RWCREAT);
    put_text(&db, "first", "the first value");
    put_text(&db, "second", "the second value");
    CHECK_EQ(KISSDB_close(&db), 0);
    size_t size;
    unsigned char *good = read_whole(path, &size);
    /* The first pair lies behind header and table: A at 16384, B at 24576; the value begins at 148. */
    for (int which = 1; which <= 3; which++)
        for (int mode = KISSDB_OPEN_MODE_RDONLY; mode <= KISSDB_OPEN_MODE_RDWR; mode++) {
            write_file(path, good, size);
            for (int b = 0; b < 2; b++)
                if (which & (1 << b))
                    write_at(path, 16384 + 8192 * b + 148, "XX", 2);
            open_plain(&db, path, mode);
            if (which < 3) {
                CHECK_STR(get_text(&db, "first"), "the first value");
            } else {
                CHECK_EQ(KISSDB_get(&db, "first", out, sizeof out, &got), -4);
                KISSDB_Iterator it;
                KISSDB_Iterator_init(&db, &it);
                CHECK_EQ(KISSDB_Iterator_next(&it, out, NULL), 1);
                CHECK_STR((char *)out, "second");
                CHECK_EQ(KISSDB_Iterator_next(&it, out, NULL), 0);
            }
            CHECK_STR(get_text(&db, "second"), "the second value");
            if (mode == KISSDB_OPEN_MODE_RDWR) {
                put_text(&db, "first", "a new value");
                CHECK_STR(get_text(&db, "first"), "a new value");
            }
            CHECK_EQ(KISSDB_close(&db), 0);
        }
    free(good);
}

static void iteration(void) {
    enum { KEYS = 700 };
    static int seen[KEYS + 100];
    KISSDB db;
    KISSDB_Iterator it;
    char key[129], value[8029], name[32];
    open_plain(&db, at("iterate.db"), KISSDB_OPEN_MODE_RWCREAT);
    KISSDB_Iterator_init(&db, &it);
    CHECK_EQ(KISSDB_Iterator_next(&it, key, value), 0);
    int keys = rounds(KEYS);
    for (int i = 0; i < keys; i++) {
        snprintf(name, sizeof name, "/key/%d", i);
        CHECK_EQ(KISSDB_put(&db, name, name, 5 + i % 3, &done), 0);
    }

    /* Everything once; whole buffers, zeros behind. */
    memset(seen, 0, sizeof seen);
    KISSDB_Iterator_init(&db, &it);
    key[128] = 'K', value[8028] = 'V';
    int n = 0;
    for (;; n++) {
        memset(key, 0xEE, 128);
        memset(value, 0xEE, 8028);
        int answer = KISSDB_Iterator_next(&it, key, value);
        if (answer == KISSDB_ITERATOR_NEXT_ITEM_NOT_FOUND)
            break;
        CHECK_EQ(answer, KISSDB_ITERATOR_NEXT_ITEM_FOUND);
        int i = atoi(key + 5);
        CHECK(i >= 0 && i < keys);
        seen[i]++;
        size_t length = strlen(key), size = 5 + (size_t)i % 3;
        for (size_t j = length; j < 128; j++)
            CHECK_EQ(key[j], 0);
        CHECK(memcmp(value, key, size < length ? size : length) == 0);
        for (size_t j = size; j < 8028; j++)
            CHECK_EQ(value[j], 0);
    }
    CHECK(key[128] == 'K' && value[8028] == 'V');
    CHECK_EQ(n, keys);
    for (int i = 0; i < keys; i++)
        CHECK_EQ(seen[i], 1);
    CHECK_EQ(KISSDB_Iterator_next(&it, key, value), 0);
    CHECK_EQ(KISSDB_Iterator_next(&it, key, NULL), 0);

    /* While others change: what is there throughout comes exactly once, without values this time. */
    memset(seen, 0, sizeof seen);
    KISSDB_Iterator_init(&db, &it);
    int added = 0;
    for (n = 0; KISSDB_Iterator_next(&it, key, NULL) == 1; n++) {
        int i = atoi(key + 5);
        CHECK(i >= 0 && i < KEYS + 100);
        seen[i]++;
        snprintf(name, sizeof name, "/key/%d", i);
        if (i % 7 == 3) /* delete what just came */
            CHECK_EQ(KISSDB_delete(&db, name, &done), 0);
        if (i % 7 == 5) /* write over what just came */
            CHECK_EQ(KISSDB_put(&db, name, "changed", 7, &done), 0);
        if (n % 10 == 0 && added < 100) {
            snprintf(name, sizeof name, "/key/%d", KEYS + added++);
            CHECK_EQ(KISSDB_put(&db, name, "added", 5, &done), 0);
        }
        CHECK(n < 2 * (KEYS + 100));
    }
    for (int i = 0; i < keys; i++)
        CHECK_EQ(seen[i], 1);
    for (int i = KEYS; i < KEYS + 100; i++)
        CHECK(seen[i] <= 1);

    /* What was deleted does not come any more. Two iterators do not disturb one another. */
    KISSDB_Iterator second;
    KISSDB_Iterator_init(&db, &it);
    KISSDB_Iterator_init(&db, &second);
    int first_count = 0, second_count = 0;
    while (KISSDB_Iterator_next(&it, key, NULL) == 1) {
        int i = atoi(key + 5);
        CHECK(i % 7 != 3 || i >= KEYS);
        first_count++;
        if (first_count % 2)
            second_count += KISSDB_Iterator_next(&second, key, NULL);
    }
    while (KISSDB_Iterator_next(&second, key, value) == 1)
        second_count++;
    CHECK_EQ(first_count, second_count);
    CHECK_EQ(KISSDB_close(&db), 0);
}

static void helpers(void) {
    /* Names. */
    char *name = kdbGetShmName("-shm-info", "/tmp/a.db");
    CHECK_STR(name, "/_tmp_a_db-shm-info");
    free(name);
    name = kdbGetShmName("-sem", "x\xc3\xa4 Z9");
    CHECK_STR(name, "/x___Z9-sem");
    free(name);
    name = kdbGetShmName("", "");
    CHECK_STR(name, "/");
    free(name);
    CHECK(kdbGetShmName(NULL, "x") == NULL && kdbGetShmName("-ht", NULL) == NULL);

    /* Shared objects of the caller's own. */
    Kdb_bool made = 7, again = 7;
    const char *path = at("helper");
    name = kdbGetShmName("-cache", path);
    int fd = kdbShmemOpen(name, 5000, &made);
    CHECK(fd >= 0 && made == Kdb_true);
    CHECK(object_exists(path, "-cache"));
    struct stat st;
    CHECK_EQ(fstat(fd, &st), 0);
    CHECK_EQ(st.st_size, 5000);
    int fd2 = kdbShmemOpen(name, 5000, &again);
    CHECK(fd2 >= 0 && fd2 != fd && again == Kdb_false);
    char *p = (char *)getKdbShmemPtr(fd, 5000), *q = (char *)getKdbShmemPtr(fd2, 5000);
    CHECK(p != (void *)-1 && q != (void *)-1 && p != q);
    p[4999] = 'x';
    CHECK_EQ(q[4999], 'x');
    CHECK_EQ(q[0], 0);
    CHECK_EQ(freeKdbShmemPtr(p, 5000), Kdb_true);
    CHECK_EQ(freeKdbShmemPtr(q, 5000), Kdb_true);
    CHECK_EQ(kdbShmemClose(fd2, name), Kdb_true);
    CHECK(!object_exists(path, "-cache"));
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(kdbShmemClose(-1, name), Kdb_false);
    free(name);
    CHECK_EQ(kdbShmemOpen(NULL, 10, &made), -1);
    CHECK_EQ(kdbShmemOpen("/x", 10, NULL), -1);
    errno = 0;
    CHECK_EQ(kdbShmemOpen("/no/such", 10, &made), -1);
    CHECK(errno != 0);
    CHECK(getKdbShmemPtr(-1, 10) == (void *)-1);
    CHECK(getKdbShmemPtr(0, 0) == (void *)-1);
    CHECK_EQ(freeKdbShmemPtr(NULL, 10), Kdb_false);
    CHECK_EQ(freeKdbShmemPtr((void *)-1, 10), Kdb_false);
    CHECK_EQ(kdbShmemClose(0, NULL), Kdb_false);

    /* Locks: of a database, and one that is nobody's. */
    KISSDB db;
    pthread_rwlock_t own;
    CHECK_EQ(pthread_rwlock_init(&own, NULL), 0);
    open_plain(&db, at("locks.db"), KISSDB_OPEN_MODE_RWCREAT);
    pthread_rwlock_t *locks[] = {&own, &db.shared->rwlock};
    for (int i = 0; i < 2; i++) {
        Kdb_rdlock(locks[i]);
        Kdb_rdlock(locks[i]);
        Kdb_unlock(locks[i]);
        Kdb_unlock(locks[i]);
        Kdb_wrlock(locks[i]);
        put_text(&db, "k", "v");
        CHECK_STR(get_text(&db, "k"), "v");
        Kdb_unlock(locks[i]);
        Kdb_wrlock(locks[i]);
        Kdb_unlock(locks[i]);
    }
    Kdb_wrlock(NULL);
    Kdb_rdlock(NULL);
    Kdb_unlock(NULL);
    CHECK_EQ(pthread_rwlock_destroy(&own), 0);
    CHECK_EQ(KISSDB_close(&db), 0);

    /* Links. */
    char link[256], want[1200];
    CHECK_EQ(mkdir(at("real"), 0755), 0);
    CHECK_EQ(symlink(at("real"), at("absolute")), 0);
    CHECK_EQ(symlink("real", at("relative")), 0);
    CHECK_EQ(checkIsLink(at("real/a.db"), link), -1);
    CHECK_EQ(checkIsLink(at("none/a.db"), link), -1);
    CHECK_EQ(checkIsLink("a.db", link), -1);
    CHECK_EQ(checkIsLink("", link), -1);
    CHECK_EQ(checkIsLink("/a.db", link), -1);
    CHECK_EQ(checkIsLink(at("absolute/a.db"), link), 1);
    snprintf(want, sizeof want, "%s/real/a.db", check_dir);
    CHECK_STR(link, want);
    CHECK_EQ(checkIsLink(at("relative/a.db"), link), 1);
    CHECK_STR(link, want);
    CHECK_EQ(checkIsLink(NULL, link), -1);
    CHECK_EQ(checkIsLink(at("absolute/a.db"), NULL), -1);
    char deep[900];
    memset(deep, 'd', sizeof deep);
    deep[sizeof deep - 1] = '\0';
    snprintf(want, sizeof want, "%s/absolute/%.255s", check_dir, deep);
    CHECK_EQ(checkIsLink(want, link), -1);
    snprintf(want, sizeof want, "%s/%s/a.db", check_dir, deep);
    CHECK_EQ(checkIsLink(want, link), -1);

    /* The dialect. */
    static unsigned char bytes[8168];
    CHECK_EQ(pcoCrc32(0, (const unsigned char *)"123456789", 9), 0xcbf43926);
    CHECK_EQ(pcoCrc32(0, bytes, 1), 0);
    CHECK_EQ(pcoCrc32(0, bytes, 8168), 0);
    memset(bytes, 0xFF, 16);
    CHECK_EQ(pcoCrc32(0, bytes, 16), 0xffffffff);
    for (int i = 0; i < 1024; i++)
        bytes[i] = (unsigned char)i;
    CHECK_EQ(pcoCrc32(0, bytes, 256), 0x017051c0);
    CHECK_EQ(pcoCrc32(0, bytes, 1024), 0xe894b6dd);
    CHECK_EQ(pcoCrc32(pcoCrc32(0, bytes, 100), bytes + 100, 156), 0x017051c0);
    CHECK_EQ(pcoCrc32(5, NULL, 0), 5);
}

static const struct {
    const char *name;
    void (*run)(void);
} parts[] = {
    {"nulls", nulls},   {"sizes", sizes},     {"bad_files", bad_files}, {"long_paths", long_paths},
    {"values", values}, {"keys", keys},       {"rights", rights},       {"sealed", sealed},
    {"cycle", cycle},   {"damage", damage},   {"iteration", iteration}, {"helpers", helpers},
    {"names", names},   {"shortened", shortened}, {"object_rights", object_rights},
};

/* With a name: only that part. */
int main(int argc, char **argv) {
    begin(300);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (argc < 2 || strcmp(argv[1], parts[i].name) == 0) {
            fprintf(stderr, "%s\n", parts[i].name);
            parts[i].run();
            CHECK_EQ(objects_left(0), 0);
        }
    if (argc < 2 || strcmp(argv[1], "limits") == 0) {
        join(child(no_room, 0));
        join(child(limits, 0));
    }
    return end();
}
