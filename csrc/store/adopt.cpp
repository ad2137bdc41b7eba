// Copies of pages that other nodes own, and what operators ask of a store. The bytes of a copy are fetched by
// the caller (it has the links); it then commits them under the version that they are.
#include <algorithm>
#include <chrono>

#include "store/store.h"

namespace tent::store {
namespace {

constexpr size_t kMaxWanted = 65536;

}  // namespace

PageStatus Store::want_one(const proto::AdoptRequest& request, const Id128& digest) {
    if (live(digest) != kNoEntry || on_disk(digest)) return PageStatus::PRESENT;
    if (asked_to_drain()) return PageStatus::REFUSED;
    if (fetching_.contains(digest)) return PageStatus::PENDING;
    auto asked = asked_wanted_.find(digest);
    if (asked == asked_wanted_.end()) {
        if (wanted_.size() >= kMaxWanted) return PageStatus::REFUSED;
        asked_wanted_[digest] = {digest, request.space, request.generation, request.copies};
        wanted_.push_back(digest);
        return PageStatus::PENDING;
    }
    Wanted& there = asked->second;
    // Whoever wants the most copies decides; 0: however many there are.
    bool all = there.copies == 0 || request.copies == 0;
    there.copies = all ? uint8_t{0} : std::max(there.copies, request.copies);
    there.generation = std::max(there.generation, request.generation);
    return PageStatus::PENDING;
}

void Store::want(const proto::AdoptRequest& request, std::span<PageStatus> status) {
    {
        std::lock_guard lock(mutex_);
        for (size_t i = 0; i < status.size(); ++i) status[i] = want_one(request, request.digests[i]);
    }
    wanting_.notify_all();
}

std::vector<Wanted> Store::take_wanted(size_t most) {
    std::lock_guard lock(mutex_);
    fetching_.clear();
    std::vector<Wanted> out;
    while (!wanted_.empty() && out.size() < most) {
        auto asked = asked_wanted_.find(wanted_.front());
        wanted_.pop_front();
        fetching_.insert(asked->first);
        out.push_back(asked->second);
        asked_wanted_.erase(asked);
    }
    return out;
}

bool Store::wait_wanted(Nanos timeout) {
    std::unique_lock lock(mutex_);
    fetching_.clear();
    wanting_.wait_for(lock, std::chrono::nanoseconds(timeout),
                      [&] { return stopped_waiting_ || !wanted_.empty(); });
    return !stopped_waiting_;
}

void Store::stop_waiting() {
    {
        std::lock_guard lock(mutex_);
        stopped_waiting_ = true;
    }
    wanting_.notify_all();
    staging_.notify_all();
}

void Store::ask_to_drain() {
    draining_.store(true, std::memory_order_release);
    wake();
}

proto::PageList Store::list(uint64_t cursor, size_t most) const {
    std::lock_guard lock(mutex_);
    proto::PageList out;
    out.segment = config_.segment;
    most = std::min(most, proto::kMaxListed);
    EntryId id = static_cast<EntryId>(std::min<uint64_t>(cursor, index_.slots()));
    for (; id < index_.slots() && out.items.size() < most; ++id) {
        const Entry& e = index_.at(id);
        if (!e.used || dead(e)) continue;
        out.items.push_back({e.digest, spaces_[e.space].digest, e.generation, e.offset, e.length, e.check,
                             extents_.epoch(e.extent), index_.hits(id), e.pins});
    }
    out.next = id < index_.slots() ? id : 0;
    return out;
}

proto::SpaceList Store::spaces() const {
    std::lock_guard lock(mutex_);
    std::vector<proto::SpaceItem> all(spaces_.size());
    for (size_t i = 0; i < all.size(); ++i) all[i] = {spaces_[i].digest, spaces_[i].generation, 0, 0};
    for (EntryId id = 0; id < index_.slots(); ++id) {
        const Entry& e = index_.at(id);
        if (!e.used || dead(e)) continue;
        ++all[e.space].pages;
        all[e.space].bytes += e.length;
    }
    std::erase_if(all, [](const proto::SpaceItem& s) { return s.pages == 0; });
    std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.bytes > b.bytes; });
    if (all.size() > proto::kMaxListed) all.resize(proto::kMaxListed);  // the largest
    return {std::move(all)};
}

}  // namespace tent::store
