#include "proto/credits.h"

#include <algorithm>

namespace tent::proto {

namespace {
auto place(auto& writers, uint64_t connection) {
    return std::lower_bound(writers.begin(), writers.end(), connection,
                            [](const auto& w, uint64_t id) { return w.connection < id; });
}
}  // namespace

bool WriterCredits::received(uint64_t connection, uint64_t bytes, Nanos now) {
    auto it = place(writers_, connection);
    if (it == writers_.end() || it->connection != connection)
        it = writers_.insert(it, {connection, now, now, 0});
    it->last = now;
    bytes_ += bytes;
    if (since_ == 0) since_ = now;
    if (now - since_ < kPeriod) return false;
    look(now);
    since_ = now;
    bytes_ = 0;
    return !changed_.empty();
}

void WriterCredits::look(Nanos now) {
    changed_.clear();
    std::erase_if(writers_, [now](const Writer& w) { return now - w.last > kForgotten; });
    uint64_t share = 0;
    if (writers_.size() > kFew) {
        // No product of these overflows: a period's bytes are far from 2^64 / kQueue.
        uint64_t queue = bytes_ / static_cast<uint64_t>(now - since_) * static_cast<uint64_t>(kQueue);
        share = std::max(kLeastShare, std::max(kLeast, queue) / writers_.size());
    }
    for (Writer& w : writers_) {
        uint64_t more = std::max(share, w.told), less = std::min(share, w.told);
        bool old = share != 0 && now - w.told_at >= kAgain;
        if (more - less <= more / 4 && !old) continue;
        w.told = share;
        w.told_at = now;
        changed_.push_back({w.connection, share});
    }
}

void WriterCredits::drop(uint64_t connection) {
    auto it = place(writers_, connection);
    if (it != writers_.end() && it->connection == connection) writers_.erase(it);
}

}  // namespace tent::proto
