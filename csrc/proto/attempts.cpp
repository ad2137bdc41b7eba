#include "proto/attempts.h"

#include <algorithm>

#include "base/switches.h"

namespace tent::proto {

bool AttemptTable::admits(AttemptId attempt) const {
    if (!protection_on(Protection::fence)) return true;
    if (overflowed_ || attempt < floor_) return false;
    return !std::binary_search(revoked_.begin(), revoked_.end(), attempt);
}

void AttemptTable::revoke(AttemptId attempt) {
    if (attempt < floor_) return;
    auto it = std::lower_bound(revoked_.begin(), revoked_.end(), attempt);
    if (it != revoked_.end() && *it == attempt) return;
    if (revoked_.size() == kMaxRevoked) {
        overflowed_ = true;
        return;
    }
    revoked_.insert(it, attempt);
}

void AttemptTable::raise_floor(AttemptId floor) {
    if (floor <= floor_) return;
    floor_ = floor;
    revoked_.erase(revoked_.begin(), std::lower_bound(revoked_.begin(), revoked_.end(), floor));
}

}  // namespace tent::proto
