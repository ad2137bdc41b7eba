// How an index is rebuilt from what lies in the extents.
#include <algorithm>

#include "store/store.h"

namespace tent::store {

size_t Store::rebuild_extent(uint32_t extent) {
    uint64_t first = extents_.start(extent), at = 0;
    size_t found = 0;
    uint32_t epoch = 0;
    while (at + kSlotHeader <= extents_.extent_bytes()) {
        SlotHeader h = read_header(extents_.bytes_at(first + at));
        if (h.magic != kSlotMagic || h.format != kSlotVersion || h.epoch == 0) break;
        if (at == 0) epoch = h.epoch;
        if (h.epoch != epoch || h.length > extents_.extent_bytes() ||
            !within(at, slot_bytes(h.length), extents_.extent_bytes())) {
            break;
        }
        if (h.mark == kMarkCommitted && h.length > 0 && index_.find(h.digest) == kNoEntry) {
            Entry e;
            e.digest = h.digest;
            e.version = h.version;
            e.offset = first + at + kSlotHeader;
            e.length = h.length;
            e.check = h.check;
            e.extent = extent;
            e.expires = expiry(config_.ttl);  // when it came is not in its header
            found += index_.insert(e) != kNoEntry;
        }
        at += slot_bytes(h.length);
    }
    if (at > 0) {
        extents_.set_epoch(extent, std::max(epoch, extents_.epoch(extent)));
        extents_.adopt(extent, at);
    }
    return found;
}

size_t Store::rebuild() {
    std::lock_guard lock(mutex_);
    extents_.forget();
    index_.forget();
    tenants_.forget_pages();
    queue_.clear();
    unpublish_.clear();
    size_t found = 0;
    for (uint32_t i = 0; i < extents_.count(); ++i) found += rebuild_extent(i);
    return found;
}

}  // namespace tent::store
