/*
 * A program that knows nothing of DLT, with a library built for it (make test-dlt runs it beside a
 * daemon): libdlt is not woken up before the first message, so that a fork child may be the first to
 * have one. In a child of a process that has used it libdlt does nothing; that must do no harm.
 */
#include "check.h"

#define FIRST_PAIR (4096 + 12288)
#define VALUE 148

/* libdlt makes a pipe for each process that uses it. */
static int dlt_is_awake(void) {
    char pipe[512];
    snprintf(pipe, sizeof pipe, "%s/dltpipes/dlt%d", getenv("DLT_PIPE_DIR"), (int)getpid());
    return exists(pipe);
}

/* One message: a damaged copy. */
static void read_damaged(KISSDB *db) {
    CHECK_STR(get_text(db, "key"), "value");
}

static KISSDB inherited;

static void in_child(int first) {
    read_damaged(&inherited);
    CHECK_EQ(dlt_is_awake(), first);
    CHECK_EQ(KISSDB_close(&inherited), 0);
}

int main(void) {
    begin(60);
    CHECK(getenv("DLT_PIPE_DIR") != NULL);
    KISSDB db;
    const char *path = at("dlt.db");
    open_plain(&db, path, KISSDB_OPEN_MODE_RWCREAT);
    put_text(&db, "key", "value");
    CHECK_EQ(KISSDB_close(&db), 0);
    write_at(path, FIRST_PAIR + VALUE, "\xEE", 1);
    open_plain(&db, path, KISSDB_OPEN_MODE_RWCREAT);
    open_plain(&inherited, path, KISSDB_OPEN_MODE_RWCREAT);
    CHECK(!dlt_is_awake());

    join(child(in_child, 1));
    CHECK(!dlt_is_awake());
    read_damaged(&db);
    CHECK(dlt_is_awake());
    join(child(in_child, 0));
    CHECK_EQ(KISSDB_close(&inherited), 0);
    CHECK_EQ(KISSDB_close(&db), 0);
    return end();
}
