/*
 * The header and the static library serve C++17: a class of one's own around a handle, exceptions,
 * threads; linked without the shared library.
 */
#include "check.h"

#include <map>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

static_assert(sizeof(KISSDB) == 160 && std::is_standard_layout_v<KISSDB> && std::is_trivial_v<KISSDB>);
static_assert(std::is_same_v<Kdb_bool, std::int16_t> && Kdb_true == -1);
static_assert(std::is_same_v<decltype(&KISSDB_close), int (*)(KISSDB *)>);

namespace {

class Database {
public:
    explicit Database(const std::string &path, int mode = KISSDB_OPEN_MODE_RWCREAT) {
        check(KISSDB_open(&db_, path.c_str(), mode, KISSDB_WRITE_MODE_WT, SETTINGS));
    }
    Database(const Database &) = delete;
    Database &operator=(const Database &) = delete;
    ~Database() { KISSDB_close(&db_); }

    void put(const std::string &key, const std::string &value) {
        std::int32_t written = 0;
        check(KISSDB_put(&db_, key.c_str(), value.data(), static_cast<int>(value.size()), &written));
    }

    std::string get(const std::string &key) {
        std::uint32_t size = 0;
        check(KISSDB_get(&db_, key.c_str(), nullptr, 0, &size));
        std::string value(size, '\0');
        check(KISSDB_get(&db_, key.c_str(), value.data(), size, &size));
        return value;
    }

    std::map<std::string, std::string> all() {
        std::map<std::string, std::string> found;
        std::vector<char> key(db_.keySize + 1);
        KISSDB_Iterator it;
        KISSDB_Iterator_init(&db_, &it);
        while (KISSDB_Iterator_next(&it, key.data(), nullptr) == KISSDB_ITERATOR_NEXT_ITEM_FOUND)
            found.emplace(key.data(), get(key.data()));
        return found;
    }

private:
    static void check(int answer) {
        if (answer != 0)
            throw std::runtime_error("KISSDB answered " + std::to_string(answer));
    }

    KISSDB db_{};
};

} // namespace

int main() {
    begin(60);
    const std::string path = at("cpp.db");
    {
        Database db(path);
        db.put("/seat/height", "42");
        db.put("/radio/station", std::string("Radio \0 1", 9));
        std::vector<std::thread> threads;
        for (int i = 0; i < 4; i++)
            threads.emplace_back([&db, i] {
                for (int n = 0; n < 20; n++)
                    db.put("/thread/" + std::to_string(i), std::to_string(n));
            });
        for (auto &thread : threads)
            thread.join();
        bool thrown = false;
        try {
            db.get("/none");
        } catch (const std::runtime_error &e) {
            thrown = std::string(e.what()) == "KISSDB answered 1";
        }
        CHECK(thrown);
    }
    {
        Database db(path, KISSDB_OPEN_MODE_RDONLY);
        auto all = db.all();
        CHECK_EQ(all.size(), 6);
        CHECK(all["/seat/height"] == "42" && all["/radio/station"].size() == 9 && all["/thread/3"] == "19");
        Database second(path, KISSDB_OPEN_MODE_RDWR);
        second.put("/seat/height", "43");
        CHECK(db.get("/seat/height") == "43");
    }
    return end();
}
