#include "store/extents.h"

#include <algorithm>
#include <numeric>

#include "base/switches.h"
#include "model/types.h"

namespace tent::store {
namespace {

constexpr uint32_t kTwoLogs = 8;  // extents from which on keepers have a log of their own

}  // namespace

Extents::Extents(uint8_t* base, uint64_t bytes, uint64_t extent_bytes, std::atomic<uint32_t>* epochs)
    : base_(base), extent_bytes_(extent_bytes), epochs_(epochs), extents_(bytes / extent_bytes) {
    if (epochs_ == nullptr) {
        own_epochs_ = std::make_unique<std::atomic<uint32_t>[]>(extents_.size());
        epochs_ = own_epochs_.get();
        for (size_t i = 0; i < extents_.size(); ++i) epochs_[i].store(1, std::memory_order_relaxed);
    }
    free_ = count();
}

void Extents::change(uint32_t extent, ExtentState to) {
    Extent& e = extents_[extent];
    if (e.state == ExtentState::free) --free_;
    if (to == ExtentState::free) ++free_;
    e.state = to;
}

uint32_t Extents::take_free() {
    for (uint32_t i = 0; i < count(); ++i) {
        if (extents_[i].state == ExtentState::free) return i;
    }
    return kNoId;
}

bool Extents::has_room(size_t log, uint64_t need) const {
    return filling_[log] != UINT32_MAX && extents_[filling_[log]].fill + need <= extent_bytes_;
}

bool Extents::next_filling(size_t log, bool spare) {
    // With few extents there is nothing to keep back: pages are then dropped, not moved.
    uint32_t keep = spare || count() < 4 ? 0 : 1;
    if (free_ <= keep) return false;
    if (filling_[log] != UINT32_MAX) seal(filling_[log]);
    filling_[log] = take_free();
    change(filling_[log], ExtentState::filling);
    extents_[filling_[log]].keepers = log == 1;
    return true;
}

PageStatus Extents::reserve(uint64_t length, bool spare, bool keeper, Slot& out) {
    if (length > extent_bytes_ || slot_bytes(length) > extent_bytes_) return PageStatus::TOO_LARGE;
    uint64_t need = slot_bytes(length);
    // A pool of few extents cannot afford the end of a second log.
    size_t log = keeper && count() >= kTwoLogs ? 1 : 0;
    if (!has_room(log, need) && !next_filling(log, spare)) {
        log = 1 - log;
        if (!has_room(log, need)) return PageStatus::NO_SPACE;
    }
    uint32_t extent = filling_[log];
    Extent& e = extents_[extent];
    out = {extent, epoch(extent), start(extent) + e.fill + kSlotHeader, length};
    e.fill += need;
    ++e.users;
    // The next header is made void first: a walk over headers must not run into what lay here in an earlier
    // epoch.
    if (e.fill + kSlotHeader <= extent_bytes_) std::memset(base_ + start(extent) + e.fill, 0, kSlotHeader);
    SlotHeader header;
    header.epoch = out.epoch;
    header.length = length;
    write_header(header_at(out.offset), header);
    return PageStatus::STORED;
}

bool Extents::current(const Slot& slot) const {
    if (slot.extent >= count() || slot.epoch != epoch(slot.extent)) return false;
    uint64_t first = start(slot.extent);
    return slot.offset >= first + kSlotHeader && within(slot.offset - first, slot.length, extent_bytes_);
}

void Extents::close_slot(const Slot& slot, bool committed) {
    Extent& e = extents_[slot.extent];
    if (e.users > 0) --e.users;
    if (committed) return;
    uint64_t at = slot.offset - kSlotHeader - start(slot.extent);
    if (e.state == ExtentState::filling && at + slot_bytes(slot.length) == e.fill) {
        std::memset(header_at(slot.offset), 0, kSlotHeader);
        e.fill = at;
    } else {
        write_mark(header_at(slot.offset), kMarkDropped);
    }
}

uint32_t Extents::lend(const WriterId& writer, uint64_t loan) {
    uint32_t keep = count() < 4 ? 0 : 1;
    // Writers never hold more than half: the owner's own puts go on.
    if (free_ <= keep || (lent_count() + 1) * 2 > count()) return kNoId;
    uint32_t extent = take_free();
    change(extent, ExtentState::lent);
    extents_[extent].writer = writer;
    extents_[extent].loan = loan;
    return extent;
}

bool Extents::accept(uint32_t extent, uint64_t offset, uint64_t length) {
    Extent& e = extents_[extent];
    uint64_t first = start(extent);
    if (length == 0 || length > extent_bytes_ || offset < first + kSlotHeader || offset % kSlotAlign != 0)
        return false;
    uint64_t at = offset - kSlotHeader - first;
    if (at < e.fill || !within(at, slot_bytes(length), extent_bytes_)) return false;
    // A gap that the writer left (a page it gave up) is marked, so that a walk over headers passes it.
    if (at > e.fill) {
        SlotHeader gap;
        gap.epoch = epoch(extent);
        gap.mark = kMarkDropped;
        gap.length = at - e.fill - kSlotHeader;
        write_header(base_ + first + e.fill, gap);
    }
    e.fill = at + slot_bytes(length);
    return true;
}

void Extents::void_slot(const Slot& slot) {
    SlotHeader header;
    header.epoch = slot.epoch;
    header.mark = kMarkDropped;
    header.length = slot.length;
    write_header(header_at(slot.offset), header);
}

void Extents::quarantine(uint32_t extent) {
    change(extent, ExtentState::quarantined);
}

void Extents::start_reclaim(uint32_t extent) {
    change(extent, ExtentState::reclaiming);
}

void Extents::pass_over(uint32_t extent) {
    Extent& e = extents_[extent];
    e.keepers = true;
    e.sealed_at = ++seals_;
    ++e.rounds;
    e.hot_bytes = {e.hot_bytes[1], e.hot_bytes[2], 0};
}

uint64_t Extents::hot_bytes(uint32_t extent) const {
    const Extent& e = extents_[extent];
    return std::accumulate(e.hot_bytes.begin(), e.hot_bytes.end(), uint64_t{0});
}

void Extents::forget() {
    for (Extent& e : extents_) e = Extent{};
    free_ = count();
    filling_.fill(UINT32_MAX);
}

void Extents::adopt(uint32_t extent, uint64_t fill) {
    seal(extent);
    extents_[extent].fill = fill;
}

void Extents::seal(uint32_t extent) {
    change(extent, ExtentState::sealed);
    extents_[extent].sealed_at = ++seals_;
    extents_[extent].writer = {};
    extents_[extent].loan = 0;
    for (uint32_t& f : filling_) {
        if (f == extent) f = UINT32_MAX;
    }
}

void Extents::recycle(uint32_t extent) {
    if (protection_on(Protection::epoch)) epochs_[extent].fetch_add(1, std::memory_order_seq_cst);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    std::memset(base_ + start(extent), 0, kSlotHeader);
    Extent& e = extents_[extent];
    change(extent, ExtentState::free);
    e = Extent{};
}

uint32_t Extents::lent_count() const {
    return static_cast<uint32_t>(std::count_if(extents_.begin(), extents_.end(), [](const Extent& e) {
        return e.state == ExtentState::lent || e.state == ExtentState::quarantined;
    }));
}

}  // namespace tent::store
