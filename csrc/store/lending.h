// What a writer and an owner tell each other about extents lent for writing, commits, read leases and hits. Plain
// data; the bytes of these messages are csrc/proto's business. Every message is a `call` frame to the owner and its
// reply. Limits: at most kMaxItems items a message; a longer list is refused as a protocol error.
//
//   method  request                       reply
//   lend    LendRequest                   Lent
//   commit  CommitRequest                 one PageStatus (u8) per item, in order
//   give    GiveBack                      empty
//   lease   LeaseRequest                  one PageStatus per digest: HIT (leased) or ABSENT
//   hits    HitsReport                    empty: digests that were read one-sided
//   stale   HitsReport                    empty: digests whose directory record led nowhere (owner looks again)
#pragma once

#include <cstdint>
#include <vector>

#include "base/bytes.h"
#include "model/types.h"

namespace tent::store {

enum class Method : uint16_t { lend = 1, commit = 2, give = 3, lease = 4, hits = 5, stale = 6 };

constexpr size_t kMaxItems = 4096;

// Room for pages of up to `largest` bytes is wanted, about `bytes` in all.
struct LendRequest {
    uint64_t bytes = 0;
    uint64_t largest = 0;
};

// An extent, lent to the session that asked. The writer lays slots from `offset` on: 64 bytes left for the header,
// then the page's bytes, the next slot at the next multiple of 64. `code` is a PageStatus: STORED, NO_SPACE, QUOTA.
struct Lent {
    uint8_t code = 0;
    uint64_t loan = 0;  // names the loan in commit and give; never reused within an incarnation
    SegmentId segment = 0;
    uint32_t extent = 0;
    uint32_t epoch = 0;
    uint64_t offset = 0;  // in the segment: where the first slot's header goes
    uint64_t length = 0;  // bytes from there on
};

// A page whose bytes are in place at `offset` (of the bytes, not of the header), before the reply to the write.
struct CommitItem {
    Id128 digest{};
    uint64_t offset = 0;
    uint64_t length = 0;
    uint64_t check = 0;
};

struct CommitRequest {
    uint64_t loan = 0;
    uint32_t epoch = 0;
    Id128 space{};            // namespace digest
    uint64_t generation = 0;  // of the namespace, as the writer knows it
    std::vector<CommitItem> items;
};

struct GiveBack {
    uint64_t loan = 0;
};

// The owner keeps these pages where they are for `milliseconds` (at most kMaxLeaseMs).
struct LeaseRequest {
    uint32_t milliseconds = 0;
    std::vector<Id128> digests;
};
constexpr uint32_t kMaxLeaseMs = 60'000;

struct HitsReport {
    std::vector<Id128> digests;
};

}  // namespace tent::store
