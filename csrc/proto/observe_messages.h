// What an observer asks of a node over its authenticated session: how its links are, and what its flight
// recorder holds. Bodies of `call` and `reply` frames (wire.h); the call's aux is the method.
//
//   method       request            reply
//   stats        StatsRequest       NodeStats: so many links from `first` on
//   recording    RecordingRequest   RecordingPart: so many bytes of a segment from `offset` on
//   probe        ProbeRequest       ProbeTicket: the node tries its rails towards another node, by and by
//   probe_result ProbeTicket        ProbeReport
//   probe_memory nothing            ProbeTicket: the segment that probes read from, made when first asked for
//
// A node that knows none of these answers `unsupported`, as to any method it does not know. Every message
// starts with u16 kObserveVersion; another version is refused by name. All else that does not fit exactly is
// `protocol`. Golden bytes: tests/native/proto/golden/. Pure; thread-safe.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/status.h"
#include "model/types.h"

namespace tent::proto {

constexpr uint16_t kObserveVersion = 1;
constexpr size_t kMaxObservedLinks = 256;         // of one reply
constexpr size_t kMaxObservedCounters = 128;      // of one reply
constexpr size_t kMaxRecordingPart = 192 << 10;   // bytes of one reply
constexpr uint64_t kMaxSegmentBytes = 128 << 20;  // of a recording
constexpr size_t kMaxProbeText = 192 << 10;

// Numbers from 64 on are the engine's; those below are the store's (store_messages.h).
enum class ObserveMethod : uint16_t {
    stats = 64,
    recording = 65,
    probe = 66,
    probe_result = 67,
    probe_memory = 68
};

struct StatsRequest {
    uint32_t first = 0;  // link
};

// Counted from the link's last sign of life; less than zero: not (yet).
struct ObservedFault {
    int64_t at = -1, detect = -1, reroute = -1, fence = -1, readmit = -1;
};

// What an observer is told of a link: the sprayer's states in its order, then what its owner knows beyond
// them.
constexpr const char* kLinkStates[] = {"down", "up", "suspect", "probation", "asleep", "corrupting"};
constexpr uint8_t kAsleep = 4, kCorrupting = 5;

struct ObservedLink {
    std::string peer, transport, name;
    uint8_t state = 0;  // index into kLinkStates
    uint64_t rate = 0;  // bytes a second: what the sprayer counts on
    uint64_t burst = 0, in_flight = 0;
    int64_t latency = 0;
    uint64_t posted = 0, used = 0, superseded = 0, revoked = 0, failed = 0, outstanding = 0;
    uint64_t bytes_posted = 0, bytes_used = 0, bytes_reissued = 0;
    uint32_t faults = 0;
    ObservedFault last_fault;
};

struct NodeStats {
    std::string name;
    Id128 incarnation{};
    int64_t now = 0;     // the node's monotonic clock
    int64_t uptime = 0;  // nanoseconds
    std::vector<std::pair<std::string, uint64_t>> counters;
    uint32_t links_in_all = 0, first = 0;
    std::vector<ObservedLink> links;
};

struct RecordingRequest {
    uint64_t handle = 0;   // 0: take a new snapshot
    uint32_t segment = 0;  // index in the snapshot
    uint64_t offset = 0;
};

struct RecordingPart {
    uint64_t handle = 0;
    int64_t monotonic = 0, wall = 0;  // when the snapshot was taken
    uint32_t segments = 0;            // in the snapshot
    uint32_t segment = 0;
    uint64_t sequence = 0, segment_bytes = 0, offset = 0;
    Bytes bytes;
};

struct ProbeRequest {
    Bytes descriptor;           // of the node to be tried
    uint32_t milliseconds = 0;  // to spend on one link
};

struct ProbeTicket {
    uint64_t id = 0;
};

struct ProbeMemory {};

struct ProbeReport {
    bool finished = false;
    std::string text;  // JSON, once it is finished; hostile
};

void encode(const StatsRequest& m, Bytes& out);
void encode(const NodeStats& m, Bytes& out);
void encode(const RecordingRequest& m, Bytes& out);
void encode(const RecordingPart& m, Bytes& out);
void encode(const ProbeRequest& m, Bytes& out);
void encode(const ProbeTicket& m, Bytes& out);
void encode(const ProbeReport& m, Bytes& out);
void encode(const ProbeMemory& m, Bytes& out);

// ok, version_mismatch or protocol.
Code decode(ByteView body, StatsRequest& m);
Code decode(ByteView body, NodeStats& m);
Code decode(ByteView body, RecordingRequest& m);
Code decode(ByteView body, RecordingPart& m);
Code decode(ByteView body, ProbeRequest& m);
Code decode(ByteView body, ProbeTicket& m);
Code decode(ByteView body, ProbeReport& m);
Code decode(ByteView body, ProbeMemory& m);

}  // namespace tent::proto
