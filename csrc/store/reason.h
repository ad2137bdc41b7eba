// One list of what can become of a page, used by the store, its callers and the metrics. Mirrored by
// tent_core/store/reason.py. Numbers are stable: append, never renumber.
#pragma once

#include <cstdint>
#include <string_view>

namespace tent::store {

enum class PageStatus : uint8_t {
    HIT = 0,      // get, lookup, exists: the page is there (get: its bytes are in place and verified)
    STORED = 1,   // put: this call's bytes are the page
    PRESENT = 2,  // put: somebody published the page first; theirs stays
    PENDING = 3,  // not decided yet

    // Misses. The destination's contents are undefined.
    ABSENT = 16,             // no such page
    DIRECTORY_DOWN = 17,     // the directory did not answer in time
    OWNER_UNREACHABLE = 18,  // no way to the owner, or it has no live node record
    STALE_INCARNATION = 19,  // the record names an owner that has died or restarted
    STALE_EPOCH = 20,        // the owner has reused that memory
    CHECK_FAILED = 21,       // the bytes are not what was promised
    LENGTH_MISMATCH = 22,    // the page has another length than the caller expects
    CLEARED = 23,            // published before its namespace was cleared
    BAD_RECORD = 24,         // the directory's record is garbage
    NO_SPACE = 25,           // put: nothing can be evicted (pins, leases, loans) or the store is too small
    UNSTABLE = 26,           // put: the source changed while it was copied
    TOO_LARGE = 27,          // put: larger than an extent
    DEADLINE = 28,           // time ran out
    CANCELLED = 29,          // the caller gave up
    LINK_FAILED = 30,        // every route to the owner failed
    REFUSED = 31,            // the owner, or a full queue, said no
    QUOTA = 32,              // the writer, or its tenant, holds its share already
    CLOSED = 33,             // the store was closed
    VERSION = 34,            // written by a newer TENT
    INTERNAL = 35,           // a fault of TENT itself
};

constexpr bool is_miss(PageStatus s) {
    return static_cast<uint8_t>(s) >= 16;
}

std::string_view status_name(PageStatus s);

}  // namespace tent::store
