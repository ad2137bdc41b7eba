// Time. Everything in TENT counts integer nanoseconds of one clock that keeps running while the host sleeps
// (CLOCK_BOOTTIME), because leases are promises about real time. Pure layers never read it: they are handed
// `now`.
#pragma once

#include <time.h>

#include <cstdint>

namespace tent {

using Nanos = int64_t;

constexpr Nanos kMicrosecond = 1'000;
constexpr Nanos kMillisecond = 1'000'000;
constexpr Nanos kSecond = 1'000'000'000;
constexpr Nanos kNever = INT64_MAX;

// Lease time. A syscall on some kernels: once per batch, not per slice.
inline Nanos boottime_now() {
    timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return t.tv_sec * kSecond + t.tv_nsec;
}

// Cheap (vDSO) monotonic time for rates, deadlines and progress.
inline Nanos monotonic_now() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * kSecond + t.tv_nsec;
}

}  // namespace tent
