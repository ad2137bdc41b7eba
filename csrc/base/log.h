// The library never prints: it hands lines to whoever listens (the Python edge puts them into `logging`).
#pragma once

#include <cstdint>
#include <string>

namespace tent {

enum class LogLevel : uint8_t { debug = 0, info = 1, warning = 2, error = 3 };
struct LogLine {
    LogLevel level{};
    std::string text;
};

// Thread-safe; never blocks on the listener: lines go into a bounded queue (the oldest are dropped and
// counted).
void log(LogLevel level, std::string text);
// Takes a waiting line. False when there is none.
bool take_log(LogLine& line);
// Bumped with every line, so that a drain thread can wait for news together with other work.
void set_log_wakeup(void (*wakeup)());
void set_log_level(LogLevel level);

}  // namespace tent
