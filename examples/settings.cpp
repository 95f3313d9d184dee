/*
 * The settings of one user, in C++17:
 *     settings-cpp FILE [USER]
 * lists them by name, changes one, adds one, and takes both changes back. Messages of recovery and
 * damage go to stderr.
 */
#include <kissdb.hpp>

#include <iomanip>
#include <iostream>
#include <map>

static void work(const std::string &file, const std::string &user) {
    kissdb::database db(file, kissdb::mode::read_write);
    const std::string prefix = "/user/" + user + "/";

    // Text is shown as it is, anything else by its size only.
    std::map<std::string, std::string> mine;
    for (const auto &[key, value] : db)
        if (key.compare(0, prefix.size(), prefix) == 0)
            mine.emplace(key, value);
    for (const auto &[key, value] : mine) {
        const bool text = value.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ._-/") ==
                          value.npos;
        std::cout << "  " << std::left << std::setw(44) << key
                  << (text ? value : "(" + std::to_string(value.size()) + " bytes)") << '\n';
    }
    std::cout << "  " << mine.size() << " settings of user " << user << '\n';

    const std::string volume = prefix + "example/volume";
    const auto before = db.get(volume);
    db.put(volume, before ? std::to_string(std::stoi(*before) + 1) : "1");
    db.sync(); // a power cut from here on leaves the new value
    std::cout << "  " << volume << ": " << before.value_or("(none)") << ", now " << *db.get(volume) << '\n';
    if (before)
        db.put(volume, *before);
    else
        db.erase(volume);

    // The same with codes: a key has 1 to 127 bytes.
    std::error_code ec;
    db.put("", "value", ec);
    if (ec == kissdb::errc::invalid_parameters)
        std::cout << "  an empty key: " << ec.message() << '\n';
    db.close();
}

int main(int argc, char **argv) {
    if (argc != 2 && argc != 3) {
        std::cerr << "usage: " << argv[0] << " FILE [USER]\n";
        return 2;
    }
    kissdb::set_log(kissdb::log_level::warning,
                    [](kissdb::log_level, std::string_view message) { std::cerr << message << '\n'; });
    try {
        work(argv[1], argc == 3 ? argv[2] : "1");
    } catch (const kissdb::error &e) {
        std::cerr << e.what() << '\n';
        return 1;
    }
    return 0;
}
