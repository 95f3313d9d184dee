/*
 * kissdb_set_log: silent until asked; then recovery, damage and deaths, in one line each, with the
 * file, the offset and the key; levels; the callback may use the library.
 */
#include "check.h"

static struct {
    int count;
    int level[64];
    char text[64][512];
    KISSDB *used; /* the callback reads a key of it */
} heard;

static void hear(void *context, int level, const char *message) {
    CHECK(context == &heard);
    CHECK(strchr(message, '\n') == NULL);
    if (heard.count < 64) {
        heard.level[heard.count] = level;
        snprintf(heard.text[heard.count], sizeof *heard.text, "%s", message);
    }
    heard.count++;
    errno = 0;
    if (heard.used != NULL) {
        uint32_t size = 0;
        CHECK_EQ(KISSDB_get(heard.used, "damaged", NULL, 0, &size), KISSDB_ERROR_CORRUPT_DBFILE);
    }
}

static void listen_to(int level) {
    memset(&heard, 0, sizeof heard);
    CHECK_EQ(kissdb_set_log(hear, &heard, level), 0);
}

/* Whether a message of this level begins with the path and has both parts. */
static int was_heard(int level, const char *path, const char *part, const char *other) {
    for (int i = 0; i < heard.count && i < 64; i++)
        if (heard.level[i] == level && strncmp(heard.text[i], path, strlen(path)) == 0 &&
            strstr(heard.text[i], part) != NULL && strstr(heard.text[i], other) != NULL)
            return 1;
    for (int i = 0; i < heard.count && i < 64; i++)
        fprintf(stderr, "heard: %d %s\n", heard.level[i], heard.text[i]);
    return 0;
}

static void damage(const char *path, long offset) {
    write_at(path, offset, "\xEE", 1);
}

static void die_with_it_open(int unused) {
    (void)unused;
    KISSDB db;
    open_plain(&db, at("death.db"), KISSDB_OPEN_MODE_RDWR);
    put_text(&db, "key", "value");
    raise(SIGKILL);
}

/* The first pair of a new file begins behind the header and one table. */
#define FIRST_PAIR (4096 + 12288)
#define VALUE 148

/* One copy of "good" and both of "damaged" lose a byte while the file is closed. */
static void test_damage(void) {
    const char *path = at("damage.db");
    KISSDB db;
    open_plain(&db, path, KISSDB_OPEN_MODE_RWCREAT);
    put_text(&db, "good", "value");
    put_text(&db, "damaged", "value");
    CHECK_EQ(KISSDB_close(&db), 0);
    damage(path, FIRST_PAIR + VALUE);
    damage(path, FIRST_PAIR + 16384 + VALUE);
    damage(path, FIRST_PAIR + 16384 + 8192 + VALUE);

    listen_to(KISSDB_LOG_INFO);
    open_plain(&db, path, KISSDB_OPEN_MODE_RWCREAT);
    char value[16];
    uint32_t size = 0;
    CHECK_EQ(KISSDB_get(&db, "good", value, sizeof value, &size), 0);
    CHECK(was_heard(KISSDB_LOG_WARNING, path, "pair at 16384, key \"good\"", "served from copy B"));
    CHECK_EQ(KISSDB_get(&db, "damaged", value, sizeof value, &size), KISSDB_ERROR_CORRUPT_DBFILE);
    CHECK(was_heard(KISSDB_LOG_ERROR, path, "pair at 32768, key \"damaged\"", "both copies"));

    /* Only what was asked for; and the callback may use the handle that the call was about. */
    listen_to(KISSDB_LOG_ERROR);
    CHECK_EQ(KISSDB_get(&db, "good", value, sizeof value, &size), 0);
    CHECK_EQ(heard.count, 0);
    heard.used = &db;
    CHECK_EQ(KISSDB_get(&db, "damaged", value, sizeof value, &size), KISSDB_ERROR_CORRUPT_DBFILE);
    CHECK_EQ(heard.count, 1);

    /* Silence again. */
    CHECK_EQ(kissdb_set_log(NULL, NULL, 0), 0);
    CHECK_EQ(KISSDB_get(&db, "damaged", value, sizeof value, &size), KISSDB_ERROR_CORRUPT_DBFILE);
    CHECK_EQ(heard.count, 1);
    CHECK_EQ(KISSDB_close(&db), 0);
}

/* A process dies with the database open; the next one recovers it, by the tables. */
static void test_death(void) {
    const char *path = at("death.db");
    KISSDB db;
    open_plain(&db, path, KISSDB_OPEN_MODE_RWCREAT);
    put_text(&db, "before", "value");
    CHECK_EQ(KISSDB_close(&db), 0);
    pid_t pid = child(die_with_it_open, 0);
    int status = 0;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFSIGNALED(status));

    listen_to(KISSDB_LOG_INFO);
    open_plain(&db, path, KISSDB_OPEN_MODE_RWCREAT);
    char died[64];
    snprintf(died, sizeof died, "process %d died", (int)pid);
    CHECK(was_heard(KISSDB_LOG_WARNING, path, died, ""));
    CHECK(was_heard(KISSDB_LOG_INFO, path, "recovery begins", "not closed by this library"));
    CHECK(was_heard(KISSDB_LOG_INFO, path, "recovery ended", "by the tables, 1 of them"));
    CHECK_EQ(KISSDB_close(&db), 0);
    CHECK_EQ(kissdb_set_log(NULL, NULL, 0), 0);
}

/* A closed file whose only table has lost its delimiters is walked. */
static void test_lost_table(void) {
    const char *path = at("table.db");
    KISSDB db;
    open_plain(&db, path, KISSDB_OPEN_MODE_RWCREAT);
    put_text(&db, "key", "value");
    CHECK_EQ(KISSDB_close(&db), 0);
    damage(path, 4096);
    damage(path, FIRST_PAIR - 8);

    listen_to(KISSDB_LOG_INFO);
    open_plain(&db, path, KISSDB_OPEN_MODE_RWCREAT);
    CHECK(was_heard(KISSDB_LOG_INFO, path, "recovery begins", "tables are not whole"));
    CHECK(was_heard(KISSDB_LOG_WARNING, path, "table 0 is lost", ""));
    CHECK(was_heard(KISSDB_LOG_INFO, path, "whole walk", "1 tables, 1 pairs"));
    uint32_t size = 0;
    CHECK_EQ(KISSDB_get(&db, "key", NULL, 0, &size), 0);
    CHECK_EQ(KISSDB_close(&db), 0);
    CHECK_EQ(kissdb_set_log(NULL, NULL, 0), 0);
}

/* Somebody shortens the file while it is open. */
static void test_cut_off(void) {
    const char *path = at("cut.db");
    KISSDB db;
    open_plain(&db, path, KISSDB_OPEN_MODE_RWCREAT);
    put_text(&db, "key", "value");
    listen_to(KISSDB_LOG_ERROR);
    CHECK_EQ(truncate(path, 4096), 0);
    uint32_t size = 0;
    CHECK_EQ(KISSDB_get(&db, "key", NULL, 0, &size), KISSDB_ERROR_IO);
    CHECK_EQ(errno, EIO);
    CHECK(was_heard(KISSDB_LOG_ERROR, path, "cut off while open", ""));
    CHECK_EQ(KISSDB_close(&db), KISSDB_ERROR_IO);
    CHECK(was_heard(KISSDB_LOG_ERROR, path, "not durable at the close", ""));
    CHECK_EQ(kissdb_set_log(NULL, NULL, 0), 0);
}

static void test_arguments(void) {
    CHECK_EQ(kissdb_set_log(hear, &heard, 0), KISSDB_ERROR_INVALID_PARAMETERS);
    CHECK_EQ(kissdb_set_log(hear, &heard, KISSDB_LOG_INFO + 1), KISSDB_ERROR_INVALID_PARAMETERS);
    CHECK_EQ(kissdb_set_log(NULL, NULL, 99), 0);
}

int main(void) {
    begin(100);
    test_arguments();
    test_damage();
    test_death();
    test_lost_table();
    test_cut_off();
    return end();
}
