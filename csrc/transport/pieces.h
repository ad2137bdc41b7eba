// Lists of local pieces, taken as the concatenation of their bytes.
#pragma once

#include <algorithm>
#include <vector>

#include "transport/transport.h"

namespace tent::transport {

// Appends to `out` what `pieces` have at [offset, offset + length) of their concatenation; less where they
// end.
inline void slice_of(const std::vector<LocalPiece>& pieces, uint64_t offset, uint64_t length,
                     std::vector<LocalPiece>& out) {
    for (const LocalPiece& p : pieces) {
        if (offset >= p.length) {
            offset -= p.length;
            continue;
        }
        uint64_t n = std::min(length, p.length - offset);
        if (n == 0) return;
        out.push_back({p.address + offset, n});
        length -= n;
        offset = 0;
    }
}

}  // namespace tent::transport
