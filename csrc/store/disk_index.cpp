#include "store/disk_index.h"

namespace tent::store {

void DiskIndex::place(uint32_t id) {
    size_t i = home(slab_[id].digest);
    while (table_[i] != kNoPage) i = next(i);
    table_[i] = id;
}

uint32_t DiskIndex::insert(const DiskEntry& entry) {
    if (size_ >= max_) return kNoPage;
    if ((size_ + 1) * 2 > table_.size()) {
        table_.assign(table_.size() * 2, kNoPage);
        for (uint32_t id = 0; id < slab_.size(); ++id) {
            if (slab_[id].used) place(id);
        }
    }
    uint32_t id = static_cast<uint32_t>(slab_.size());
    if (unused_.empty()) {
        slab_.push_back(entry);
    } else {
        id = unused_.back();
        unused_.pop_back();
        slab_[id] = entry;
    }
    DiskEntry& e = slab_[id];
    e.used = true;
    e.previous = kNoPage;
    e.next = heads_[e.extent];
    if (e.next != kNoPage) slab_[e.next].previous = id;
    heads_[e.extent] = id;
    ++size_;
    place(id);
    return id;
}

void DiskIndex::erase(uint32_t id) {
    DiskEntry& e = slab_[id];
    (e.previous == kNoPage ? heads_[e.extent] : slab_[e.previous].next) = e.next;
    if (e.next != kNoPage) slab_[e.next].previous = e.previous;
    size_t mask = table_.size() - 1, hole = home(e.digest);
    while (table_[hole] != id) hole = next(hole);
    // Whatever follows and does not sit at its home or behind the gap moves back.
    for (size_t i = next(hole); table_[i] != kNoPage; i = next(i)) {
        size_t want = home(slab_[table_[i]].digest);
        if (((i - want) & mask) >= ((i - hole) & mask)) {
            table_[hole] = table_[i];
            hole = i;
        }
    }
    table_[hole] = kNoPage;
    e.used = false;
    unused_.push_back(id);
    --size_;
}

}  // namespace tent::store
