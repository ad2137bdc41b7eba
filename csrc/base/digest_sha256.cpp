// SHA-256 (FIPS 180-4) and HMAC (RFC 2104). Plain code: a handshake hashes a few kilobytes.
#include <algorithm>
#include <bit>

#include "base/digest.h"

namespace tent {
namespace {

constexpr size_t kBlock = 64;

constexpr std::array<uint32_t, 64> kRound = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

class Hasher {
  public:
    void update(ByteView data) {
        total_ += data.size();
        while (!data.empty()) {
            size_t n = std::min(data.size(), kBlock - used_);
            std::memcpy(block_.data() + used_, data.data(), n);
            used_ += n;
            data = data.subspan(n);
            if (used_ == kBlock) compress();
        }
    }

    Sha256 finish() {
        uint64_t bits = total_ * 8;
        block_[used_++] = 0x80;
        if (used_ > kBlock - 8) {
            std::memset(block_.data() + used_, 0, kBlock - used_);
            compress();
        }
        std::memset(block_.data() + used_, 0, kBlock - 8 - used_);
        for (size_t i = 0; i < 8; ++i) block_[kBlock - 1 - i] = static_cast<uint8_t>(bits >> (8 * i));
        compress();
        Sha256 out;
        for (size_t i = 0; i < out.size(); ++i)
            out[i] = static_cast<uint8_t>(state_[i / 4] >> (24 - 8 * (i % 4)));
        return out;
    }

  private:
    void compress() {
        std::array<uint32_t, 64> w;
        for (size_t i = 0; i < 16; ++i) {
            const uint8_t* p = block_.data() + 4 * i;
            w[i] = uint32_t{p[0]} << 24 | uint32_t{p[1]} << 16 | uint32_t{p[2]} << 8 | uint32_t{p[3]};
        }
        for (size_t i = 16; i < 64; ++i) {
            uint32_t a = w[i - 15], b = w[i - 2];
            uint32_t s0 = std::rotr(a, 7) ^ std::rotr(a, 18) ^ (a >> 3);
            uint32_t s1 = std::rotr(b, 17) ^ std::rotr(b, 19) ^ (b >> 10);
            w[i] = w[i - 16] + s0 + w[i - 7] + s1;
        }
        auto [a, b, c, d, e, f, g, h] = state_;
        for (size_t i = 0; i < 64; ++i) {
            uint32_t s1 = std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25);
            uint32_t t1 = h + s1 + ((e & f) ^ (~e & g)) + kRound[i] + w[i];
            uint32_t s0 = std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22);
            uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
            h = g;
            g = f;
            f = e;
            e = d + t1;
            d = c;
            c = b;
            b = a;
            a = t1 + t2;
        }
        const std::array<uint32_t, 8> add = {a, b, c, d, e, f, g, h};
        for (size_t i = 0; i < 8; ++i) state_[i] += add[i];
        used_ = 0;
    }

    std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    std::array<uint8_t, kBlock> block_{};
    size_t used_ = 0;
    uint64_t total_ = 0;
};

}  // namespace

Sha256 sha256(ByteView data) {
    Hasher hasher;
    hasher.update(data);
    return hasher.finish();
}

Sha256 hmac_sha256(ByteView key, ByteView data) {
    std::array<uint8_t, kBlock> inner{}, outer{};
    if (key.size() > kBlock) {
        Sha256 hashed = sha256(key);
        std::memcpy(inner.data(), hashed.data(), hashed.size());
    } else if (!key.empty()) {
        std::memcpy(inner.data(), key.data(), key.size());
    }
    for (size_t i = 0; i < kBlock; ++i) {
        outer[i] = inner[i] ^ 0x5c;
        inner[i] ^= 0x36;
    }
    Hasher first;
    first.update(inner);
    first.update(data);
    Sha256 digest = first.finish();
    Hasher second;
    second.update(outer);
    second.update(digest);
    return second.finish();
}

bool constant_time_equal(ByteView a, ByteView b) {
    if (a.size() != b.size()) return false;
    volatile uint8_t difference = 0;  // volatile: the loop must not end early
    for (size_t i = 0; i < a.size(); ++i) difference = static_cast<uint8_t>(difference | (a[i] ^ b[i]));
    return difference == 0;
}

}  // namespace tent
