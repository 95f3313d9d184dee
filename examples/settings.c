/*
 * Looks into a settings database and works with it:
 *     settings FILE
 * lists it, reads, changes, adds and deletes settings, closes, opens it again and shows what became
 * of them. The settings are those of the vehicle that `make demo` runs it on: a database that the
 * original library wrote.
 */
#include <kissdb.h>

#include <stdlib.h>
#include <string.h>

static void fail(const char *what, const char *key, int answer) {
    fprintf(stderr, "%s %s: KISSDB answered %d\n", what, key, answer);
    exit(1);
}

static void open_settings(KISSDB *db, const char *file, int mode) {
    memset(db, 0, sizeof *db);
    int answer = KISSDB_open(db, file, mode, KISSDB_WRITE_MODE_WT, HASHTABLE_SLOT_COUNT,
                             PERS_DB_MAX_LENGTH_KEY_NAME, PERS_DB_MAX_SIZE_KEY_DATA);
    if (answer != 0)
        fail("open", file, answer);
}

static void close_settings(KISSDB *db, const char *file) {
    int answer = KISSDB_close(db);
    if (answer != 0)
        fail("close", file, answer);
}

static void put(KISSDB *db, const char *key, const char *value) {
    int32_t written = 0;
    int answer = KISSDB_put(db, key, value, (int)strlen(value), &written);
    if (answer != 0)
        fail("put", key, answer);
}

/* Whether the value is text: UTF-8 without control characters, but for the ends of lines. */
static int is_text(const unsigned char *value, uint32_t size) {
    for (uint32_t i = 0; i < size;) {
        unsigned char c = value[i++];
        int more = c < 0x80 ? 0 : c >= 0xF0 ? 3 : c >= 0xE0 ? 2 : c >= 0xC2 ? 1 : -1;
        if ((c < ' ' && c != '\n') || c == 0x7F || more < 0)
            return 0;
        for (; more > 0; more--)
            if (i == size || (value[i++] & 0xC0) != 0x80)
                return 0;
    }
    return 1;
}

/* The unit that a key's name tells. */
static const char *unit_of(const char *key) {
    static const char *const units[][2] = {
        {"_km", " km"}, {"_mm", " mm"}, {"_s", " s"}, {"/climate/temperature", " \xc2\xb0" "C"}};
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        size_t length = strlen(units[i][0]), whole = strlen(key);
        if (whole > length && strcmp(key + whole - length, units[i][0]) == 0)
            return units[i][1];
    }
    return "";
}

/* A value as people read it: the first line of a text, the rest in hexadecimal, cut short. */
static void show_value(const char *key, const unsigned char *value, uint32_t size) {
    enum { TEXT = 48, BYTES = 16 };
    if (size == 0) {
        printf("(empty)");
    } else if (is_text(value, size)) {
        const unsigned char *line_end = memchr(value, '\n', size);
        uint32_t shown = line_end == NULL ? size : (uint32_t)(line_end - value);
        if (shown > TEXT)
            for (shown = TEXT; (value[shown] & 0xC0) == 0x80;)
                shown--;
        printf("%.*s%s%s", (int)shown, (const char *)value, shown < size ? " ..." : "", unit_of(key));
    } else {
        for (uint32_t i = 0; i < size && i < BYTES; i++)
            printf("%s%02x", i > 0 ? " " : "", value[i]);
        printf("%s", size > BYTES ? " ..." : "");
    }
}

static void show(KISSDB *db, const char *key) {
    static unsigned char value[PERS_DB_MAX_SIZE_KEY_DATA];
    uint32_t size = 0;
    int answer = KISSDB_get(db, key, value, sizeof value, &size);
    if (answer == 1) {
        printf("  %-38s %10s  (no such key)\n", key, "-");
    } else if (answer == 0) {
        printf("  %-38s %8u B  ", key, (unsigned)size);
        show_value(key, value, size);
        printf("\n");
    } else {
        fail("get", key, answer);
    }
}

typedef struct {
    char key[PERS_DB_MAX_LENGTH_KEY_NAME];
} Key;

static int by_name(const void *a, const void *b) {
    return strcmp(((const Key *)a)->key, ((const Key *)b)->key);
}

/* All keys in the order of their names, malloc memory. */
static Key *all_keys(KISSDB *db, size_t *count) {
    size_t room = 64;
    Key *keys = malloc(room * sizeof *keys);
    KISSDB_Iterator it;
    int answer;
    *count = 0;
    KISSDB_Iterator_init(db, &it);
    while (keys != NULL && (answer = KISSDB_Iterator_next(&it, keys[*count].key, NULL)) == 1) {
        if (++*count == room)
            keys = realloc(keys, (room *= 2) * sizeof *keys);
    }
    if (keys == NULL)
        fail("list", "keys", KISSDB_ERROR_MALLOC);
    if (answer != KISSDB_ITERATOR_NEXT_ITEM_NOT_FOUND)
        fail("list", "keys", answer);
    qsort(keys, *count, sizeof *keys, by_name);
    return keys;
}

static size_t list(KISSDB *db) {
    size_t count;
    uint64_t bytes = 0;
    Key *keys = all_keys(db, &count);
    printf("  %-38s %10s  %s\n", "key", "size", "value");
    for (size_t i = 0; i < count; i++) {
        uint32_t size = 0;
        KISSDB_get(db, keys[i].key, NULL, 0, &size);
        bytes += size;
        show(db, keys[i].key);
    }
    printf("\n  %zu settings, %llu bytes of values\n", count, (unsigned long long)bytes);
    free(keys);
    return count;
}

static void show_file(KISSDB *db, const char *file) {
    FILE *f = fopen(file, "rb");
    long length = 0;
    if (f != NULL && fseek(f, 0, SEEK_END) == 0)
        length = ftell(f);
    if (f != NULL)
        fclose(f);
    printf("  file           %s\n", file);
    printf("  length         %ld B (%.1f KiB)\n", length, (double)length / 1024);
    printf("  hash table     %u slots\n", db->htSize);
    printf("  key, at most   %llu B\n", (unsigned long long)db->keySize);
    printf("  value, at most %llu B\n", (unsigned long long)db->valSize);
}

int main(int argc, char **argv) {
    KISSDB db;
    if (argc != 2) {
        fprintf(stderr, "usage: %s FILE\n", argv[0]);
        return 2;
    }
    const char *file = argv[1];

    printf("\nThe database as it was found\n");
    open_settings(&db, file, KISSDB_OPEN_MODE_RDWR);
    show_file(&db, file);
    printf("\n");
    size_t before = list(&db);

    const char *changed = "/node/system/odometer_km", *added = "/user/1/seat/1/seat/height_mm",
               *deleted = "/node/tmp/update_pending";
    printf("\nBefore: one to be changed, one to be added, one to be deleted\n");
    show(&db, changed);
    show(&db, added);
    show(&db, deleted);

    int32_t n;
    put(&db, changed, "128530");
    put(&db, added, "412");
    int answer = KISSDB_delete(&db, deleted, &n);
    if (answer != 0)
        fail("delete", deleted, answer);

    printf("\nAfter\n");
    show(&db, changed);
    show(&db, added);
    show(&db, deleted);
    close_settings(&db, file);

    printf("\nClosed, and opened again for reading\n");
    open_settings(&db, file, KISSDB_OPEN_MODE_RDONLY);
    show(&db, changed);
    show(&db, added);
    show(&db, deleted);
    answer = KISSDB_put(&db, changed, "0", 1, &n);
    size_t after;
    free(all_keys(&db, &after));
    show_file(&db, file);
    close_settings(&db, file);
    if (answer != KISSDB_ERROR_ACCESS_VIOLATION) {
        fprintf(stderr, "a put for a reader was answered with %d\n", answer);
        return 1;
    }
    printf("\n%zu settings before, %zu now.\n\n", before, after);
    return 0;
}
