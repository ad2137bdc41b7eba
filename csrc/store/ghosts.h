// Digests of pages that were evicted lately: a page that comes back soon was evicted too early, and from
// where it went tells which pages had too little room. Fingerprints in a fixed table, so that neither asking
// nor noting allocates; it forgets the oldest. Not thread-safe: the Store's mutex guards it.
#pragma once

#include <cstdint>
#include <vector>

#include "base/bytes.h"

namespace tent::store {

class Ghosts {
  public:
    enum class Kind : uint8_t { none, newcomer, keeper };

    // A page left. `pages`: how many the pool holds. Remembered are as many keepers as that, and half as many
    // newcomers.
    void note(const Id128& digest, bool keeper, size_t pages);
    Kind find(const Id128& digest) const;
    void forget(const Id128& digest);
    size_t memory() const { return table_.capacity() * sizeof(Ghost); }

  private:
    struct Ghost {
        uint32_t tag = 0;    // 0: none
        uint32_t stamp = 0;  // how many of its kind had left before, times two; plus one for a keeper
    };
    static constexpr size_t kWays = 8;  // a line of the processor's cache

    size_t set_of(const Id128& digest) const;
    static uint32_t tag_of(const Id128& digest);
    uint32_t age(const Ghost& ghost) const;

    std::vector<Ghost> table_;   // a power of two
    uint32_t left_[2] = {0, 0};  // newcomers, keepers
    uint32_t remembered_[2] = {0, 0};
};

}  // namespace tent::store
