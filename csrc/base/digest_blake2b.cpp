// BLAKE2b with a 16-byte digest, unkeyed (RFC 7693).
#include <algorithm>
#include <bit>
#include <utility>

#include "base/digest.h"

namespace tent {
namespace {

constexpr size_t kBlock = 128;
constexpr size_t kRounds = 12;

constexpr std::array<uint64_t, 8> kInit = {0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b,
                                           0xa54ff53a5f1d36f1, 0x510e527fade682d1, 0x9b05688c2b3e6c1f,
                                           0x1f83d9abfb41bd6b, 0x5be0cd19137e2179};

constexpr std::array<std::array<uint8_t, 16>, 10> kOrder = {{
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
    {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
    {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
    {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
    {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
    {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
}};

uint64_t load(const uint8_t* p) {
    uint64_t v;
    std::memcpy(&v, p, sizeof v);
    if constexpr (std::endian::native == std::endian::big) v = __builtin_bswap64(v);
    return v;
}

[[gnu::always_inline]] inline void mix(uint64_t& a, uint64_t& b, uint64_t& c, uint64_t& d, uint64_t x,
                                       uint64_t y) {
    a += b + x;
    d = std::rotr(d ^ a, 32);
    c += d;
    b = std::rotr(b ^ c, 24);
    a += b + y;
    d = std::rotr(d ^ a, 16);
    c += d;
    b = std::rotr(b ^ c, 63);
}

class Hasher {
  public:
    void update(ByteView data) {
        while (!data.empty()) {
            // The last block is compressed by finish() alone, so a full one waits until more comes.
            if (used_ == kBlock) {
                total_ += kBlock;
                compress(false);
                used_ = 0;
            }
            size_t n = std::min(data.size(), kBlock - used_);
            std::memcpy(block_.data() + used_, data.data(), n);
            used_ += n;
            data = data.subspan(n);
        }
    }

    Id128 finish() {
        total_ += used_;
        std::memset(block_.data() + used_, 0, kBlock - used_);
        compress(true);
        Id128 out;
        for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<uint8_t>(state_[i / 8] >> (8 * (i % 8)));
        return out;
    }

  private:
    void compress(bool last) {
        std::array<uint64_t, 16> m, v;
        for (size_t i = 0; i < 16; ++i) m[i] = load(block_.data() + 8 * i);
        for (size_t i = 0; i < 8; ++i) {
            v[i] = state_[i];
            v[i + 8] = kInit[i];
        }
        v[12] ^= total_;  // pages' keys are short: the counter's upper word stays zero
        if (last) v[14] = ~v[14];
        // Unrolled with constant indices, so that v stays in registers.
        auto round = [&]<size_t R>(std::integral_constant<size_t, R>) __attribute__((always_inline)) {
            constexpr const auto& s = kOrder[R % kOrder.size()];
            mix(v[0], v[4], v[8], v[12], m[s[0]], m[s[1]]);
            mix(v[1], v[5], v[9], v[13], m[s[2]], m[s[3]]);
            mix(v[2], v[6], v[10], v[14], m[s[4]], m[s[5]]);
            mix(v[3], v[7], v[11], v[15], m[s[6]], m[s[7]]);
            mix(v[0], v[5], v[10], v[15], m[s[8]], m[s[9]]);
            mix(v[1], v[6], v[11], v[12], m[s[10]], m[s[11]]);
            mix(v[2], v[7], v[8], v[13], m[s[12]], m[s[13]]);
            mix(v[3], v[4], v[9], v[14], m[s[14]], m[s[15]]);
        };
        [&]<size_t... R>(std::index_sequence<R...>) {
            (round(std::integral_constant<size_t, R>{}), ...);
        }
        (std::make_index_sequence<kRounds>{});
        for (size_t i = 0; i < 8; ++i) state_[i] ^= v[i] ^ v[i + 8];
    }

    // Parameter block: digest length 16, no key, fanout and depth 1.
    std::array<uint64_t, 8> state_ = {
        kInit[0] ^ 0x01010010, kInit[1], kInit[2], kInit[3], kInit[4], kInit[5], kInit[6], kInit[7]};
    std::array<uint8_t, kBlock> block_{};
    size_t used_ = 0;
    uint64_t total_ = 0;
};

}  // namespace

Id128 blake2b_128(ByteView data) {
    return blake2b_128(data, {});
}

Id128 blake2b_128(ByteView first, ByteView second) {
    Hasher hasher;
    hasher.update(first);
    hasher.update(second);
    return hasher.finish();
}

}  // namespace tent
