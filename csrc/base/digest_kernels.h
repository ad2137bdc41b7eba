// The inner loops of XXH3's long path, one set per instruction set: what digest_xxh3.cpp chooses from and the
// tests run one by one. Nothing else includes this.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace tent::xxh3 {

constexpr size_t kStripe = 64;
constexpr size_t kBlockStripes = 16;
constexpr size_t kBlock = kStripe * kBlockStripes;
constexpr size_t kSecret = 192;

struct Kernel {
    const char* name;
    // Accumulates `count` stripes, the secret advancing by 8 bytes a stripe.
    void (*stripes)(uint64_t* lanes, const uint8_t* data, size_t count, const uint8_t* secret);
    // Accumulates and scrambles `count` whole blocks.
    void (*blocks)(uint64_t* lanes, const uint8_t* data, size_t count, const uint8_t* secret);
};

// Those that this machine can run, the best first; the last one is "scalar".
std::span<const Kernel> kernels();

uint64_t hash(const Kernel& kernel, const void* data, size_t size, uint64_t seed);

}  // namespace tent::xxh3
