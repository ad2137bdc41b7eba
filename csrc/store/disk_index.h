// What lies on the disk: digest -> where, by open addressing over a bounded slab, plus a list of the pages of
// each extent. 88 bytes a page and 8 to 16 of the table. Not thread-safe: the Disk's mutex guards it.
#pragma once

#include <cstdint>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"

namespace tent::store {

constexpr uint32_t kNoPage = UINT32_MAX;

struct DiskEntry {
    Id128 digest{}, version{};
    uint64_t check = 0;
    uint64_t generation = 0;
    Nanos expires = 0;  // 0: never
    uint32_t offset = 0, length = 0;
    uint32_t extent = 0, space = 0;
    uint32_t next = kNoPage, previous = kNoPage;  // in its extent
    bool used = false;
    bool shown = false;  // the directory may have a record that leads here
};

class DiskIndex {
  public:
    DiskIndex(size_t max_entries, size_t extents)
        : max_(max_entries), table_(64, kNoPage), heads_(extents, kNoPage) {}

    uint32_t find(const Id128& digest) const {
        for (size_t i = home(digest); table_[i] != kNoPage; i = next(i)) {
            if (slab_[table_[i]].digest == digest) return table_[i];
        }
        return kNoPage;
    }
    // The digest must not be there yet. kNoPage: full.
    uint32_t insert(const DiskEntry& entry);
    void erase(uint32_t id);
    DiskEntry& at(uint32_t id) { return slab_[id]; }
    const DiskEntry& at(uint32_t id) const { return slab_[id]; }
    uint32_t first(uint32_t extent) const { return heads_[extent]; }
    size_t size() const { return size_; }
    size_t slots() const { return slab_.size(); }
    size_t memory() const {
        return slab_.capacity() * sizeof(DiskEntry) +
               (table_.capacity() + heads_.capacity()) * sizeof(uint32_t);
    }

  private:
    size_t home(const Id128& digest) const {
        uint64_t h;
        std::memcpy(&h, digest.data(), sizeof h);
        return static_cast<size_t>(h) & (table_.size() - 1);
    }
    size_t next(size_t i) const { return (i + 1) & (table_.size() - 1); }
    void place(uint32_t id);

    size_t max_, size_ = 0;
    std::vector<uint32_t> table_;  // a power of two, at most half full
    std::vector<DiskEntry> slab_;
    std::vector<uint32_t> unused_;
    std::vector<uint32_t> heads_;  // by extent
};

}  // namespace tent::store
