// Copying pages between scattered parts and a slot, with the page check computed leaf by leaf while the bytes
// are in cache. Batches in, batches out; the work is cut into units that an executor may spread over threads.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "base/bytes.h"

namespace tent::store {

// Runs work(0) .. work(count - 1), in any order, on any threads, and returns when all are done.
using Executor = std::function<void(size_t count, const std::function<void(size_t)>& work)>;

enum class Direction : uint8_t {
    in,      // parts -> slot
    out,     // slot -> parts
    verify,  // parts only: nothing is copied
};

// One page: the concatenation of `parts` byte ranges of this process. `slot` is unused when verifying.
struct PageJob {
    Id128 digest{};
    uint8_t* slot = nullptr;
    const uint64_t* address = nullptr;  // `parts` addresses
    const uint64_t* length = nullptr;   // `parts` lengths (zero is allowed), summing to `bytes`
    size_t parts = 0;
    uint64_t bytes = 0;
    uint64_t check = 0;  // out: of the bytes at the destination (verify: of the parts)
};

// `hash` false: bytes only, `check` stays 0. `executor` may be empty: the calling thread does it all.
void copy_pages(std::span<PageJob> jobs, Direction direction, bool hash, const Executor& executor);

}  // namespace tent::store
