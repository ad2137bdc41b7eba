// Plain data that every layer above shares: ids, ranges, operations, priorities.
#pragma once

#include <cstdint>
#include <limits>

#include "base/bytes.h"

namespace tent {

using SegmentId = uint32_t;   // unique within an incarnation, never reused in it
using RailId = uint32_t;      // index in the local table of rails, local and remote ones alike
using LinkId = uint32_t;      // index in the engine's table of links
using FlowId = uint64_t;      // one transfer's bytes towards one peer
using TransferId = uint64_t;  // unique within an engine
using AttemptId = uint64_t;   // rises within a session; never reused

constexpr uint32_t kNoId = std::numeric_limits<uint32_t>::max();

enum class Op : uint8_t { read = 1, write = 2 };
enum class Priority : uint8_t { interactive = 0, normal = 1, bulk = 2 };
constexpr int kPriorities = 3;

enum class Rights : uint8_t { none = 0, read = 1, write = 2, read_write = 3 };
constexpr bool allows(Rights have, Op op) {
    return (static_cast<uint8_t>(have) &
            static_cast<uint8_t>(op == Op::read ? Rights::read : Rights::write)) != 0;
}

// A byte range of a segment.
struct Range {
    SegmentId segment = 0;
    uint64_t offset = 0;
    uint64_t length = 0;
};

// A node that writes into memory which another lends it: what was lent goes with the session, limits count by
// incarnation.
struct WriterId {
    Id128 incarnation{};
    Id128 session{};
    bool operator==(const WriterId&) const = default;
};

// True if [offset, offset+length) lies in [0, limit): no overflow.
constexpr bool within(uint64_t offset, uint64_t length, uint64_t limit) {
    return offset <= limit && length <= limit - offset;
}

}  // namespace tent
