// The Store's traffic with the directory: what is to be published, and what is to be taken out again.
#include <algorithm>
#include <chrono>

#include "store/store.h"

namespace tent::store {

void Store::records(std::span<const Id128> digests, std::vector<Published>& out) const {
    std::lock_guard lock(mutex_);
    for (const Id128& d : digests) {
        EntryId id = live(d);
        if (id == kNoEntry) {
            out.push_back({d, {}, 0, {}});
        } else {
            out.push_back(published(index_.at(id)));
        }
    }
}

std::vector<uint32_t> Store::confirm(std::span<const Id128> digests) {
    std::lock_guard lock(mutex_);
    std::vector<uint32_t> gone;
    for (size_t i = 0; i < digests.size(); ++i) {
        EntryId id = live(digests[i]);
        if (id == kNoEntry && on_disk(digests[i])) {
            queue_.push_back(digests[i]);  // it went to the disk meanwhile
        } else if (id == kNoEntry) {
            gone.push_back(static_cast<uint32_t>(i));
        } else {
            index_.at(id).publication = Publication::published;
        }
    }
    return gone;
}

void Store::enqueue(std::span<const Id128> digests) {
    std::lock_guard lock(mutex_);
    queue_.insert(queue_.end(), digests.begin(), digests.end());
}

void Store::enqueue_all() {
    std::lock_guard lock(mutex_);
    queue_.clear();
    for (EntryId id = 0; id < index_.slots(); ++id) {
        if (index_.at(id).used) queue_.push_back(index_.at(id).digest);
    }
    if (disk_ == nullptr) return;
    std::vector<Id128> there = disk_->digests(now());
    queue_.insert(queue_.end(), there.begin(), there.end());
}

std::vector<Published> Store::take_unpublished(size_t most) {
    std::lock_guard lock(mutex_);
    std::vector<Published> out;
    while (!queue_.empty() && out.size() < most) {
        Id128 digest = queue_.back();
        EntryId id = live(digest);
        queue_.pop_back();
        if (id != kNoEntry) {
            out.push_back(published(index_.at(id)));
        } else if (disk_ != nullptr && !asked_to_drain()) {
            DiskPage page;
            Bytes record = disk_->record(digest, now(), &page);
            if (!record.empty()) out.push_back({digest, page.space, page.generation, std::move(record)});
        }
    }
    return out;
}

std::vector<Published> Store::take_unpublish(size_t most) {
    std::lock_guard lock(mutex_);
    expire();
    size_t n = std::min(most, unpublish_.size());
    std::vector<Published> out(std::make_move_iterator(unpublish_.end() - static_cast<ptrdiff_t>(n)),
                               std::make_move_iterator(unpublish_.end()));
    unpublish_.resize(unpublish_.size() - n);
    if (disk_ != nullptr) {
        for (auto& [digest, record] : disk_->take_unpublish(most - n))
            out.push_back({digest, {}, 0, std::move(record)});
    }
    return out;
}

void Store::wait_work(Nanos timeout) {
    std::unique_lock lock(mutex_);
    work_.wait_for(lock, std::chrono::nanoseconds(timeout), [&] { return woken_ || !queue_.empty(); });
    woken_ = false;
}

void Store::wake() {
    {
        std::lock_guard lock(mutex_);
        woken_ = true;
    }
    work_.notify_all();
}

}  // namespace tent::store
