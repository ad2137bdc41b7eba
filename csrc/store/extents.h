// The extents of one segment: filled from the front like a log, sealed when full, reclaimed as a whole. A
// slot is a header and a page's bytes in an extent (slot.h). There are two logs: one of newcomers, and one of
// pages that have proven themselves, so that what stays and what goes do not share extents. Not thread-safe:
// the Store's mutex guards it; only the epochs are read by others.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "model/types.h"
#include "store/reason.h"
#include "store/slot.h"

namespace tent::store {

constexpr uint32_t kMaxHits = 3;  // more say nothing about what will be read

enum class ExtentState : uint8_t {
    free,
    filling,      // the end of one of the logs
    lent,         // a writer lays pages into it
    quarantined,  // lent, and the writer is neither back nor proven gone
    sealed,
    reclaiming,  // its pages are leaving; nobody may read it by record for much longer
};

// Room for one page: `offset` is where its bytes lie in the segment; the header is kSlotHeader before it.
struct Slot {
    uint32_t extent = 0;
    uint32_t epoch = 0;
    uint64_t offset = 0;
    uint64_t length = 0;
};

struct Extent {
    ExtentState state = ExtentState::free;
    uint32_t users = 0;       // open slots and running copies: not reclaimed while there are any
    uint64_t fill = 0;        // bytes from the start that are taken
    uint64_t sealed_at = 0;   // rises with every sealing and every round: age
    bool keepers = false;     // of the log of pages that have proven themselves
    uint32_t rounds = 0;      // how often it was passed over: each takes a hit from all its pages
    uint64_t live_bytes = 0;  // of committed pages
    uint32_t live_pages = 0;
    std::array<uint64_t, kMaxHits> hot_bytes{};  // of pages with 1, 2 and 3 hits
    uint32_t head = UINT32_MAX;                  // the index's list of its pages
    uint32_t pinned = 0;                         // pages with pins
    int64_t lease_until = 0;                     // the latest read lease in it
    int64_t expires = 0;                         // no page of it expires before; 0: none does
    bool recycle_when_idle = false;              // reclaimed, but a copy out of it is still running
    WriterId writer;                             // lent or quarantined: to whom, under which number
    uint64_t loan = 0;
};

class Extents {
  public:
    // `epochs`: one per extent, owned by the caller and outliving this; they start at 1. Null: an own array.
    Extents(uint8_t* base, uint64_t bytes, uint64_t extent_bytes, std::atomic<uint32_t>* epochs);

    uint32_t count() const { return static_cast<uint32_t>(extents_.size()); }
    uint64_t extent_bytes() const { return extent_bytes_; }
    Extent& at(uint32_t extent) { return extents_[extent]; }
    const Extent& at(uint32_t extent) const { return extents_[extent]; }
    uint32_t epoch(uint32_t extent) const { return epochs_[extent].load(std::memory_order_acquire); }
    void set_epoch(uint32_t extent, uint32_t epoch) {
        epochs_[extent].store(epoch, std::memory_order_release);
    }
    uint64_t start(uint32_t extent) const { return extent * extent_bytes_; }
    uint8_t* bytes_at(uint64_t offset) const { return base_ + offset; }
    uint8_t* header_at(uint64_t offset) const { return base_ + offset - kSlotHeader; }
    uint32_t free_count() const { return free_; }

    // Room at the end of a log, in a free extent after sealing the last where that is full, or in the other
    // log where there is none. STORED, TOO_LARGE or NO_SPACE. `spare`: may take the extent that is kept back
    // so that reclaiming can move pages. Counts as a user until close_slot().
    PageStatus reserve(uint64_t length, bool spare, bool keeper, Slot& out);
    // Ends a reservation; a dropped one gives its room back when it was the last.
    void close_slot(const Slot& slot, bool committed);
    bool current(const Slot& slot) const;  // does the slot still mean what it meant?

    // Takes a whole free extent for a writer. kNoId: none.
    uint32_t lend(const WriterId& writer, uint64_t loan);
    // The writer's page at `offset` in a lent extent: moves the fill mark. False: outside, overlapping,
    // unaligned.
    bool accept(uint32_t extent, uint64_t offset, uint64_t length);
    void void_slot(const Slot& slot);  // an accepted page that did not become visible after all
    void quarantine(uint32_t extent);
    void seal(uint32_t extent);
    void start_reclaim(uint32_t extent);
    // Passes a sealed extent over: it is as if all its pages had been moved to the end of the keepers' log.
    void pass_over(uint32_t extent);
    uint64_t hot_bytes(uint32_t extent) const;
    // Rebuilding: everything is free again (epochs stay); an extent holds slots up to `fill`.
    void forget();
    void adopt(uint32_t extent, uint64_t fill);
    // Makes an extent free: raises the epoch before a byte of it changes.
    void recycle(uint32_t extent);
    uint32_t lent_count() const;

  private:
    void change(uint32_t extent, ExtentState to);
    bool has_room(size_t log, uint64_t need) const;
    bool next_filling(size_t log, bool spare);
    uint32_t take_free();

    uint8_t* base_;
    uint64_t extent_bytes_;
    std::unique_ptr<std::atomic<uint32_t>[]> own_epochs_;
    std::atomic<uint32_t>* epochs_;
    std::vector<Extent> extents_;
    std::array<uint32_t, 2> filling_ = {UINT32_MAX, UINT32_MAX};  // newcomers, keepers
    uint32_t free_ = 0;
    uint64_t seals_ = 0;
};

}  // namespace tent::store
