// The Store's pages on disk: how they leave memory for it, and how they come back.
#include <algorithm>
#include <chrono>
#include <set>

#include "base/switches.h"
#include "store/store.h"

namespace tent::store {
namespace {

constexpr Nanos kStagedFor = 250 * kMillisecond;  // for its reader to fetch it; later it is asked again

}  // namespace

// ---- down

// What of the extent is worth a place on disk: pages that were read go first, and so do those of the log of
// pages that have proven themselves; the others go while the disk keeps up with all.
std::vector<DiskOffer> Store::leaving(uint32_t extent, const std::vector<Pending>& moves) const {
    std::set<Id128> moved;
    for (const Pending& move : moves) moved.insert(move.digest);
    std::vector<DiskOffer> out;
    bool proven = extents_.at(extent).keepers;
    for (EntryId id = extents_.at(extent).head; id != kNoEntry; id = index_.at(id).next) {
        const Entry& e = index_.at(id);
        if (dead(e) || moved.contains(e.digest)) continue;
        DiskPage page{e.digest, e.version, spaces_[e.space].digest, e.generation, e.length,
                      e.check,  e.expires};
        out.push_back({page, extents_.bytes_at(e.offset), proven || index_.hits(id) > 0});
    }
    std::stable_partition(out.begin(), out.end(), [](const DiskOffer& o) { return o.read; });
    return out;
}

// The page goes: its record leaves the directory, or leads to the disk from now on.
void Store::take_leave(EntryId id, Reclaim& out) {
    const Entry& e = index_.at(id);
    Bytes there;
    if (DiskPage page; disk_ != nullptr) there = disk_->record(e.digest, now(), &page);
    if (e.publication == Publication::published) {
        if (there.empty()) {
            out.unpublish.push_back(published(e));
        } else {
            out.moved.push_back({e.digest, record_of(e), std::move(there)});
        }
    } else if (!there.empty()) {
        queue_.push_back(e.digest);
    }
    ghosts_.note(e.digest, extents_.at(e.extent).keepers, index_.size());
    forget(id);
    ++counts_.evicted;
}

size_t Store::leave(std::span<const Id128> digests, Nanos patience) {
    std::vector<DiskOffer> offers;
    std::vector<uint32_t> extents;
    {
        std::lock_guard lock(mutex_);
        for (const Id128& d : digests) {
            EntryId id = live(d);
            if (id == kNoEntry) continue;
            const Entry& e = index_.at(id);
            DiskPage page{d, e.version, spaces_[e.space].digest, e.generation, e.length, e.check, e.expires};
            offers.push_back({page, extents_.bytes_at(e.offset), true});
            extents.push_back(e.extent);
            ++extents_.at(e.extent).users;  // the bytes stay
        }
    }
    for (const DiskOffer& offer : offers) {
        if (disk_ == nullptr || !disk_->wait_buffer(patience)) break;
        disk_->offer({&offer, 1});
    }
    std::lock_guard lock(mutex_);
    for (uint32_t extent : extents) release(extent);
    size_t there = 0;
    for (const DiskOffer& offer : offers) {
        EntryId id = index_.find(offer.page.digest);
        if (id == kNoEntry) {  // dropped meanwhile
            if (disk_ != nullptr) disk_->remove(offer.page.digest);
            continue;
        }
        drop(id);
        there += on_disk(offer.page.digest);
    }
    return there;
}

// ---- up

void Store::stage(std::span<const Id128> digests, Nanos patience, std::span<PageStatus> status) {
    std::fill(status.begin(), status.end(), PageStatus::ABSENT);
    if (disk_ == nullptr) return;
    std::vector<std::shared_ptr<Disk::Read>> reads;
    std::vector<size_t> rows;
    for (size_t at = 0; at < digests.size();) {
        for (; at < digests.size(); ++at) {
            bool here;
            {
                std::lock_guard lock(mutex_);
                here = live(digests[at]) != kNoEntry;
            }
            if (here) status[at] = PageStatus::HIT;
            if (here || !disk_->find(digests[at], now())) continue;
            std::shared_ptr<Disk::Read> read = disk_->begin(digests[at], now());
            if (read == nullptr) break;  // enough for now
            reads.push_back(std::move(read));
            rows.push_back(at);
        }
        if (reads.empty() && at < digests.size() && !disk_->wait_room(patience)) {
            for (; at < digests.size(); ++at) {
                if (disk_->find(digests[at], now())) status[at] = PageStatus::DEADLINE;
            }
            return;
        }
        disk_->wait(reads, patience);
        land(reads, rows, status);
        reads.clear();
        rows.clear();
    }
}

// Pages that were read go to memory where they fit their checks.
void Store::land(std::span<const std::shared_ptr<Disk::Read>> reads, std::span<const size_t> rows,
                 std::span<PageStatus> status) {
    std::vector<PageJob> jobs;
    std::vector<Pending> landing;
    std::vector<uint64_t> sources(reads.size());
    {
        std::lock_guard lock(mutex_);
        for (size_t i = 0; i < reads.size(); ++i) {
            const Disk::Read& read = *reads[i];
            Pending p;
            p.row = i;
            status[rows[i]] = !read.done          ? PageStatus::DEADLINE
                              : !read.status.ok() ? PageStatus::ABSENT
                                                  : extents_.reserve(read.page.length, false, true, p.slot);
            if (status[rows[i]] != PageStatus::STORED) continue;
            sources[i] = reinterpret_cast<uint64_t>(read.bytes);
            landing.push_back(p);
            jobs.push_back(
                {read.page.digest, address(p.slot), &sources[i], &read.page.length, 1, read.page.length, 0});
        }
    }
    copy_pages(jobs, Direction::in, true, executor_);
    std::vector<bool> bad(reads.size());
    {
        std::lock_guard lock(mutex_);
        for (size_t k = 0; k < landing.size(); ++k) {
            const DiskPage& page = reads[landing[k].row]->page;
            bad[landing[k].row] = jobs[k].check != page.check && protection_on(Protection::check);
            status[rows[landing[k].row]] = enter(page, landing[k].slot, !bad[landing[k].row]);
        }
        counts_.check_failed += static_cast<uint64_t>(std::count(bad.begin(), bad.end(), true));
    }
    for (size_t i = 0; i < reads.size(); ++i) disk_->end(reads[i], !bad[i]);
}

PageStatus Store::enter(const DiskPage& page, const Slot& slot, bool good) {
    DiskPage there;
    PageStatus s = PageStatus::ABSENT;
    uint32_t space = space_of(page.space);
    if (!good) {
        s = PageStatus::CHECK_FAILED;
    } else if (disk_->find(page.digest, now(), &there) && there.version == page.version) {
        s = admit(space, page.length, 0);
        if (s == PageStatus::STORED)
            s = insert(space, page.generation, slot, page.digest, page.version, page.check);
    }
    extents_.close_slot(slot, s == PageStatus::STORED);
    if (s == PageStatus::PRESENT) return PageStatus::HIT;  // another reader was faster
    if (s != PageStatus::STORED) return s;
    if (page.expires != 0) index_.set_expiry(index_.find(page.digest), page.expires);
    queue_.push_back(page.digest);  // its record leads to memory now
    work_.notify_all();
    return PageStatus::HIT;
}

proto::Staged Store::ask_stage(const std::vector<Id128>& digests, Nanos time) {
    proto::Staged out;
    bool stuck = disk_ != nullptr && disk_->stuck();
    std::lock_guard lock(mutex_);
    for (const Id128& d : digests) {
        proto::StagedItem& item = out.items.emplace_back();
        EntryId id = live(d);
        PageStatus status = PageStatus::ABSENT;
        if (id != kNoEntry) {
            Entry& e = index_.at(id);
            Extent& extent = extents_.at(e.extent);
            status = PageStatus::HIT;
            e.lease_until = std::max(e.lease_until, time + kStagedFor);
            extent.lease_until = std::max(extent.lease_until, e.lease_until);
            item = {0, config_.segment, extents_.epoch(e.extent), e.offset, e.length, e.check, e.version};
        } else if (on_disk(d)) {
            status = stuck ? PageStatus::REFUSED : PageStatus::PENDING;
            if (!stuck) want_up(d);
        }
        item.code = static_cast<uint8_t>(status);
    }
    return out;
}

// Mutex held. False: too many wait.
bool Store::want_up(const Id128& digest) {
    if (to_stage_.size() >= kMaxToStage) return asked_stage_.contains(digest);
    if (asked_stage_.insert(digest).second) to_stage_.push_back(digest);
    staging_.notify_all();
    return true;
}

bool Store::wait_stage(Nanos timeout) {
    std::unique_lock lock(mutex_);
    staging_.wait_for(lock, std::chrono::nanoseconds(timeout),
                      [&] { return stopped_waiting_ || !to_stage_.empty() || scrub_.running != 0; });
    return !stopped_waiting_;
}

std::vector<Id128> Store::take_stage(size_t most) {
    std::lock_guard lock(mutex_);
    std::vector<Id128> out;
    while (!to_stage_.empty() && out.size() < most) {
        out.push_back(to_stage_.front());
        asked_stage_.erase(to_stage_.front());
        to_stage_.pop_front();
    }
    return out;
}

void Store::confirm_space(const Id128& space, uint64_t generation) {
    if (disk_ == nullptr) return;
    std::vector<Id128> pages = disk_->confirm(space, generation);
    enqueue(pages);
}

}  // namespace tent::store
