#include "base/digest_kernels.h"

#include <array>
#include <bit>
#include <cstring>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace tent::xxh3 {
namespace {

static_assert(std::endian::native == std::endian::little, "lanes are loaded as they lie in memory");

constexpr uint32_t kPrime32_1 = 0x9E3779B1;
constexpr size_t kLanes = 8;

// ---- scalar

uint64_t load(const uint8_t* p) {
    uint64_t v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

using Lanes = std::array<uint64_t, kLanes>;

inline void accumulate_scalar(Lanes& lanes, const uint8_t* data, const uint8_t* secret) {
    for (size_t i = 0; i < kLanes; i += 2) {
        uint64_t a = load(data + 8 * i), b = load(data + 8 * i + 8);
        uint64_t ka = a ^ load(secret + 8 * i), kb = b ^ load(secret + 8 * i + 8);
        lanes[i] += b + (ka & 0xffffffff) * (ka >> 32);
        lanes[i + 1] += a + (kb & 0xffffffff) * (kb >> 32);
    }
}

// The lanes are worked on in a local copy: written through the pointer, they might be the data.
void stripes_scalar(uint64_t* out, const uint8_t* data, size_t count, const uint8_t* secret) {
    Lanes lanes;
    std::memcpy(lanes.data(), out, sizeof lanes);
    for (size_t n = 0; n < count; ++n) accumulate_scalar(lanes, data + n * kStripe, secret + 8 * n);
    std::memcpy(out, lanes.data(), sizeof lanes);
}

void blocks_scalar(uint64_t* out, const uint8_t* data, size_t count, const uint8_t* secret) {
    Lanes lanes;
    std::memcpy(lanes.data(), out, sizeof lanes);
    for (; count > 0; --count, data += kBlock) {
        for (size_t n = 0; n < kBlockStripes; ++n)
            accumulate_scalar(lanes, data + n * kStripe, secret + 8 * n);
        for (size_t i = 0; i < kLanes; ++i) {
            uint64_t v = lanes[i] ^ (lanes[i] >> 47) ^ load(secret + kSecret - kStripe + 8 * i);
            lanes[i] = v * kPrime32_1;
        }
    }
    std::memcpy(out, lanes.data(), sizeof lanes);
}

// ---- AVX2: four lanes a register

#if defined(__x86_64__)
#define TENT_AVX2 __attribute__((target("avx2")))
#define TENT_AVX2_INLINE __attribute__((target("avx2"), always_inline)) inline

TENT_AVX2_INLINE __m256i load256(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}

TENT_AVX2_INLINE __m256i accumulate(__m256i lane, const uint8_t* data, const uint8_t* secret) {
    __m256i value = load256(data);
    __m256i keyed = _mm256_xor_si256(value, load256(secret));
    __m256i product = _mm256_mul_epu32(keyed, _mm256_srli_epi64(keyed, 32));
    __m256i swapped = _mm256_shuffle_epi32(value, _MM_SHUFFLE(1, 0, 3, 2));
    return _mm256_add_epi64(lane, _mm256_add_epi64(product, swapped));
}

TENT_AVX2_INLINE __m256i scramble(__m256i lane, const uint8_t* secret) {
    const __m256i prime = _mm256_set1_epi32(static_cast<int>(kPrime32_1));
    __m256i v = _mm256_xor_si256(_mm256_xor_si256(lane, _mm256_srli_epi64(lane, 47)), load256(secret));
    __m256i low = _mm256_mul_epu32(v, prime);
    __m256i high = _mm256_mul_epu32(_mm256_srli_epi64(v, 32), prime);
    return _mm256_add_epi64(low, _mm256_slli_epi64(high, 32));
}

TENT_AVX2 void stripes_avx2(uint64_t* lanes, const uint8_t* data, size_t count, const uint8_t* secret) {
    __m256i a = load256(lanes), b = load256(lanes + 4);
    for (size_t n = 0; n < count; ++n, data += kStripe, secret += 8) {
        a = accumulate(a, data, secret);
        b = accumulate(b, data + 32, secret + 32);
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), a);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes + 4), b);
}

TENT_AVX2 void blocks_avx2(uint64_t* lanes, const uint8_t* data, size_t count, const uint8_t* secret) {
    __m256i a = load256(lanes), b = load256(lanes + 4);
    for (; count > 0; --count) {
        for (size_t n = 0; n < kBlockStripes; ++n, data += kStripe) {
            // Far enough ahead to hide memory, near enough to stay in the first-level cache.
            _mm_prefetch(reinterpret_cast<const char*>(data + 512), _MM_HINT_T0);
            a = accumulate(a, data, secret + 8 * n);
            b = accumulate(b, data + 32, secret + 8 * n + 32);
        }
        a = scramble(a, secret + kSecret - kStripe);
        b = scramble(b, secret + kSecret - kStripe + 32);
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), a);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes + 4), b);
}
#endif

// ---- NEON: two lanes a register

#if defined(__aarch64__)
void stripes_neon(uint64_t* lanes, const uint8_t* data, size_t count, const uint8_t* secret) {
    uint64x2_t acc[4];
    for (size_t i = 0; i < 4; ++i) acc[i] = vld1q_u64(lanes + 2 * i);
    for (size_t n = 0; n < count; ++n, data += kStripe, secret += 8) {
        for (size_t i = 0; i < 4; ++i) {
            uint64x2_t value = vreinterpretq_u64_u8(vld1q_u8(data + 16 * i));
            uint64x2_t keyed = veorq_u64(value, vreinterpretq_u64_u8(vld1q_u8(secret + 16 * i)));
            acc[i] = vaddq_u64(acc[i], vextq_u64(value, value, 1));
            acc[i] = vmlal_u32(acc[i], vmovn_u64(keyed), vshrn_n_u64(keyed, 32));
        }
    }
    for (size_t i = 0; i < 4; ++i) vst1q_u64(lanes + 2 * i, acc[i]);
}

void blocks_neon(uint64_t* lanes, const uint8_t* data, size_t count, const uint8_t* secret) {
    const uint32x2_t prime = vdup_n_u32(kPrime32_1);
    for (; count > 0; --count, data += kBlock) {
        stripes_neon(lanes, data, kBlockStripes, secret);
        for (size_t i = 0; i < 4; ++i) {
            uint64x2_t v = vld1q_u64(lanes + 2 * i);
            v = veorq_u64(v, vshrq_n_u64(v, 47));
            v = veorq_u64(v, vreinterpretq_u64_u8(vld1q_u8(secret + kSecret - kStripe + 16 * i)));
            uint64x2_t high = vshlq_n_u64(vmull_u32(vshrn_n_u64(v, 32), prime), 32);
            vst1q_u64(lanes + 2 * i, vmlal_u32(high, vmovn_u64(v), prime));
        }
    }
}
#endif

}  // namespace

std::span<const Kernel> kernels() {
    static const std::vector<Kernel> found = [] {
        std::vector<Kernel> k;
#if defined(__x86_64__)
        if (__builtin_cpu_supports("avx2")) k.push_back({"avx2", stripes_avx2, blocks_avx2});
#elif defined(__aarch64__)
        k.push_back({"neon", stripes_neon, blocks_neon});
#endif
        k.push_back({"scalar", stripes_scalar, blocks_scalar});
        return k;
    }();
    return found;
}

}  // namespace tent::xxh3
