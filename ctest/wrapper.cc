/*
 * kissdb.hpp: every function with exceptions and with codes, moves, iteration under changes, keys and
 * values at their limits, threads, messages. Built a second time without exceptions (NO_EXCEPTIONS).
 */
#include "check.h"

#include <kissdb.hpp>
#include <kissdb.hpp>

#include <map>
#include <set>
#include <thread>
#include <type_traits>
#include <vector>

namespace {

using kissdb::database;
using kissdb::errc;
using kissdb::mode;

static_assert(!std::is_copy_constructible_v<database> && std::is_nothrow_move_constructible_v<database>);
static_assert(std::is_error_code_enum_v<errc>);

std::map<std::string, std::string> all(const database &db) {
    std::map<std::string, std::string> found;
    std::error_code ec;
    auto it = db.begin(ec);
    for (; !ec && it != db.end(); it.increment(ec))
        CHECK(found.emplace(it->key, (*it).value).second);
    CHECK(!ec);
    return found;
}

void test_codes() {
    std::error_code ec;
    database db;
    CHECK(!db && !db.is_open() && db.handle() == nullptr && db.value_size() == 0);

    // Not open: an error everywhere, but for a close.
    db.close(ec);
    CHECK(!ec);
    CHECK(!db.get("key", ec) && ec == errc::invalid_parameters);
    CHECK(!db.contains("", ec) && ec == errc::invalid_parameters);
    db.put("key", "value", ec);
    CHECK(ec == errc::invalid_parameters);
    CHECK(!db.erase("key", ec) && ec == errc::invalid_parameters);
    db.sync(ec);
    CHECK(ec == errc::invalid_parameters);
    CHECK(db.begin(ec) == db.end() && ec == errc::invalid_parameters);

    db.open(at("none.db"), mode::read_write, kissdb::settings, ec);
    CHECK(ec == errc::io && errno == ENOENT && !db);
    CHECK_STR(ec.message().c_str(), "I/O error");
    CHECK_STR(ec.category().name(), "kissdb");
    write_file(at("text.db"), std::string(5000, 'x').data(), 5000);
    db.open(at("text.db"), mode::create, kissdb::settings, ec);
    CHECK(ec == errc::corrupt);

    db.open(at("codes.db"), mode::create, kissdb::settings, ec);
    CHECK(!ec && db && db.value_size() == 8028);
    db.put("/a/key", "value", ec);
    CHECK(!ec);
    CHECK(db.get("/a/key", ec) == "value" && !ec);
    CHECK(db.contains("/a/key", ec) && !ec);
    CHECK(!db.get("/another", ec) && !ec);
    CHECK(!db.contains("/another", ec) && !ec);
    db.sync(ec);
    CHECK(!ec);

    // An open closes what was open before.
    db.open(at("other.db"), mode::create, kissdb::resources, ec);
    CHECK(!ec && db.value_size() == 212 && !db.contains("/a/key", ec) && !ec);
    db.open(at("codes.db"), mode::read_only, kissdb::settings, ec);
    CHECK(!ec && db.get("/a/key", ec) == "value");
    db.put("/a/key", "other", ec);
    CHECK(ec == errc::access_violation);
    CHECK(!db.erase("/a/key", ec) && ec == errc::access_violation);
    database replacing;
    replacing.open(at("codes.db"), mode::replace, kissdb::settings, ec);
    CHECK(ec == errc::access_violation);
    db.close(ec);
    CHECK(!ec && !db);
    replacing.open(at("codes.db"), mode::replace, kissdb::settings, ec);
    CHECK(!ec && !replacing.contains("/a/key", ec) && !ec);
}

// Empty, too long, with a NUL in it; values of every kind of bytes, none and too many.
void test_limits() {
    std::error_code ec;
    database db;
    db.open(at("limits.db"), mode::create, kissdb::settings, ec);
    const std::string longest(127, 'k'), too_long(128, 'k'), with_nul("a\0b", 3);
    for (const auto &key : {std::string(), too_long, std::string(5000, 'k'), with_nul}) {
        db.put(key, "value", ec);
        CHECK(ec == errc::invalid_parameters);
        CHECK(!db.get(key, ec) && !ec);
        CHECK(!db.contains(key, ec) && !ec);
        CHECK(!db.erase(key, ec) && !ec);
    }
    // A view into something longer, without a NUL behind it.
    db.put(std::string_view(too_long).substr(0, 127), "longest", ec);
    CHECK(!ec && db.get(longest, ec) == "longest");

    std::string bytes(8028, '\0');
    for (std::size_t i = 0; i < bytes.size(); i++)
        bytes[i] = static_cast<char>(i * 7);
    db.put("bytes", bytes, ec);
    CHECK(!ec && db.get("bytes", ec) == bytes);
    db.put("bytes", bytes + "x", ec);
    CHECK(ec == errc::invalid_parameters && db.get("bytes", ec) == bytes);
    db.put("empty", {}, ec);
    CHECK(!ec && db.get("empty", ec) == "" && db.contains("empty", ec));
    CHECK_EQ(all(db).size(), 3);
    CHECK(all(db)["bytes"] == bytes && all(db)["empty"].empty());
    CHECK(db.erase("empty", ec) && !db.erase("empty", ec) && !ec);

    // Keys that do not fit the key size of a resource table are cut there, their values filled up.
    database table;
    table.open(at("limits-resources.db"), mode::create, kissdb::resources, ec);
    table.put(std::string(63, 'a'), "short", ec);
    table.put(std::string(100, 'b'), "long", ec);
    CHECK(!ec && table.get(std::string(100, 'b'), ec) == "long");
    auto found = all(table);
    CHECK_EQ(found.size(), 2);
    CHECK(found[std::string(63, 'a')] == "short");
    CHECK(found[std::string(64, 'b')] == std::string("long") + std::string(208, '\0'));
}

void test_moves() {
    std::error_code ec;
    database a;
    a.open(at("moves.db"), mode::create, kissdb::settings, ec);
    a.put("key", "value", ec);
    KISSDB *handle = a.handle();
    database b(std::move(a));
    CHECK(b.handle() == handle && b.get("key", ec) == "value");
    database c;
    c.open(at("moved-over.db"), mode::create, kissdb::settings, ec);
    c = std::move(b);
    CHECK(c.handle() == handle && c.get("key", ec) == "value");
    // What c had open before is closed: it may be replaced.
    database d;
    d.open(at("moved-over.db"), mode::replace, kissdb::settings, ec);
    CHECK(!ec);
    std::vector<database> many;
    many.push_back(std::move(c));
    many.push_back(std::move(d));
    CHECK(many[0].get("key", ec) == "value" && !ec);
    // The C functions take it as well.
    CHECK_STR(get_text(many[0].handle(), "key"), "value");
}

// Entries are deleted, overwritten and added while others are read.
void test_changes_while_iterating() {
    std::error_code ec;
    database db;
    db.open(at("changes.db"), mode::create, kissdb::settings, ec);
    std::set<std::string> stay;
    for (int n = 0; n < 60; n++) {
        db.put("key" + std::to_string(n), std::to_string(n), ec);
        if (n % 2 == 0)
            stay.insert("key" + std::to_string(n));
    }
    int n = 0;
    std::set<std::string> seen;
    for (auto it = db.begin(ec); it != db.end(); it.increment(ec), n++) {
        if (it->key.compare(0, 3, "new") != 0)
            CHECK(seen.insert(it->key).second);
        db.erase("key" + std::to_string(2 * (n % 30) + 1), ec);
        db.put("key" + std::to_string(2 * (n % 30)), "again", ec);
        db.put("new" + std::to_string(n % 10), "x", ec);
        CHECK(!ec);
    }
    for (const auto &key : stay)
        CHECK_EQ(seen.count(key), 1);
}

void test_threads() {
    std::error_code ec;
    database db;
    db.open(at("threads.db"), mode::create, kissdb::settings, ec);
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; t++)
        threads.emplace_back([&db, t] {
            std::error_code mine;
            for (int n = 0; n < rounds(200); n++) {
                const std::string key = std::to_string(t) + "/" + std::to_string(n % 10);
                db.put(key, std::to_string(n), mine);
                CHECK(!mine && db.get(key, mine) == std::to_string(n));
            }
        });
    for (auto &t : threads)
        t.join();
    CHECK_EQ(all(db).size(), 4 * std::min(10, rounds(200)));
}

void test_messages() {
    std::error_code ec;
    const std::string path = at("messages.db");
    database db;
    db.open(path, mode::create, kissdb::settings, ec);
    db.put("key", "value", ec);
    db.close(ec);
    write_at(path.c_str(), 4096 + 12288 + 148, "\xEE", 1);

    std::vector<std::string> heard;
    kissdb::set_log(kissdb::log_level::info, [&](kissdb::log_level, std::string_view) { heard.emplace_back("old"); });
    kissdb::set_log(kissdb::log_level::warning, [&](kissdb::log_level level, std::string_view message) {
        CHECK(level == kissdb::log_level::warning);
        heard.emplace_back(message);
#ifdef __cpp_exceptions
        throw 1;
#endif
    });
    db.open(path, mode::read_write, kissdb::settings, ec);
    CHECK(db.get("key", ec) == "value" && !ec);
    CHECK_EQ(heard.size(), 1);
    CHECK(heard[0] == path + ": pair at 16384, key \"key\": copy A is damaged, served from copy B");
    kissdb::set_log(kissdb::log_level::info, {});
    CHECK(db.get("key", ec) == "value");
    CHECK_EQ(heard.size(), 1);
}

#ifdef __cpp_exceptions
template <typename F> void throws(errc code, int os, const char *what, F f) {
    try {
        f();
    } catch (const kissdb::error &e) {
        CHECK(e.code() == code);
        CHECK_EQ(e.os_error(), os);
        CHECK(std::string(e.what()).find(what) == 0);
        return;
    }
    CHECK(false && "nothing was thrown");
}

void test_exceptions() {
    const std::string path = at("exceptions.db");
    throws(errc::io, ENOENT, "opening ", [&] { database db(path, mode::read_only); });
    {
        database db(path);
        db.put("/radio/volume", "11");
        db.put("/radio/station", "1");
        db.sync();
        CHECK(db.get("/radio/volume") == "11");
        CHECK(!db.get("/none"));
        CHECK(db.contains("/radio/station") && db.erase("/radio/station") && !db.erase("/radio/station"));
        throws(errc::invalid_parameters, 0, "", [&] { db.put("", "value"); });
        for (const auto &[key, value] : db)
            CHECK(key == "/radio/volume" && value == "11");
        CHECK_EQ(std::distance(db.begin(), db.end()), 1);
        db.close();
        throws(errc::invalid_parameters, 0, "/radio/volume: ", [&] { db.get("/radio/volume"); });
        throws(errc::invalid_parameters, 0, "sync", [&] { db.sync(); });
        throws(errc::invalid_parameters, 0, "iterating", [&] { db.begin(); });
        db.open(path, mode::read_only);
        throws(errc::access_violation, 0, "/radio/volume", [&] { db.put("/radio/volume", "12"); });
        throws(errc::access_violation, 0, "opening ", [&] { database other(path, mode::replace); });
    }
    // Both copies are damaged: an error for who asks, passed over by an iteration.
    for (long copy : {0, 8192})
        write_at(path.c_str(), 4096 + 12288 + copy + 148, "\xEE", 1);
    database db(path);
    throws(errc::corrupt, 0, "/radio/volume", [&] { db.get("/radio/volume"); });
    CHECK(db.begin() == db.end());
    // Somebody shortens the file.
    CHECK_EQ(truncate(path.c_str(), 4096), 0);
    throws(errc::io, EIO, "/radio/volume", [&] { db.get("/radio/volume"); });
    throws(errc::io, EIO, "iterating", [&] { db.begin(); });
}
#endif

} // namespace

int main() {
    begin(100);
    test_codes();
    test_limits();
    test_moves();
    test_changes_while_iterating();
    test_threads();
    test_messages();
#ifdef __cpp_exceptions
    test_exceptions();
#endif
    return end();
}
