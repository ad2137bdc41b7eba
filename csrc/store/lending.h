// The owner's answers to calls of peers: lending extents to writers, commits, leases, hits. The messages are
// proto/store_messages.h; a writer is known by its session. Layout of a loan: from its offset on, 64
// bytes left for each header, the page's bytes, the next slot at the next multiple of 64.
#pragma once

#include "base/clock.h"
#include "base/status.h"
#include "proto/store_messages.h"

namespace tent::store {

class Store;

constexpr uint32_t kMaxLeaseMs = 60'000;

// `body` is hostile. The reply's bytes, or why there is none: protocol, version_mismatch, unsupported.
Result<Bytes> serve_call(Store& store, const WriterId& writer, uint16_t method, ByteView body, Nanos now);

}  // namespace tent::store
