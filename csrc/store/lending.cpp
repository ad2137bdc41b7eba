// The owner's side of lending extents to writers in other processes.
#include <algorithm>

#include "base/switches.h"
#include "store/store.h"

namespace tent::store {

uint32_t Store::loan_extent(const WriterId& writer, uint64_t loan) const {
    for (uint32_t i = 0; i < extents_.count(); ++i) {
        const Extent& e = extents_.at(i);
        if (e.state == ExtentState::lent && e.loan == loan && e.writer == writer) return i;
    }
    return kNoId;
}

proto::Lent Store::lend(const WriterId& writer, const proto::LendRequest& request) {
    std::lock_guard lock(mutex_);
    proto::Lent out;
    auto refuse = [&](PageStatus s) {
        out.code = static_cast<uint8_t>(s);
        return out;
    };
    if (request.largest > extents_.extent_bytes() || slot_bytes(request.largest) > extents_.extent_bytes()) {
        return refuse(PageStatus::TOO_LARGE);
    }
    if (asked_to_drain()) return refuse(PageStatus::NO_SPACE);
    uint64_t held = 0;
    for (uint32_t i = 0; i < extents_.count(); ++i) {
        const Extent& e = extents_.at(i);
        bool out_there = e.state == ExtentState::lent || e.state == ExtentState::quarantined;
        if (out_there && e.writer.incarnation == writer.incarnation) held += extents_.extent_bytes();
    }
    if (held > 0 && held + extents_.extent_bytes() > config_.loan_limit) return refuse(PageStatus::QUOTA);
    uint32_t extent = extents_.lend(writer, ++loans_);
    // Whoever fills a whole extent will soon want the next: room is made before, not when it is asked for.
    woken_ = true;
    work_.notify_all();
    if (extent == kNoId) return refuse(PageStatus::NO_SPACE);
    out.code = static_cast<uint8_t>(PageStatus::STORED);
    out.loan = loans_;
    out.segment = config_.segment;
    out.extent = extent;
    out.epoch = extents_.epoch(extent);
    out.offset = extents_.start(extent);
    out.length = extents_.extent_bytes();
    return out;
}

std::vector<PageStatus> Store::commit_lent(const WriterId& writer, const proto::CommitRequest& request) {
    std::lock_guard lock(mutex_);
    std::vector<PageStatus> status(request.items.size(), PageStatus::REFUSED);
    uint32_t extent = loan_extent(writer, request.loan);
    bool stale = extent == kNoId || request.epoch != extents_.epoch(extent);
    if (extent == kNoId || asked_to_drain() || (stale && protection_on(Protection::epoch))) {
        counts_.remote_refused += status.size();
        return status;
    }
    uint32_t space = space_of(request.space);
    for (size_t i = 0; i < status.size(); ++i) {
        const proto::CommitItem& item = request.items[i];
        Slot slot{extent, request.epoch, item.offset, item.length};
        if (!extents_.accept(extent, item.offset, item.length)) {
            status[i] = PageStatus::REFUSED;
        } else {
            status[i] = admit(space, item.length, 0);
            if (status[i] == PageStatus::STORED) {
                status[i] = insert(space, request.generation, slot, item.digest, next_version(), item.check);
            }
            if (status[i] == PageStatus::STORED) {
                queue_.push_back(item.digest);
                work_.notify_all();
            } else {
                extents_.void_slot(slot);
            }
        }
        ++(status[i] == PageStatus::STORED ? counts_.remote_commits : counts_.remote_refused);
    }
    return status;
}

void Store::give_back(const WriterId& writer, uint64_t loan) {
    std::lock_guard lock(mutex_);
    uint32_t extent = loan_extent(writer, loan);
    if (extent == kNoId) return;
    extents_.seal(extent);
    loans_ended_.fetch_add(1, std::memory_order_release);
}

bool Store::may_write(const WriterId& writer, uint64_t offset, uint64_t length) const {
    std::lock_guard lock(mutex_);
    uint64_t extent = offset / extents_.extent_bytes();
    if (length == 0 || extent >= extents_.count()) return false;
    const Extent& e = extents_.at(static_cast<uint32_t>(extent));
    return e.state == ExtentState::lent && e.writer == writer &&
           within(offset - extents_.start(static_cast<uint32_t>(extent)), length, extents_.extent_bytes());
}

bool Store::lends_to(const WriterId& writer) const {
    std::lock_guard lock(mutex_);
    for (uint32_t i = 0; i < extents_.count(); ++i) {
        const Extent& e = extents_.at(i);
        if (e.state == ExtentState::lent && e.writer == writer) return true;
    }
    return false;
}

void Store::writer_lost(const WriterId& writer) {
    std::lock_guard lock(mutex_);
    for (uint32_t i = 0; i < extents_.count(); ++i) {
        if (extents_.at(i).state == ExtentState::lent && extents_.at(i).writer == writer)
            extents_.quarantine(i);
    }
    loans_ended_.fetch_add(1, std::memory_order_release);
}

void Store::writer_gone(const WriterId& writer) {
    std::lock_guard lock(mutex_);
    for (uint32_t i = 0; i < extents_.count(); ++i) {
        const Extent& e = extents_.at(i);
        bool theirs = e.state == ExtentState::lent || e.state == ExtentState::quarantined;
        if (theirs && e.writer == writer) extents_.seal(i);
    }
    loans_ended_.fetch_add(1, std::memory_order_release);
}

}  // namespace tent::store
