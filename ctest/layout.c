/*
 * Every size, offset and constant of the C interface is the one that compiled callers have built in,
 * and the header takes code as it was written for the original's.
 */
#include "check.h"

#include <stddef.h>

/* As callers do it: the type is theirs, and a typedef of it. */
typedef struct qhasharr_s {
    int used;
} qhasharr_t;

#define OFFSET(type, field, offset) CHECK_EQ(offsetof(type, field), offset)

static void structs(void) {
    CHECK_EQ(sizeof(Kdb_bool), 2);
    CHECK((Kdb_bool)-1 < 0);

    CHECK_EQ(sizeof(KISSDB), 160);
    CHECK_EQ(sizeof(struct KISSDB), 160);
    OFFSET(KISSDB, htSize, 0);
    OFFSET(KISSDB, keySize, 8);
    OFFSET(KISSDB, valSize, 16);
    OFFSET(KISSDB, htSizeBytes, 24);
    OFFSET(KISSDB, htMappedSize, 32);
    OFFSET(KISSDB, dbMappedSize, 40);
    OFFSET(KISSDB, shmCreator, 48);
    OFFSET(KISSDB, alreadyOpen, 50);
    OFFSET(KISSDB, hashTables, 56);
    OFFSET(KISSDB, mappedDb, 64);
    OFFSET(KISSDB, sharedCache, 72);
    OFFSET(KISSDB, sharedFd, 80);
    OFFSET(KISSDB, htFd, 84);
    OFFSET(KISSDB, sharedCacheFd, 88);
    OFFSET(KISSDB, semName, 96);
    OFFSET(KISSDB, sharedName, 104);
    OFFSET(KISSDB, cacheName, 112);
    OFFSET(KISSDB, htName, 120);
    OFFSET(KISSDB, shared, 128);
    OFFSET(KISSDB, tbl, 136);
    OFFSET(KISSDB, kdbSem, 144);
    OFFSET(KISSDB, fd, 152);

    CHECK_EQ(sizeof(Shared_Data_s), 136);
    CHECK_EQ(sizeof(struct Shared_Data_s), 136);
    OFFSET(Shared_Data_s, htShmSize, 0);
    OFFSET(Shared_Data_s, htNum, 8);
    OFFSET(Shared_Data_s, refCount, 10);
    OFFSET(Shared_Data_s, openMode, 12);
    OFFSET(Shared_Data_s, writeMode, 14);
    OFFSET(Shared_Data_s, cacheCreated, 16);
    OFFSET(Shared_Data_s, rwlock, 24);
    OFFSET(Shared_Data_s, mutex, 80);
    OFFSET(Shared_Data_s, mutexInit, 120);
    OFFSET(Shared_Data_s, mappedDbSize, 128);
    CHECK_EQ(sizeof(pthread_rwlock_t), 56);
    CHECK_EQ(sizeof(pthread_mutex_t), 40);

    CHECK_EQ(sizeof(KISSDB_Iterator), 24);
    OFFSET(struct KISSDB_Iterator, db, 0);
    OFFSET(struct KISSDB_Iterator, h_no, 8);
    OFFSET(struct KISSDB_Iterator, h_idx, 16);

    CHECK_EQ(sizeof(struct Header_s), 64);
    OFFSET(Header_s, KdB, 0);
    OFFSET(Header_s, checksum, 8);
    OFFSET(Header_s, closeFailed, 16);
    OFFSET(Header_s, closeOk, 24);
    OFFSET(Header_s, hash_table_size, 32);
    OFFSET(Header_s, key_size, 40);
    OFFSET(Header_s, value_size, 48);
    OFFSET(Header_s, delimiter, 56);

    CHECK_EQ(sizeof(struct Hashtable_slot_s), 24);
    OFFSET(Hashtable_slot_s, offsetA, 0);
    OFFSET(Hashtable_slot_s, offsetB, 8);
    OFFSET(Hashtable_slot_s, current, 16);

    CHECK_EQ(sizeof(struct Hashtable_s), 12288);
    OFFSET(Hashtable_s, delimStart, 0);
    OFFSET(Hashtable_s, crc, 8);
    OFFSET(Hashtable_s, slots, 16);
    OFFSET(Hashtable_s, delimEnd, 12280);
    CHECK_EQ(sizeof(((Hashtable_s *)0)->slots) / sizeof(Hashtable_slot_s), HASHTABLE_SLOT_COUNT + 1);

    CHECK_EQ(sizeof(struct DataBlock_s), 8192);
    OFFSET(DataBlock_s, delimStart, 0);
    OFFSET(DataBlock_s, crc, 8);
    OFFSET(DataBlock_s, key, 16);
    OFFSET(DataBlock_s, valSize, 144);
    OFFSET(DataBlock_s, value, 148);
    OFFSET(DataBlock_s, htNum, 8176);
    OFFSET(DataBlock_s, delimEnd, 8184);
    CHECK_EQ(sizeof(((DataBlock_s *)0)->key), PERS_DB_MAX_LENGTH_KEY_NAME);
    CHECK_EQ(sizeof(((DataBlock_s *)0)->value), PERS_DB_MAX_SIZE_KEY_DATA);
}

static void constants(void) {
    CHECK_EQ(Kdb_true, -1);
    CHECK_EQ(Kdb_false, 0);
    CHECK_EQ(HASHTABLE_SLOT_COUNT, 510);
    CHECK_EQ(PERS_DB_MAX_LENGTH_KEY_NAME, 128);
    CHECK_EQ(PERS_DB_MAX_SIZE_KEY_DATA, 8028);
    CHECK_EQ(KISSDB_MAJOR_VERSION, 2);
    CHECK_EQ(KISSDB_MINOR_VERSION, 3);

    CHECK_EQ(KISSDB_OPEN_MODE_RDONLY, 1);
    CHECK_EQ(KISSDB_OPEN_MODE_RDWR, 2);
    CHECK_EQ(KISSDB_OPEN_MODE_RWCREAT, 3);
    CHECK_EQ(KISSDB_OPEN_MODE_RWREPLACE, 4);
    CHECK_EQ(KISSDB_WRITE_MODE_WT, 5);
    CHECK_EQ(KISSDB_WRITE_MODE_WC, 6);

    CHECK_EQ(KISSDB_ITERATOR_NEXT_ITEM_NOT_FOUND, 0);
    CHECK_EQ(KISSDB_ITERATOR_NEXT_ITEM_FOUND, 1);
    CHECK_EQ(KISSDB_ITERATOR_DELETED_ITEM, 2);

    CHECK_EQ(KISSDB_ERROR_IO, -1);
    CHECK_EQ(KISSDB_ERROR_MALLOC, -2);
    CHECK_EQ(KISSDB_ERROR_INVALID_PARAMETERS, -3);
    CHECK_EQ(KISSDB_ERROR_CORRUPT_DBFILE, -4);
    CHECK_EQ(KISSDB_ERROR_ACCESS_VIOLATION, -5);
    CHECK_EQ(KISSDB_ERROR_OPEN_SHM, -7);
    CHECK_EQ(KISSDB_ERROR_REMAP_SHM, -8);
    CHECK_EQ(KISSDB_ERROR_MAP_SHM, -9);
    CHECK_EQ(KISSDB_ERROR_RESIZE_SHM, -10);
    CHECK_EQ(KISSDB_ERROR_CLOSE_SHM, -11);
    CHECK_EQ(KISSDB_ERROR_WRONG_DATABASE_VERSION, -12);
    CHECK_EQ(KISSDB_ERROR_WRONG_BUFSIZE, -13);
    CHECK_EQ(KISSDB_ERROR_APPCRASH, -14);

    CHECK_EQ(HASHTABLE_START_DELIMITER, 0x33333333ULL);
    CHECK_EQ(HASHTABLE_END_DELIMITER, 0xCCCCCCCCULL);
    CHECK_EQ(DATA_BLOCK_A_START_DELIMITER, 0x2AAAAAAAULL);
    CHECK_EQ(DATA_BLOCK_A_END_DELIMITER, 0x55555555ULL);
    CHECK_EQ(DATA_BLOCK_B_START_DELIMITER, 0xE38E38E3ULL);
    CHECK_EQ(DATA_BLOCK_B_END_DELIMITER, 0xAAAAAAA8ULL);
    CHECK_EQ(DATA_BLOCK_A_DELETED_START_DELIMITER, 0xAAAAAAAAULL);
    CHECK_EQ(DATA_BLOCK_A_DELETED_END_DELIMITER, 0xD5555555ULL);
    CHECK_EQ(DATA_BLOCK_B_DELETED_START_DELIMITER, 0x7E07E07EULL);
    CHECK_EQ(DATA_BLOCK_B_DELETED_END_DELIMITER, 0x81F81F81ULL);
    CHECK_EQ(sizeof(DATA_BLOCK_A_START_DELIMITER), 8);
    CHECK(DATA_BLOCK_A_START_DELIMITER - DATA_BLOCK_A_END_DELIMITER > 0);

#if KISSDB_ERROR_APPCRASH != -14 || Kdb_true != -1 || KISSDB_MAJOR_VERSION != 2
#error "the numbers serve the preprocessor too"
#endif
}

/* The file's structs describe the file. */
static void file(void) {
    KISSDB db;
    open_plain(&db, at("a.db"), KISSDB_OPEN_MODE_RWCREAT);
    qhasharr_t table = {1};
    db.tbl[0] = &table;
    CHECK_EQ(db.tbl[0]->used, 1);
    put_text(&db, "key1", "hello");
    CHECK_EQ(KISSDB_close(&db), 0);

    size_t size;
    unsigned char *bytes = read_whole(at("a.db"), &size);
    CHECK_EQ(size, 4096 + sizeof(Hashtable_s) + 2 * sizeof(DataBlock_s));
    Header_s header;
    memcpy(&header, bytes, sizeof header);
    CHECK(memcmp(header.KdB, "KdB\2.\003" "00", 8) == 0);
    CHECK_EQ(header.closeFailed, 0);
    CHECK_EQ(header.closeOk, 1);
    CHECK_EQ(header.hash_table_size, 510);
    CHECK_EQ(header.key_size, 128);
    CHECK_EQ(header.value_size, 8028);

    static Hashtable_s tables;
    memcpy(&tables, bytes + 4096, sizeof tables);
    CHECK(tables.delimStart == HASHTABLE_START_DELIMITER && tables.delimEnd == HASHTABLE_END_DELIMITER);
    CHECK_EQ(tables.crc, pcoCrc32(0, (unsigned char *)tables.slots, sizeof tables.slots));
    int used = 0;
    for (int i = 0; i < HASHTABLE_SLOT_COUNT; i++)
        if (tables.slots[i].offsetA != 0) {
            used++;
            CHECK_EQ(tables.slots[i].offsetA, 16384);
            CHECK_EQ(tables.slots[i].offsetB, 24576);
            CHECK_EQ(tables.slots[i].current, 0);
        }
    CHECK_EQ(used, 1);

    static DataBlock_s block;
    for (int b = 0; b < 2; b++) {
        memcpy(&block, bytes + 16384 + 8192 * b, sizeof block);
        CHECK(block.delimStart == (b ? DATA_BLOCK_B_START_DELIMITER : DATA_BLOCK_A_START_DELIMITER));
        CHECK(block.delimEnd == (b ? DATA_BLOCK_B_END_DELIMITER : DATA_BLOCK_A_END_DELIMITER));
        CHECK_EQ(block.crc, 0xa62ffa00);
        CHECK_STR(block.key, "key1");
        CHECK_EQ(block.valSize, 5);
        CHECK(memcmp(block.value, "hello\0", 6) == 0);
        CHECK_EQ(block.htNum, 0);
    }
    free(bytes);
}

int main(void) {
    begin(30);
    structs();
    constants();
    file();
    return end();
}
