// Numbers from a seed: the same on every machine, and one stream for each thing that draws, so that removing
// one does not change what the others draw.
#pragma once

#include <cstdint>

#include "base/clock.h"

namespace tent::sim {

class Random {
  public:
    explicit Random(uint64_t seed = 1, uint64_t stream = 0)
        : state_(seed * 0x9e3779b97f4a7c15u + stream * 0xd1b54a32d192ed03u + 1) {
        next();
    }
    uint64_t next() {
        uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }
    uint64_t below(uint64_t n) { return n == 0 ? 0 : next() % n; }
    uint64_t between(uint64_t low, uint64_t high) { return high <= low ? low : low + below(high - low + 1); }
    // Of a million.
    bool chance(uint64_t ppm) { return ppm != 0 && below(1'000'000) < ppm; }
    // Exponentially distributed about `mean`, at most 20 times it; integers all the way. The logarithm of a
    // uniform number: its leading zeros are the whole part (base 2), the bits behind them the fraction, which
    // is taken as linear (at most 9 % off).
    Nanos exponential(Nanos mean) {
        uint64_t u = next() | 1;
        auto zeros = static_cast<unsigned>(__builtin_clzll(u));
        uint64_t fraction = zeros == 63 ? 0 : (u << (zeros + 1)) >> 32;       // of 2^32
        uint64_t log2 = (static_cast<uint64_t>(zeros + 1) << 32) - fraction;  // -log2(u / 2^64)
        uint64_t ln = static_cast<uint64_t>((static_cast<Wide>(log2) * 2977044472u) >> 32);  // x ln 2
        auto t = static_cast<uint64_t>((static_cast<Wide>(mean) * ln) >> 32);
        return static_cast<Nanos>(t < 20 * static_cast<uint64_t>(mean) ? t
                                                                       : 20 * static_cast<uint64_t>(mean));
    }

  private:
    __extension__ typedef unsigned __int128 Wide;
    uint64_t state_;
};

}  // namespace tent::sim
