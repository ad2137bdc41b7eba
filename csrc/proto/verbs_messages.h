// What two nodes tell each other before one of them reads and writes the other's memory by RDMA: the ends of
// a queue pair, and the keys of memory. Pure; hostile until decoded. Sent only to who can do `verbs`
// (handshake.h).
//
//   initiator -> qp_open    lane (a number that it draws, rising within the session), its end, whom it wants
//   owner     -> qp_opened  its end, and where its incarnation can be read to prove the way
//   initiator -> ask_keys   pieces, for reading or for writing
//   owner     -> keys       where they lie, under which key
//   initiator -> qp_close   lanes: nothing more of them shall land; the owner answers `revoked`
#pragma once

#include <vector>

#include "base/bytes.h"
#include "model/types.h"

namespace tent::proto {

constexpr size_t kMaxLanes = 1024;  // of one session, and named in one frame
constexpr size_t kMaxKeys = 1024;   // in one frame

// One end of a queue pair.
struct QueuePairEnd {
    Id128 gid{};
    uint32_t number = 0;  // 24 bits
    uint32_t psn = 0;     // of its first packet; 24 bits
    uint8_t mtu = 0;      // 256 << (mtu - 1) bytes: 1 to 5
    uint8_t reads = 0;    // outstanding ones: that it may begin (initiator), that it can serve (owner)
    uint16_t lid = 0;     // InfiniBand only
};

struct OpenQueuePair {
    QueuePairEnd end;
    Id128 towards{};  // the owner's address that the link leads to, as a GID
};

struct OpenedQueuePair {
    QueuePairEnd end;
    uint32_t domain = 0;         // keys are good for all lanes with the same one
    uint64_t probe_address = 0;  // where its incarnation lies
    uint32_t probe_key = 0;
};

// Memory that a key opens: [offset, offset + length) of a segment, at `address` in its owner's process.
struct MemoryKey {
    SegmentId segment = 0;
    Rights rights{};
    uint64_t offset = 0, length = 0, address = 0;
    uint32_t key = 0;
};
constexpr size_t kKeyBytes = 4 + 1 + 3 * 8 + 4;

void encode(const OpenQueuePair& m, Bytes& out);
bool decode(ByteView body, OpenQueuePair& m);
void encode(const OpenedQueuePair& m, Bytes& out);
bool decode(ByteView body, OpenedQueuePair& m);
void encode(std::span<const MemoryKey> keys, Bytes& out);
// Refused: no rights or unknown ones, nothing, what wraps.
bool decode(ByteView body, std::vector<MemoryKey>& keys);

}  // namespace tent::proto
