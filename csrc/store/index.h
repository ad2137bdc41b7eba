// The owner's index: digest -> page, by open addressing over a bounded slab of entries, plus a list of the
// pages of each extent. The index is what counts; the directory is a hint. Not thread-safe: the Store's mutex
// guards it.
#pragma once

#include <cstdint>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "store/extents.h"

namespace tent::store {

using EntryId = uint32_t;
constexpr EntryId kNoEntry = UINT32_MAX;

enum class Publication : uint8_t { queued, published };

struct Entry {
    Id128 digest{};
    Id128 version{};
    uint64_t offset = 0;  // of the bytes in the segment
    uint64_t length = 0;
    uint64_t check = 0;
    uint64_t generation = 0;
    Nanos lease_until = 0;
    Nanos expires = 0;   // 0: never
    uint32_t space = 0;  // index into the store's table of namespaces
    uint32_t extent = 0;
    uint32_t pins = 0;
    uint32_t round = 0;                            // of its extent when `hits` was counted
    EntryId next = kNoEntry, previous = kNoEntry;  // in its extent
    EntryId younger = kNoEntry, older = kNoEntry;  // of its tenant, see Tenants
    Publication publication = Publication::queued;
    bool used = false;
    uint8_t hits = 0;  // at most kMaxHits; Index::hits says what they still count for
};

class Index {
  public:
    Index(Extents& extents, size_t max_entries)
        : extents_(extents), max_(max_entries), table_(64, kNoEntry) {}

    EntryId find(const Id128& digest) const;
    // `entry.digest` must not be there yet. kNoEntry when the index is full. Links it into its extent.
    EntryId insert(const Entry& entry);
    void erase(EntryId id);
    // The page now lies elsewhere, and begins there with so many hits.
    void move(EntryId id, const Slot& to, uint32_t hits);
    // Reads of the page, less one for each time that its extent was passed over since.
    uint32_t hits(EntryId id) const;
    void set_hits(EntryId id, uint32_t hits);
    void set_expiry(EntryId id, Nanos expires);
    Entry& at(EntryId id) { return slab_[id]; }
    const Entry& at(EntryId id) const { return slab_[id]; }
    void forget();
    size_t size() const { return size_; }
    size_t slots() const { return slab_.size(); }  // ids are below this; unused ones have used == false
    size_t memory() const { return slab_.capacity() * sizeof(Entry) + table_.capacity() * sizeof(EntryId); }

  private:
    size_t home(const Id128& digest) const;
    void place(EntryId id);
    void grow();
    void link(EntryId id);
    void unlink(EntryId id);

    Extents& extents_;
    size_t max_, size_ = 0;
    std::vector<EntryId> table_;  // a power of two, at most half full
    std::vector<Entry> slab_;
    std::vector<EntryId> unused_;
};

}  // namespace tent::store
