// XXH3-64 with seed, from its published specification (xxHash 0.8).
#include <bit>

#include "base/digest.h"
#include "base/digest_kernels.h"

namespace tent {
namespace {

using xxh3::kBlock;
using xxh3::Kernel;
using xxh3::kSecret;
using xxh3::kStripe;

constexpr uint64_t kPrime32_1 = 0x9E3779B1, kPrime32_2 = 0x85EBCA77, kPrime32_3 = 0xC2B2AE3D;
constexpr uint64_t kPrime64_1 = 0x9E3779B185EBCA87, kPrime64_2 = 0xC2B2AE3D27D4EB4F,
                   kPrime64_3 = 0x165667B19E3779F9, kPrime64_4 = 0x85EBCA77C2B2AE63,
                   kPrime64_5 = 0x27D4EB2F165667C5;
constexpr uint64_t kMix1 = 0x165667919E3779F9, kMix2 = 0x9FB21C651E98DF25;

constexpr size_t kShort = 240;  // up to here without lanes

constexpr std::array<uint8_t, kSecret> kDefaultSecret = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
    0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
    0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
    0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
    0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
    0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
    0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
    0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e};

constexpr std::array<uint64_t, 8> kLanes = {kPrime32_3, kPrime64_1, kPrime64_2, kPrime64_3,
                                            kPrime64_4, kPrime32_2, kPrime64_5, kPrime32_1};

template <class T>
T load(const uint8_t* p) {
    T v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

uint64_t secret64(size_t at) {
    return load<uint64_t>(kDefaultSecret.data() + at);
}

uint64_t fold(uint64_t a, uint64_t b) {
    __extension__ using Wide = unsigned __int128;
    Wide product = static_cast<Wide>(a) * b;
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

uint64_t avalanche(uint64_t x) {
    x = (x ^ (x >> 37)) * kMix1;
    return x ^ (x >> 32);
}

uint64_t avalanche_xxh64(uint64_t x) {
    x = (x ^ (x >> 33)) * kPrime64_2;
    x = (x ^ (x >> 29)) * kPrime64_3;
    return x ^ (x >> 32);
}

uint64_t hash_0_to_16(const uint8_t* p, size_t n, uint64_t seed) {
    if (n > 8) {
        uint64_t low = ((secret64(24) ^ secret64(32)) + seed) ^ load<uint64_t>(p);
        uint64_t high = ((secret64(40) ^ secret64(48)) - seed) ^ load<uint64_t>(p + n - 8);
        return avalanche(n + __builtin_bswap64(low) + high + fold(low, high));
    }
    if (n >= 4) {
        seed ^= uint64_t{__builtin_bswap32(static_cast<uint32_t>(seed))} << 32;
        uint64_t both = load<uint32_t>(p + n - 4) | uint64_t{load<uint32_t>(p)} << 32;
        uint64_t v = ((secret64(8) ^ secret64(16)) - seed) ^ both;
        v ^= std::rotl(v, 49) ^ std::rotl(v, 24);
        v *= kMix2;
        v ^= (v >> 35) + n;
        v *= kMix2;
        return v ^ (v >> 28);
    }
    if (n > 0) {
        uint32_t all = uint32_t{p[n - 1]} | static_cast<uint32_t>(n) << 8 | uint32_t{p[0]} << 16 |
                       uint32_t{p[n >> 1]} << 24;
        uint32_t key = load<uint32_t>(kDefaultSecret.data()) ^ load<uint32_t>(kDefaultSecret.data() + 4);
        return avalanche_xxh64((key + seed) ^ all);
    }
    return avalanche_xxh64(seed ^ secret64(56) ^ secret64(64));
}

uint64_t mix16(const uint8_t* p, size_t secret, uint64_t seed) {
    return fold(load<uint64_t>(p) ^ (secret64(secret) + seed),
                load<uint64_t>(p + 8) ^ (secret64(secret + 8) - seed));
}

uint64_t hash_17_to_240(const uint8_t* p, size_t n, uint64_t seed) {
    uint64_t acc = n * kPrime64_1;
    if (n <= 128) {
        for (size_t i = (n - 1) / 32 + 1; i-- > 0;) {
            acc += mix16(p + 16 * i, 32 * i, seed);
            acc += mix16(p + n - 16 * i - 16, 32 * i + 16, seed);
        }
        return avalanche(acc);
    }
    for (size_t i = 0; i < 8; ++i) acc += mix16(p + 16 * i, 16 * i, seed);
    acc = avalanche(acc);
    for (size_t i = 8; i < n / 16; ++i) acc += mix16(p + 16 * i, 16 * (i - 8) + 3, seed);
    return avalanche(acc + mix16(p + n - 16, 119, seed));
}

uint64_t hash_short(const uint8_t* p, size_t n, uint64_t seed) {
    return n <= 16 ? hash_0_to_16(p, n, seed) : hash_17_to_240(p, n, seed);
}

void derive_secret(uint64_t seed, std::array<uint8_t, kSecret>& out) {
    for (size_t i = 0; i < kSecret; i += 16) {
        uint64_t a = secret64(i) + seed, b = secret64(i + 8) - seed;
        std::memcpy(out.data() + i, &a, 8);
        std::memcpy(out.data() + i + 8, &b, 8);
    }
}

// The last, perhaps partial block of `n` >= 1 bytes at `p`; 64 bytes that end with it can be read.
uint64_t finish_lanes(const Kernel& kernel, uint64_t* lanes, const uint8_t* p, size_t n, uint64_t total,
                      const uint8_t* secret) {
    kernel.stripes(lanes, p, (n - 1) / kStripe, secret);
    kernel.stripes(lanes, p + n - kStripe, 1, secret + kSecret - 71);
    uint64_t result = total * kPrime64_1;
    for (size_t i = 0; i < 4; ++i)
        result += fold(lanes[2 * i] ^ load<uint64_t>(secret + 11 + 16 * i),
                       lanes[2 * i + 1] ^ load<uint64_t>(secret + 19 + 16 * i));
    return avalanche(result);
}

const Kernel& best_kernel() {
    static const Kernel& best = xxh3::kernels().front();
    return best;
}

}  // namespace

uint64_t xxh3::hash(const Kernel& kernel, const void* data, size_t size, uint64_t seed) {
    auto* p = static_cast<const uint8_t*>(data);
    if (size <= kShort) return hash_short(p, size, seed);
    std::array<uint8_t, kSecret> secret;
    derive_secret(seed, secret);
    std::array<uint64_t, 8> lanes = kLanes;
    size_t blocks = (size - 1) / kBlock;
    kernel.blocks(lanes.data(), p, blocks, secret.data());
    return finish_lanes(kernel, lanes.data(), p + blocks * kBlock, size - blocks * kBlock, size,
                        secret.data());
}

uint64_t xxh3_64(const void* data, size_t size, uint64_t seed) {
    return xxh3::hash(best_kernel(), data, size, seed);
}

void Xxh3Stream::reset(uint64_t seed) {
    seed_ = seed;
    total_ = 0;
    used_ = 0;
    lanes_ = kLanes;
    derive_secret(seed, secret_);
}

// The buffer keeps the last block unconsumed, even a full one: which it is, only finish() knows. In front of
// it lie the last 64 bytes consumed, since the final stripe may reach back into them.
void Xxh3Stream::update(const void* data, size_t size) {
    auto* p = static_cast<const uint8_t*>(data);
    uint8_t* block = buffer_.data() + kStripe;
    total_ += size;
    auto keep = [&](size_t n) {
        if (n > 0) std::memcpy(block + used_, p, n);
        used_ += n;
        p += n;
        size -= n;
    };
    if (size <= kBlock - used_) return keep(size);
    const Kernel& kernel = best_kernel();
    if (used_ > 0) {
        keep(kBlock - used_);
        kernel.blocks(lanes_.data(), block, 1, secret_.data());
        std::memcpy(buffer_.data(), block + kBlock - kStripe, kStripe);
        used_ = 0;
    }
    if (size_t blocks = (size - 1) / kBlock; blocks > 0) {
        kernel.blocks(lanes_.data(), p, blocks, secret_.data());
        p += blocks * kBlock;
        size -= blocks * kBlock;
        std::memcpy(buffer_.data(), p - kStripe, kStripe);
    }
    keep(size);
}

uint64_t Xxh3Stream::finish() const {
    const uint8_t* block = buffer_.data() + kStripe;
    if (total_ <= kShort) return hash_short(block, static_cast<size_t>(total_), seed_);
    std::array<uint64_t, 8> lanes = lanes_;
    return finish_lanes(best_kernel(), lanes.data(), block, used_, total_, secret_.data());
}

}  // namespace tent
