// The frames of TENT's wire protocol, version 1. A connection starts with the handshake (handshake.h); after
// it, frames: a fixed header, a body that is parsed, and bulk bytes ("payload") that are not. All integers
// little-endian.
//
//   offset  0  u32  body bytes (<= kMaxBody)
//           4  u8   type
//           5  u8   flags (per type)
//           6  u16  code (a tent::Code in answers, else 0)
//           8  u64  attempt (or another id: see each type)
//          16  u64  payload bytes that follow the body (only write and data)
//          24  u64  aux (see each type)
//
// Everything read here is hostile until decode() accepted it: a false answer means the connection is to be
// closed. Golden bytes of every frame: tests/native/proto/golden/.
#pragma once

#include <array>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/status.h"
#include "model/types.h"

namespace tent::proto {

constexpr uint16_t kVersion = 1;
constexpr size_t kHeaderBytes = 32;
constexpr size_t kMaxBody = 256 << 10;
constexpr uint64_t kMaxPayload = 64ull << 20;  // of one frame
constexpr size_t kMaxPieces = 1024;            // of one attempt
constexpr size_t kMaxMessage = 512;            // an error's text
constexpr size_t kMaxNotify = 64 << 10;
constexpr size_t kMaxName = 255;           // of a segment or a node
constexpr uint64_t kMaxExtents = 1 << 20;  // of one segment: its owner keeps to it, its peers refuse more

enum class FrameType : uint8_t {
    write = 1,  // initiator: attempt, aux = lease token, body = pieces, payload = their bytes in order
    write_ack =
        2,     // owner: attempt, code; code != ok: aux = index of the piece at fault or ~0, body = message
    read = 3,  // initiator: attempt, flags = priority, body = pieces
    data = 4,  // owner: attempt, aux = offset in the attempt's bytes, payload
    read_fail = 5,  // owner: attempt, code, aux = piece at fault or ~0, body = message
    revoke = 6,  // initiator: aux = floor (every attempt below it is revoked), body = u64 attempts; attempt =
                 // request id
    revoked = 7,      // owner: attempt = request id of the revoke: fenced
    token = 8,        // owner: aux = lease token number, attempt = owner's loop lag in ns
    echo = 9,         // initiator: aux = token number echoed, attempt = initiator's loop lag in ns
    notify = 10,      // initiator: attempt = notification id (rises within a session), body = bytes
    notify_ack = 11,  // owner: attempt = notification id
    segments = 12,    // initiator: asks for the table. attempt = request id
    segment_table =
        13,  // owner: attempt = request id, body = SegmentInfo list (only what is exposed to this peer)
    segment_gone = 14,  // owner: aux = segment id: revoked; later uses of it are refused
    call = 15,    // either: attempt = request id, aux = method, body = request (store messages: lend, commit,
                  // pin ...)
    reply = 16,   // either: attempt = request id, code, body = reply or message
    map = 17,     // initiator, unix socket only: attempt = request id, aux = segment << 32 | extent, flags =
                  // Rights
    mapped = 18,  // owner: attempt = request id, code; descriptors ride along (SCM_RIGHTS); body = see shm
                  // transport
    bye = 19,     // either: orderly end; aux = copies out of the other's memory that still run; body = reason
    pull = 20,  // initiator, same host: attempt, aux = lease token, body = pieces then u64 source addresses:
                // the owner copies out of the initiator's memory (process_vm_readv) and answers write_ack
    credit = 21,  // owner, on the control connection, to whoever can do `credits` (handshake.h): attempt =
                  // the initiator's local rail (`link` of its HELLOs), aux = bytes of writes that its links
                  // from there may have under way for the next second, 0: as many as it likes
    // To whoever can do `verbs` (handshake.h); bodies: verbs_messages.h. A lane is one queue pair.
    qp_open = 22,    // initiator: attempt = lane, body = its end
    qp_opened = 23,  // owner: attempt = lane, code, body = its end, or message
    qp_close = 24,  // initiator, on any connection: attempt = request id, body = u64 lanes: they take nothing
                    // more; answered by `revoked`
    ask_keys = 25,  // initiator: attempt = request id, flags = Op, aux = lane, body = pieces
    keys = 26,      // owner: attempt = request id, code, body = keys; code != ok: aux = piece at fault or ~0,
                    // body = message
};

struct Header {
    uint32_t body = 0;
    FrameType type{};
    uint8_t flags = 0;
    uint16_t code = 0;
    uint64_t attempt = 0;
    uint64_t payload = 0;
    uint64_t aux = 0;
};

// One contiguous part of an attempt, in a remote segment. `epoch` 0: do not compare.
struct Piece {
    SegmentId segment = 0;
    uint32_t epoch = 0;
    uint64_t offset = 0;
    uint64_t length = 0;
};
constexpr size_t kPieceBytes = 24;

// offer: scattered memory, for those alone who opened it (handoff_messages.h): no peer that cannot meets one.
enum class SegmentKind : uint8_t { memfd = 1, region = 2, file = 3, device = 4, offer = 5 };

struct SegmentInfo {
    SegmentId id = 0;
    SegmentKind kind{};
    Rights rights{};
    uint64_t length = 0;
    uint64_t extent = 0;   // bytes per extent (memfd); the last one may be shorter. 0 = one piece
    uint64_t address = 0;  // region: where it lies in the owner's process (for process_vm_readv), else 0
    std::string name;      // <= kMaxName bytes
};
constexpr size_t kMinSegmentBytes = 32;  // one entry of a table, with an empty name

void encode(const Header& h, std::array<uint8_t, kHeaderBytes>& out);
// Checks the type, its body and payload limits, that only write/data carry a payload and only answers a code.
bool decode(std::span<const uint8_t, kHeaderBytes> in, Header& h);

void encode_pieces(std::span<const Piece> pieces, Bytes& out);
// Count from the size; every length > 0, offset + length does not overflow, the sum <= kMaxPayload.
bool decode_pieces(ByteView body, std::vector<Piece>& pieces, uint64_t& total);
// A pull's body: the pieces, then one source address for each.
void encode_pull(std::span<const Piece> pieces, std::span<const uint64_t> addresses, Bytes& out);
bool decode_pull(ByteView body, std::vector<Piece>& pieces, std::vector<uint64_t>& addresses,
                 uint64_t& total);
// Of a revoke; any order, repetitions allowed.
void encode_attempts(std::span<const AttemptId> attempts, Bytes& out);
bool decode_attempts(ByteView body, std::vector<AttemptId>& attempts);
// u32 count, then the entries. A table must fit into kMaxBody: the owner exposes no more to one peer.
// Refused: unknown kinds and rights, empty segments, addresses that wrap, more than kMaxExtents extents.
void encode_segments(std::span<const SegmentInfo> segments, Bytes& out);
bool decode_segments(ByteView body, std::vector<SegmentInfo>& segments);

}  // namespace tent::proto
