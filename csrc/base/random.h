// Random bits from the operating system: incarnations, nonces, session ids, secrets. Never used by the pure
// layers, which are handed what they need.
#pragma once

#include <cstddef>

#include "base/bytes.h"

namespace tent {

// Fills `out` from getrandom(2) (or /dev/urandom on kernels without it). False only when the system gives no
// randomness at all: the caller must then refuse to start, never go on with predictable bits. Thread-safe.
[[nodiscard]] bool random_bytes(void* out, size_t size);

// 128 random bits, never all zero (zeros mean "any" or "none" in the protocols). False as random_bytes().
[[nodiscard]] bool random_id(Id128& out);

}  // namespace tent
