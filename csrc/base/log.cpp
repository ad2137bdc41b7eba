#include "base/log.h"

#include <atomic>
#include <deque>
#include <mutex>

namespace tent {
namespace {
constexpr size_t kMaxLines = 1024;
struct Queue {
    std::mutex mutex;
    std::deque<LogLine> lines;
    uint64_t dropped = 0;
};
Queue& queue() {
    static Queue* q = new Queue;  // never destroyed: threads may log during exit
    return *q;
}
std::atomic<void (*)()> g_wakeup{nullptr};
std::atomic<LogLevel> g_level{LogLevel::info};
}  // namespace

void log(LogLevel level, std::string text) {
    if (level < g_level.load(std::memory_order_relaxed)) return;
    Queue& q = queue();
    {
        std::lock_guard lock(q.mutex);
        if (q.lines.size() >= kMaxLines) {
            q.lines.pop_front();
            ++q.dropped;
        }
        q.lines.push_back({level, std::move(text)});
    }
    if (auto wakeup = g_wakeup.load()) wakeup();
}

bool take_log(LogLine& line) {
    Queue& q = queue();
    std::lock_guard lock(q.mutex);
    if (q.dropped != 0) {
        line = {LogLevel::warning, std::to_string(q.dropped) + " log lines were dropped"};
        q.dropped = 0;
        return true;
    }
    if (q.lines.empty()) return false;
    line = std::move(q.lines.front());
    q.lines.pop_front();
    return true;
}

void set_log_wakeup(void (*wakeup)()) {
    g_wakeup.store(wakeup);
}
void set_log_level(LogLevel level) {
    g_level.store(level);
}

}  // namespace tent
