// How a peer takes up what another node offers it under a ticket: bodies of `call` and `reply` frames
// (wire.h), the call's aux being the method.
//
//   method    request          reply
//   open      OpenRequest      Opened: from now on this session may use the segment named there
//   release   ReleaseRequest   Released: how the offer ended; idempotent
//
// The offer's name is a secret of 128 random bits: who knows it may use the offer, within the cluster. A node
// that knows none of these answers `unsupported`. Every message starts with u16 kHandoffVersion; another
// version is refused by name. All else that does not fit exactly is `protocol`. Golden bytes:
// tests/native/proto/golden/. Pure; thread-safe.
#pragma once

#include <vector>

#include "base/bytes.h"
#include "base/status.h"
#include "model/types.h"

namespace tent::proto {

constexpr uint16_t kHandoffVersion = 1;
constexpr size_t kMaxOffered = 8192;           // ranges of one reply
constexpr uint32_t kMaxOfferRanges = 1 << 20;  // of one offer

// Numbers below 64 are the store's, those below 128 the observers'.
enum class HandoffMethod : uint16_t { open = 128, release = 129 };

// How an offer ended.
enum class OfferEnd : uint8_t {
    released = 1,  // the peer has what it wanted
    refused = 2,   // the peer gave it up
    expired = 3,   // nobody used it for as long as its lease
    aborted = 4,   // its owner took it back
    gone = 5,      // its memory was unregistered
};

struct OpenRequest {
    Id128 offer{};
    uint32_t first = 0;  // range from which on they are listed
};

struct OfferedRange {
    uint64_t length = 0;
    uint64_t check = 0;
};

// The ranges lie one after the other in the segment, from its offset 0 on.
struct Opened {
    SegmentId segment = 0;
    Rights rights = Rights::read;
    uint8_t checked = 0;  // whether the checks mean anything
    uint64_t bytes = 0;   // of all ranges
    uint32_t ranges = 0;
    uint32_t lease_ms = 0;
    uint32_t first = 0;
    std::vector<OfferedRange> items;
};

struct ReleaseRequest {
    Id128 offer{};
    OfferEnd how = OfferEnd::released;  // or refused
};

struct Released {
    OfferEnd how = OfferEnd::released;  // what ended it: this call, or something before
};

void encode(const OpenRequest& m, Bytes& out);
void encode(const Opened& m, Bytes& out);
void encode(const ReleaseRequest& m, Bytes& out);
void encode(const Released& m, Bytes& out);

// ok, version_mismatch or protocol. What is in `m` after anything but ok is of no use.
Code decode(ByteView body, OpenRequest& m);
Code decode(ByteView body, Opened& m);
Code decode(ByteView body, ReleaseRequest& m);
Code decode(ByteView body, Released& m);

}  // namespace tent::proto
