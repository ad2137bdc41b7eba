#include "store/hot_pages.h"

#include <cstring>

namespace tent::store {

std::vector<uint32_t> HotPages::touch(std::span<const Id128> digests) {
    std::vector<uint32_t> hot;
    std::lock_guard lock(mutex_);
    for (size_t i = 0; i < digests.size(); ++i) {
        uint16_t where;
        uint64_t page;
        std::memcpy(&where, digests[i].data(), sizeof where);
        std::memcpy(&page, digests[i].data() + 8, sizeof page);
        Place& p = (*table_)[where];
        if (p.page == page) {
            ++p.count;
        } else if (p.count > 1) {
            --p.count;  // whoever is there is read more often: it stays, and counts less
        } else {
            p = {page, 1};
        }
        if (p.page == page && p.count >= reads_) {
            hot.push_back(static_cast<uint32_t>(i));
            p.count = 0;
        }
        if (++touched_ % kHalfLife == 0) {
            for (Place& each : *table_) each.count /= 2;
        }
    }
    return hot;
}

}  // namespace tent::store
