/*
 * KISSDB for C++17: a handle that closes itself, keys and values as strings, range-for, errors as
 * exceptions or as codes. Nothing but this header; link the C library (pkg-config kissdb).
 * SPDX-License-Identifier: MPL-2.0
 *
 *     kissdb::database db("settings.db");
 *     db.put("/radio/volume", "11");
 *     if (auto volume = db.get("/radio/volume"))
 *         std::cout << *volume << '\n';
 *     for (const auto &[key, value] : db)
 *         std::cout << key << ' ' << value.size() << " bytes\n";
 *     db.close();
 *
 * Each function that can fail comes twice, as in std::filesystem: without a std::error_code it
 * throws kissdb::error, with one it throws nothing but std::bad_alloc. Under -fno-exceptions only the
 * second kind exists. "No such key" is no error.
 *
 * One database object may be used by several threads at a time, but for open, close, moves and
 * destruction; any number of objects, processes and callers of the C functions may share one file.
 */
#ifndef KISSDB_HPP
#define KISSDB_HPP

#include <kissdb.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <forward_list>
#include <functional>
#include <iterator>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <unistd.h>

namespace kissdb {

/** What can go wrong: the KISSDB_ERROR_* of the C interface. */
enum class errc : int {
    io = KISSDB_ERROR_IO,                                       ///< I/O error or disk full.
    no_memory = KISSDB_ERROR_MALLOC,                            ///< Out of memory.
    invalid_parameters = KISSDB_ERROR_INVALID_PARAMETERS,       ///< An argument is out of range, or not open.
    corrupt = KISSDB_ERROR_CORRUPT_DBFILE,                      ///< No database, or a record damaged in both copies.
    access_violation = KISSDB_ERROR_ACCESS_VIOLATION,           ///< Opened read-only, or in use by others.
    open_shm = KISSDB_ERROR_OPEN_SHM,                           ///< A shared object can't be opened or trusted.
    map_shm = KISSDB_ERROR_MAP_SHM,                             ///< A shared object can't be mapped.
    resize_shm = KISSDB_ERROR_RESIZE_SHM,                       ///< /dev/shm is full.
    wrong_version = KISSDB_ERROR_WRONG_DATABASE_VERSION,        ///< A file of another version.
};

/** The category of kissdb::errc. */
inline const std::error_category &category() noexcept {
    struct category_type final : std::error_category {
        const char *name() const noexcept override { return "kissdb"; }
        std::string message(int code) const override {
            switch (static_cast<errc>(code)) {
            case errc::io: return "I/O error";
            case errc::no_memory: return "out of memory";
            case errc::invalid_parameters: return "invalid argument, or not open";
            case errc::corrupt: return "not a database, or a damaged record";
            case errc::access_violation: return "opened read-only, or in use by others";
            case errc::open_shm: return "shared memory can't be opened or trusted";
            case errc::map_shm: return "shared memory can't be mapped";
            case errc::resize_shm: return "shared memory is full";
            case errc::wrong_version: return "wrong database version";
            }
            return "KISSDB answered " + std::to_string(code);
        }
    };
    static const category_type instance;
    return instance;
}

/** For std::error_code. */
inline std::error_code make_error_code(errc e) noexcept { return {static_cast<int>(e), category()}; }

} // namespace kissdb

template <> struct std::is_error_code_enum<kissdb::errc> : std::true_type {};

namespace kissdb {

#ifdef __cpp_exceptions
/** What the functions without a std::error_code throw. code() == kissdb::errc::... tells them apart. */
class error : public std::system_error {
public:
    error(std::error_code code, const std::string &what, int os) : std::system_error(code, what), os_(os) {}
    /** errno of the operating system where the code is io, open_shm, map_shm or resize_shm, else 0. */
    int os_error() const noexcept { return os_; }

private:
    int os_;
};
#endif

/** How a database is opened. */
enum class mode : int {
    read_only = KISSDB_OPEN_MODE_RDONLY,    ///< The file must exist and is never written.
    read_write = KISSDB_OPEN_MODE_RDWR,     ///< The file must exist.
    create = KISSDB_OPEN_MODE_RWCREAT,      ///< The file is made if there is none.
    replace = KISSDB_OPEN_MODE_RWREPLACE,   ///< The file is emptied or made; nobody else may have it open.
};

/** Sizes of a new file; those of an existing one win. */
struct sizes {
    std::uint16_t slots = HASHTABLE_SLOT_COUNT; ///< Of a hash table, 1 to 510.
    std::uint64_t key = 128;                    ///< Bytes, 1 to 128.
    std::uint64_t value = 8028;                 ///< Bytes, 1 to 8028.
};

/** Of a database of settings. */
inline constexpr sizes settings{};
/** Of a resource table. */
inline constexpr sizes resources{HASHTABLE_SLOT_COUNT, 64, 212};

/** An open database, or none. */
class database {
public:
    class iterator;

    /** A key and its value. */
    struct entry {
        std::string key;
        std::string value;
    };

    /** Not open. */
    database() noexcept = default;
    database(database &&other) noexcept = default;
    database &operator=(database &&other) noexcept {
        if (this != &other) {
            std::error_code ignored;
            close(ignored);
            db_ = std::move(other.db_);
        }
        return *this;
    }
    database(const database &) = delete;
    database &operator=(const database &) = delete;
    /** Closes it; call close() to hear of errors. */
    ~database() {
        std::error_code ignored;
        close(ignored);
    }

    /** Opens a database; one that was open in this object is closed before. */
    void open(const std::string &path, mode m, const sizes &s, std::error_code &ec) {
        close(ec);
        ec.clear();
        auto db = std::make_unique<KISSDB>();
        if (answer(KISSDB_open(db.get(), path.c_str(), static_cast<int>(m), KISSDB_WRITE_MODE_WT, s.slots, s.key,
                               s.value),
                   ec))
            db_ = std::move(db);
    }

    /** Closes the database. The last user leaves a clean file. Closing what is not open is no error. */
    void close(std::error_code &ec) noexcept {
        ec.clear();
        if (db_) {
            answer(KISSDB_close(db_.get()), ec);
            db_.reset();
        }
    }

    bool is_open() const noexcept { return db_ != nullptr; }
    explicit operator bool() const noexcept { return is_open(); }

    /** The value of a key; nothing if there is none, or on an error. */
    std::optional<std::string> get(std::string_view key, std::error_code &ec) const {
        ec.clear();
        char value[most_value];
        std::uint32_t size = 0;
        const c_key k(key);
        if (!k.is_key() && db_)
            return std::nullopt;
        if (!answer(KISSDB_get(db_.get(), k.c_str(), value, sizeof value, &size), ec))
            return std::nullopt;
        return std::string(value, size);
    }

    /** Whether there is such a key. */
    bool contains(std::string_view key, std::error_code &ec) const noexcept {
        ec.clear();
        std::uint32_t size = 0;
        const c_key k(key);
        if (!k.is_key() && db_)
            return false;
        return answer(KISSDB_get(db_.get(), k.c_str(), nullptr, 0, &size), ec);
    }

    /**
     * Sets the value of a key of 1 to 127 bytes without a NUL. It survives the death of the process
     * at once, a power cut after sync() or close(). After an error the database is unchanged.
     */
    void put(std::string_view key, std::string_view value, std::error_code &ec) noexcept {
        ec.clear();
        std::int32_t written = 0;
        const c_key k(key);
        if (!k.is_key() || value.size() > most_value)
            ec = errc::invalid_parameters;
        else
            answer(KISSDB_put(db_.get(), k.c_str(), value.data(), static_cast<int>(value.size()), &written), ec);
    }

    /** Deletes a key; whether it was there. */
    bool erase(std::string_view key, std::error_code &ec) noexcept {
        ec.clear();
        std::int32_t deleted = 0;
        const c_key k(key);
        if (!k.is_key() && db_)
            return false;
        return answer(KISSDB_delete(db_.get(), k.c_str(), &deleted), ec);
    }

    /** Makes everything that was answered so far durable. */
    void sync(std::error_code &ec) noexcept {
        ec.clear();
        if (!db_)
            ec = errc::invalid_parameters;
        else if (::fdatasync(db_->fd) != 0)
            ec = errc::io;
    }

    /** Bytes that a value can have; 0 if it is not open. */
    std::size_t value_size() const noexcept { return db_ ? static_cast<std::size_t>(db_->valSize) : 0; }

    /** For the C functions; NULL if it is not open. Stays the same when the object is moved. */
    KISSDB *handle() const noexcept { return db_.get(); }

    /** The first entry. After an error the end. */
    iterator begin(std::error_code &ec) const;
    /** Behind the last entry. */
    iterator end() const noexcept;

#ifdef __cpp_exceptions
    /** Opens a database. */
    explicit database(const std::string &path, mode m = mode::create, const sizes &s = settings) { open(path, m, s); }
    void open(const std::string &path, mode m = mode::create, const sizes &s = settings) {
        std::error_code ec;
        open(path, m, s, ec);
        check(ec, "opening ", path);
    }
    void close() {
        std::error_code ec;
        close(ec);
        check(ec, "closing");
    }
    std::optional<std::string> get(std::string_view key) const {
        std::error_code ec;
        auto value = get(key, ec);
        check(ec, key);
        return value;
    }
    bool contains(std::string_view key) const {
        std::error_code ec;
        const bool found = contains(key, ec);
        check(ec, key);
        return found;
    }
    void put(std::string_view key, std::string_view value) {
        std::error_code ec;
        put(key, value, ec);
        check(ec, key);
    }
    bool erase(std::string_view key) {
        std::error_code ec;
        const bool found = erase(key, ec);
        check(ec, key);
        return found;
    }
    void sync() {
        std::error_code ec;
        sync(ec);
        check(ec, "sync");
    }
    iterator begin() const;
#endif

private:
    /** No value is larger, whatever the sizes of the file. */
    static constexpr std::size_t most_value = 8028;

    /** A key as the C functions want it: 128 bytes without a NUL if it is too long. */
    class c_key {
    public:
        explicit c_key(std::string_view key) noexcept
            : is_key_(!key.empty() && key.size() < sizeof bytes_ && key.find('\0') == key.npos) {
            if (is_key_) {
                std::memcpy(bytes_, key.data(), key.size());
                bytes_[key.size()] = '\0';
            } else {
                bytes_[0] = '\0';
            }
        }
        bool is_key() const noexcept { return is_key_; }
        const char *c_str() const noexcept { return bytes_; }

    private:
        char bytes_[128];
        bool is_key_;
    };

    /** Whether the answer is success; 1 is neither success nor an error. */
    static bool answer(int code, std::error_code &ec) noexcept {
        if (code < 0)
            ec = static_cast<errc>(code);
        return code == 0;
    }

#ifdef __cpp_exceptions
    static void check(std::error_code ec, std::string_view what, std::string_view which = {}) {
        if (!ec)
            return;
        const int os = errno;
        const bool has_os = ec == errc::io || ec == errc::open_shm || ec == errc::map_shm || ec == errc::resize_shm;
        throw error(ec, std::string(what).append(which), has_os ? os : 0);
    }
#endif

    std::unique_ptr<KISSDB> db_;
};

/**
 * Goes over all entries, in no particular order. The database may be changed meanwhile, by anybody: a
 * key that is there throughout comes exactly once. Damaged entries are passed over. In a file whose
 * key size is below 128 longer keys come cut to it, with their values filled up with zeros.
 */
class database::iterator {
public:
    using iterator_category = std::input_iterator_tag;
    using value_type = entry;
    using difference_type = std::ptrdiff_t;
    using pointer = const entry *;
    using reference = const entry &;

    /** The end. */
    iterator() noexcept = default;

    reference operator*() const noexcept { return entry_; }
    pointer operator->() const noexcept { return &entry_; }

    /** The next entry. After an error the end. */
    iterator &increment(std::error_code &ec) {
        ec.clear();
        const std::size_t key_size = static_cast<std::size_t>(db_->handle()->keySize);
        char key[129];
        char value[most_value];
        for (;;) {
            const int found = KISSDB_Iterator_next(&it_, key, value);
            if (found != KISSDB_ITERATOR_NEXT_ITEM_FOUND) {
                if (found < 0)
                    ec = static_cast<errc>(found);
                db_ = nullptr;
                return *this;
            }
            key[key_size] = '\0';
            entry_.key = key;
            // The iterator tells no size.
            auto exact = db_->get(entry_.key, ec);
            if (exact) {
                entry_.value = std::move(*exact);
                return *this;
            }
            if (!ec && entry_.key.size() == key_size) {
                entry_.value.assign(value, db_->value_size());
                return *this;
            }
            // Deleted or damaged in between.
            ec.clear();
        }
    }

#ifdef __cpp_exceptions
    iterator &operator++() {
        std::error_code ec;
        increment(ec);
        check(ec, "iterating");
        return *this;
    }
    void operator++(int) { ++*this; }
#endif

    friend bool operator==(const iterator &a, const iterator &b) noexcept { return a.db_ == b.db_; }
    friend bool operator!=(const iterator &a, const iterator &b) noexcept { return a.db_ != b.db_; }

private:
    friend class database;
    explicit iterator(const database &db) noexcept : db_(&db) { KISSDB_Iterator_init(db.handle(), &it_); }

    const database *db_ = nullptr;
    KISSDB_Iterator it_{};
    entry entry_;
};

inline database::iterator database::begin(std::error_code &ec) const {
    ec.clear();
    if (!db_) {
        ec = errc::invalid_parameters;
        return {};
    }
    iterator it(*this);
    it.increment(ec);
    return it;
}

inline database::iterator database::end() const noexcept { return {}; }

#ifdef __cpp_exceptions
inline database::iterator database::begin() const {
    std::error_code ec;
    auto it = begin(ec);
    check(ec, "iterating");
    return it;
}
#endif

/** How much a message matters; see kissdb_set_log. */
enum class log_level : int {
    error = KISSDB_LOG_ERROR,       ///< Something is lost or can't be promised.
    warning = KISSDB_LOG_WARNING,   ///< Something was wrong and is mended, or served all the same.
    info = KISSDB_LOG_INFO,         ///< Recovery: why it began, what it found.
};

/** Receives a message of one line. What it throws is dropped. */
using log_receiver = std::function<void(log_level, std::string_view)>;

/**
 * Messages of this level and of the more important ones go to the receiver from now on, from all
 * threads and databases of this process; an empty one is silence. Receivers are kept until the
 * process ends, because another thread may be about to call one.
 */
inline void set_log(log_level level, log_receiver receiver) {
    if (!receiver) {
        kissdb_set_log(nullptr, nullptr, 0);
        return;
    }
    static std::mutex mutex;
    // Never destroyed: threads may still have messages while the process ends.
    static auto &kept = *new std::forward_list<log_receiver>;
    const std::lock_guard<std::mutex> hold(mutex);
    kept.push_front(std::move(receiver));
    const auto forward = [](void *context, int l, const char *message) noexcept {
#ifdef __cpp_exceptions
        try {
            (*static_cast<log_receiver *>(context))(static_cast<log_level>(l), message);
        } catch (...) {
        }
#else
        (*static_cast<log_receiver *>(context))(static_cast<log_level>(l), message);
#endif
    };
    kissdb_set_log(forward, &kept.front(), static_cast<int>(level));
}

} // namespace kissdb

#endif
