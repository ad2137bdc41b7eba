// BLAKE2b with a 16-byte digest, unkeyed (RFC 7693).
#include <algorithm>
#include <bit>

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
    uint64_t v = 0;
    for (size_t i = 0; i < 8; ++i) v |= uint64_t{p[i]} << (8 * i);
    return v;
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
        auto mix = [&v](size_t a, size_t b, size_t c, size_t d, uint64_t x, uint64_t y) {
            v[a] += v[b] + x;
            v[d] = std::rotr(v[d] ^ v[a], 32);
            v[c] += v[d];
            v[b] = std::rotr(v[b] ^ v[c], 24);
            v[a] += v[b] + y;
            v[d] = std::rotr(v[d] ^ v[a], 16);
            v[c] += v[d];
            v[b] = std::rotr(v[b] ^ v[c], 63);
        };
        for (size_t round = 0; round < kRounds; ++round) {
            const auto& s = kOrder[round % kOrder.size()];
            for (size_t i = 0; i < 4; ++i) mix(i, i + 4, i + 8, i + 12, m[s[2 * i]], m[s[2 * i + 1]]);
            for (size_t i = 0; i < 4; ++i)
                mix(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4, m[s[8 + 2 * i]], m[s[9 + 2 * i]]);
        }
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
