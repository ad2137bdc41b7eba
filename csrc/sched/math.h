// Integer arithmetic of the sprayer: no float, no overflow, saturating where a result does not fit.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "base/clock.h"

namespace tent::sched {

__extension__ typedef unsigned __int128 Wide;

// floor(a * b / c), saturated. c == 0 counts as 1.
constexpr uint64_t mul_div(uint64_t a, uint64_t b, uint64_t c) {
    if (c == 0) c = 1;
    uint64_t product = 0;
    if (!__builtin_mul_overflow(a, b, &product)) return product / c;
    Wide wide = static_cast<Wide>(a) * b / c;
    constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();
    return wide > kMax ? kMax : static_cast<uint64_t>(wide);
}

// Far enough for "never ends", small enough to be added to any time.
constexpr Nanos kLongest = INT64_MAX / 4;

// How long `bytes` take at `rate` bytes per second.
constexpr Nanos time_of(uint64_t bytes, uint64_t rate) {
    uint64_t t = mul_div(bytes, kSecond, rate);
    return t > static_cast<uint64_t>(kLongest) ? kLongest : static_cast<Nanos>(t);
}

// A rate turned round, so that asking for a time needs no division: exact to a nanosecond in 4 GiB.
class Pace {
  public:
    Pace() = default;
    explicit Pace(uint64_t rate) : per_byte_(mul_div(kSecond, uint64_t{1} << 32, rate)) {}
    Nanos time(uint64_t bytes) const {
        Wide t = (static_cast<Wide>(bytes) * per_byte_) >> 32;
        return t > static_cast<Wide>(kLongest) ? kLongest : static_cast<Nanos>(t);
    }

  private:
    uint64_t per_byte_ = 0;  // nanoseconds, 32 bits of fraction
};

// How many bytes `rate` carries in `time`.
constexpr uint64_t bytes_in(Nanos time, uint64_t rate) {
    return time <= 0 ? 0 : mul_div(static_cast<uint64_t>(time), rate, kSecond);
}

// Bytes per second of `bytes` in `time`; at least 1.
constexpr uint64_t rate_of(uint64_t bytes, Nanos time) {
    return std::max<uint64_t>(1, mul_div(bytes, kSecond, static_cast<uint64_t>(std::max<Nanos>(time, 1))));
}

constexpr Nanos add_time(Nanos a, Nanos b) {
    return a >= kNever - b ? kNever : a + b;  // b >= 0
}

}  // namespace tent::sched
