// Pages that a reader found bad: the owner looks itself, since the fault may be the reader's or a link's.
#include <algorithm>

#include "base/switches.h"
#include "store/store.h"

namespace tent::store {
namespace {

constexpr size_t kMaxDoubted = 65536;  // beyond it they wait to be found bad once more

}  // namespace

void Store::doubt(std::span<const Id128> digests) {
    {
        std::lock_guard lock(mutex_);
        for (const Id128& d : digests) {
            if (doubted_.size() < kMaxDoubted && live(d) != kNoEntry) doubted_.push_back(d);
        }
        woken_ = true;
    }
    work_.notify_all();
}

size_t Store::scrub(size_t most) {
    std::vector<Pending> held;
    {
        std::lock_guard lock(mutex_);
        while (!doubted_.empty() && held.size() < most) {
            EntryId id = live(doubted_.back());
            doubted_.pop_back();
            if (id == kNoEntry) continue;
            const Entry& e = index_.at(id);
            Pending p;
            p.digest = e.digest;
            p.check = e.check;
            p.slot = {e.extent, extents_.epoch(e.extent), e.offset, e.length};
            ++extents_.at(e.extent).users;
            held.push_back(p);
        }
    }
    std::vector<uint64_t> addresses(held.size()), lengths(held.size());
    std::vector<PageJob> jobs(held.size());
    for (size_t i = 0; i < held.size(); ++i) {
        addresses[i] = reinterpret_cast<uint64_t>(address(held[i].slot));
        lengths[i] = held[i].slot.length;
        jobs[i].digest = held[i].digest;
        jobs[i].address = &addresses[i];
        jobs[i].length = &lengths[i];
        jobs[i].parts = 1;
        jobs[i].bytes = lengths[i];
    }
    copy_pages(jobs, Direction::verify, true, executor_);
    std::lock_guard lock(mutex_);
    for (size_t i = 0; i < held.size(); ++i) {
        EntryId id = index_.find(held[i].digest);
        bool same = id != kNoEntry && index_.at(id).offset == held[i].slot.offset;
        if (same && jobs[i].check != held[i].check && protection_on(Protection::check)) {
            drop(id);
            ++counts_.check_failed;
        }
        release(held[i].slot.extent);
    }
    return held.size();
}

}  // namespace tent::store
