// Hashes. SHA-256/HMAC authenticate, BLAKE2b names, XXH3-64 guards bytes against accident (not against an
// attacker who may choose them: pages are taken from authenticated members of the cluster only).
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "base/bytes.h"

namespace tent {

using Sha256 = std::array<uint8_t, 32>;
Sha256 sha256(ByteView data);
Sha256 hmac_sha256(ByteView key, ByteView data);  // RFC 2104
bool constant_time_equal(ByteView a, ByteView b);

// BLAKE2b with a 16-byte digest, unkeyed (RFC 7693).
Id128 blake2b_128(ByteView data);
Id128 blake2b_128(ByteView first, ByteView second);  // of the concatenation

// XXH3-64 with seed, as published (xxHash 0.8 specification). Chosen at run time: AVX2 where the CPU has it,
// NEON on aarch64, else scalar.
uint64_t xxh3_64(const void* data, size_t size, uint64_t seed);

// The same, of bytes that come in parts: update() in order, any sizes. Copies a kilobyte per call at most.
class Xxh3Stream {
  public:
    explicit Xxh3Stream(uint64_t seed = 0) { reset(seed); }
    void reset(uint64_t seed);
    void update(const void* data, size_t size);
    uint64_t finish() const;  // of what came so far; more may follow

  private:
    std::array<uint64_t, 8> lanes_;
    std::array<uint8_t, 192> secret_;
    std::array<uint8_t, 64 + 1024> buffer_;  // the last stripe consumed, then what is not yet
    size_t used_ = 0;
    uint64_t total_ = 0, seed_ = 0;
};

// The page check: leaves of 64 KiB are hashed by XXH3-64 with a seed taken from the page's digest and the
// leaf's index, XXH3-64(digest | u64 index); the page's check is XXH3-64 over the leaf hashes and the page's
// length (all little-endian u64) with the seed XXH3-64(digest), so that slices can be checked as they arrive,
// in any order.
constexpr size_t kLeafBytes = 64 << 10;
uint64_t page_check(const Id128& digest, const void* data, size_t size);
uint64_t leaf_check(const Id128& digest, uint64_t leaf_index, const void* data, size_t size);
uint64_t leaf_seed(const Id128& digest, uint64_t leaf_index);  // of a leaf that is hashed as a stream
uint64_t combine_leaves(const Id128& digest, const uint64_t* leaves, size_t count, uint64_t page_size);

// The same over a page that lies in several parts (a concatenation). Streaming: update() in order, any sizes.
class PageCheck {
  public:
    explicit PageCheck(const Id128& digest);
    void update(const void* data, size_t size);
    uint64_t finish();  // once, at the end

  private:
    Id128 digest_;
    uint64_t size_ = 0;
    size_t in_leaf_ = 0;  // bytes of a leaf that straddles parts
    Xxh3Stream leaf_;
    std::vector<uint64_t> leaves_;
};

}  // namespace tent
