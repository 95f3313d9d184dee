/*
 * A resource table: keys of 64 and values of 212 bytes, with keys that are longer than the database's
 * key size, enough of them for a chain of tables, and reopened.
 */
#include "check.h"

static void open_resources(KISSDB *db, const char *path, int mode) {
    memset(db, 0, sizeof *db);
    CHECK_EQ(KISSDB_open(db, path, mode, KISSDB_WRITE_MODE_WT, RESOURCES), 0);
    CHECK_EQ(db->keySize, 64);
    CHECK_EQ(db->valSize, 212);
}

/* A key of 20 to 127 bytes whose number can be read from its first bytes. */
static const char *name(int n) {
    static char key[200];
    snprintf(key, sizeof key, "%06d/resource/%.*s", n, n % 112,
             "configuration/of/a/resource/that/has/a/rather/long/name/so/that/it/does/not/fit/into/sixty/four/bytes/at/all/12345");
    CHECK(strlen(key) < 128);
    return key;
}

int main(void) {
    begin(100);
    const char *path = at("resources.db");
    int keys = rounds(1200);
    unsigned char value[212], out[212];
    int32_t done;
    uint32_t size;
    KISSDB db;
    open_resources(&db, path, KISSDB_OPEN_MODE_RWCREAT);
    for (int n = 0; n < keys; n++) {
        memset(value, n % 256, sizeof value);
        CHECK_EQ(KISSDB_put(&db, name(n), value, n % 213, &done), 0);
        CHECK_EQ(done, n % 213);
    }
    /* 213 bytes are too many here, 8028 too; the key there is not touched. */
    CHECK_EQ(KISSDB_put(&db, name(1), value, 213, &done), -3);
    CHECK_EQ(done, 0);
    CHECK_EQ(KISSDB_put(&db, name(1), value, 8028, &done), -3);
    for (int n = 0; n < keys; n += 3)
        CHECK_EQ(KISSDB_delete(&db, name(n), &done), 0);

    for (int life = 0; life < 2; life++) {
        for (int n = 0; n < keys; n++) {
            memset(out, 0xEE, sizeof out);
            CHECK_EQ(KISSDB_get(&db, name(n), out, sizeof out, &size), n % 3 == 0);
            if (n % 3 == 0)
                continue;
            CHECK_EQ(size, n % 213);
            for (uint32_t i = 0; i < size; i++)
                CHECK_EQ(out[i], n % 256);
        }
        /* The iterator gives the first 64 bytes, without a NUL for longer keys, and never more. */
        unsigned char key[65];
        int count = 0;
        KISSDB_Iterator it;
        KISSDB_Iterator_init(&db, &it);
        key[64] = 0xAB;
        while (KISSDB_Iterator_next(&it, key, out) == 1) {
            int n = atoi((char *)key);
            CHECK(n >= 0 && n < keys && n % 3 != 0);
            const char *whole = name(n);
            size_t length = strlen(whole);
            CHECK(memcmp(key, whole, length < 64 ? length : 64) == 0);
            for (size_t i = length; i < 64; i++)
                CHECK_EQ(key[i], 0);
            CHECK_EQ(key[64], 0xAB);
            for (int i = 0; i < 212; i++)
                CHECK_EQ(out[i], i < n % 213 ? n % 256 : 0);
            count++;
        }
        CHECK_EQ(count, keys - (keys + 2) / 3);
        CHECK_EQ(KISSDB_close(&db), 0);
        open_resources(&db, path, KISSDB_OPEN_MODE_RDONLY);
    }
    CHECK_EQ(KISSDB_close(&db), 0);
    return end();
}
