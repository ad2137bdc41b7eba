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

// The page check: leaves of 64 KiB are hashed by XXH3-64 with a seed taken from the page's digest, the page's
// check is XXH3-64 over the leaf hashes (as little-endian u64) and the page's length, so that slices can be
// checked as they arrive, in any order.
constexpr size_t kLeafBytes = 64 << 10;
uint64_t page_check(const Id128& digest, const void* data, size_t size);
uint64_t leaf_check(const Id128& digest, uint64_t leaf_index, const void* data, size_t size);
uint64_t combine_leaves(const Id128& digest, const uint64_t* leaves, size_t count, uint64_t page_size);

// The same over a page that lies in several parts (a concatenation). Streaming: update() in order, any sizes.
class PageCheck {
  public:
    explicit PageCheck(const Id128& digest);
    void update(const void* data, size_t size);
    uint64_t finish();

  private:
    Id128 digest_;
    uint64_t size_ = 0;
    Bytes partial_;  // a leaf that straddles parts
    std::vector<uint64_t> leaves_;
};

}  // namespace tent
