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
    if (asked_to_drain() || wanted_.size() >= kMaxWanted) return PageStatus::REFUSED;
    wanted_.push_back({digest, request.space, request.generation, request.copies});
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
    size_t n = std::min(most, wanted_.size());
    std::vector<Wanted> out(wanted_.begin(), wanted_.begin() + static_cast<ptrdiff_t>(n));
    wanted_.erase(wanted_.begin(), wanted_.begin() + static_cast<ptrdiff_t>(n));
    return out;
}

bool Store::wait_wanted(Nanos timeout) {
    std::unique_lock lock(mutex_);
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
