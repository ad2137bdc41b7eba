#include "store/index.h"

#include <algorithm>

namespace tent::store {

// Digests are BLAKE2b: any eight of their bytes are a good hash.
size_t Index::home(const Id128& digest) const {
    uint64_t h;
    std::memcpy(&h, digest.data(), sizeof h);
    return static_cast<size_t>(h) & (table_.size() - 1);
}

EntryId Index::find(const Id128& digest) const {
    for (size_t i = home(digest); table_[i] != kNoEntry; i = (i + 1) & (table_.size() - 1)) {
        if (slab_[table_[i]].digest == digest) return table_[i];
    }
    return kNoEntry;
}

void Index::place(EntryId id) {
    size_t i = home(slab_[id].digest);
    while (table_[i] != kNoEntry) i = (i + 1) & (table_.size() - 1);
    table_[i] = id;
}

void Index::grow() {
    table_.assign(table_.size() * 2, kNoEntry);
    for (EntryId id = 0; id < slab_.size(); ++id) {
        if (slab_[id].used) place(id);
    }
}

EntryId Index::insert(const Entry& entry) {
    if (size_ >= max_) return kNoEntry;
    if ((size_ + 1) * 2 > table_.size()) grow();
    EntryId id;
    if (unused_.empty()) {
        id = static_cast<EntryId>(slab_.size());
        slab_.push_back(entry);
    } else {
        id = unused_.back();
        unused_.pop_back();
        slab_[id] = entry;
    }
    slab_[id].used = true;
    ++size_;
    place(id);
    link(id);
    return id;
}

void Index::erase(EntryId id) {
    unlink(id);
    size_t mask = table_.size() - 1;
    size_t hole = home(slab_[id].digest);
    while (table_[hole] != id) hole = (hole + 1) & mask;
    // Close the gap: whatever follows and does not sit at its home or behind the gap moves back.
    for (size_t i = (hole + 1) & mask; table_[i] != kNoEntry; i = (i + 1) & mask) {
        size_t want = home(slab_[table_[i]].digest);
        if (((i - want) & mask) >= ((i - hole) & mask)) {
            table_[hole] = table_[i];
            hole = i;
        }
    }
    table_[hole] = kNoEntry;
    slab_[id].used = false;
    unused_.push_back(id);
    --size_;
}

// The extents' lists are the caller's to forget.
void Index::forget() {
    table_.assign(64, kNoEntry);
    slab_.clear();
    unused_.clear();
    size_ = 0;
}

uint32_t Index::hits(EntryId id) const {
    const Entry& e = slab_[id];
    uint32_t passed = extents_.at(e.extent).rounds - e.round;
    return e.hits > passed ? e.hits - passed : 0;
}

void Index::set_hits(EntryId id, uint32_t hits_now) {
    Entry& e = slab_[id];
    Extent& extent = extents_.at(e.extent);
    uint32_t before = hits(id), after = std::min(hits_now, kMaxHits);
    if (before > 0) extent.hot_bytes[before - 1] -= e.length;
    if (after > 0) extent.hot_bytes[after - 1] += e.length;
    e.hits = static_cast<uint8_t>(after);
    e.round = extent.rounds;
}

void Index::set_expiry(EntryId id, Nanos expires) {
    Extent& extent = extents_.at(slab_[id].extent);
    slab_[id].expires = expires;
    if (expires != 0 && (extent.expires == 0 || expires < extent.expires)) extent.expires = expires;
}

void Index::move(EntryId id, const Slot& to, uint32_t hits_there) {
    unlink(id);
    slab_[id].hits = static_cast<uint8_t>(std::min(hits_there, kMaxHits));
    slab_[id].extent = to.extent;
    slab_[id].offset = to.offset;
    link(id);
}

void Index::link(EntryId id) {
    Entry& e = slab_[id];
    Extent& extent = extents_.at(e.extent);
    e.previous = kNoEntry;
    e.next = extent.head;
    if (e.next != kNoEntry) slab_[e.next].previous = id;
    extent.head = id;
    extent.live_bytes += e.length;
    ++extent.live_pages;
    e.round = extent.rounds;
    if (e.hits > 0) extent.hot_bytes[e.hits - 1] += e.length;
    set_expiry(id, e.expires);
}

void Index::unlink(EntryId id) {
    Entry& e = slab_[id];
    Extent& extent = extents_.at(e.extent);
    if (e.previous != kNoEntry) {
        slab_[e.previous].next = e.next;
    } else {
        extent.head = e.next;
    }
    if (e.next != kNoEntry) slab_[e.next].previous = e.previous;
    extent.live_bytes -= e.length;
    --extent.live_pages;
    uint32_t counted = hits(id);
    if (counted > 0) extent.hot_bytes[counted - 1] -= e.length;
}

}  // namespace tent::store
