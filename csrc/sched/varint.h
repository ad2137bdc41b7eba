// Small numbers in few bytes (LEB128), for recordings and checkpoints. Reading is checked.
#pragma once

#include <bit>
#include <cstdint>

#include "base/bytes.h"
#include "base/clock.h"

namespace tent::sched {

constexpr size_t kMaxVarint = 10;

// At most kMaxVarint bytes; returns the end.
inline uint8_t* put_varint(uint8_t* at, uint64_t v) {
    while (v >= 0x80) {
        *at++ = static_cast<uint8_t>(v) | 0x80;
        v >>= 7;
    }
    *at++ = static_cast<uint8_t>(v);
    return at;
}

constexpr uint64_t zigzag(int64_t v) {
    return (static_cast<uint64_t>(v) << 1) ^ static_cast<uint64_t>(v >> 63);
}
constexpr int64_t unzigzag(uint64_t v) {
    return static_cast<int64_t>((v >> 1) ^ (~(v & 1) + 1));
}

// Over untrusted bytes: turns bad at the first thing that does not fit, and gives zeros from then on.
class VarReader {
  public:
    explicit VarReader(ByteView in) : at_(in.data()), end_(in.data() + in.size()) {}
    uint64_t u() {
        uint64_t v = 0;
        for (unsigned shift = 0; shift < 64 && at_ != end_; shift += 7) {
            uint8_t b = *at_++;
            if (shift == 63 && b > 1) break;
            v |= static_cast<uint64_t>(b & 0x7f) << shift;
            if (b < 0x80) return v;
        }
        fail();
        return 0;
    }
    int64_t i() { return unzigzag(u()); }
    uint64_t below(uint64_t limit) {
        uint64_t v = u();
        if (v >= limit) fail();
        return ok_ ? v : 0;
    }
    ByteView raw(size_t n) {
        if (n > left()) {
            fail();
            return {};
        }
        ByteView r(at_, n);
        at_ += n;
        return r;
    }
    std::string str(size_t most) {
        ByteView b = raw(below(most + 1));
        return {reinterpret_cast<const char*>(b.data()), b.size()};
    }
    size_t left() const { return static_cast<size_t>(end_ - at_); }
    bool ok() const { return ok_; }
    bool done() const { return ok_ && at_ == end_; }
    void fail() {
        ok_ = false;
        at_ = end_;
    }

  private:
    const uint8_t* at_;
    const uint8_t* end_;
    bool ok_ = true;
};

}  // namespace tent::sched
