// Which pages of other hosts are read again and again: a reader that keeps copies of them spares their
// owners. A table of fixed size that counts by digest; pages that meet in one place take it from each other,
// and counts are halved now and then, so that only what is read lately counts. Any thread.
#pragma once

#include <array>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "base/bytes.h"

namespace tent::store {

class HotPages {
  public:
    // A page is hot with its `reads`-th read.
    explicit HotPages(uint32_t reads) : reads_(reads), table_(std::make_unique<Table>()) {}

    // Counts one read of each. Returns the positions of those that became hot with it; they start anew.
    std::vector<uint32_t> touch(std::span<const Id128> digests);

  private:
    static constexpr size_t kPlaces = 1 << 16;
    static constexpr uint64_t kHalfLife = 4 * kPlaces;  // reads between two halvings
    struct Place {
        uint64_t page = 0;  // the digest's second half
        uint32_t count = 0;
    };
    using Table = std::array<Place, kPlaces>;

    const uint32_t reads_;
    std::mutex mutex_;
    std::unique_ptr<Table> table_;
    uint64_t touched_ = 0;
};

}  // namespace tent::store
