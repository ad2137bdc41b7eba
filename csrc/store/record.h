// The directory's record of one page: a hint that says where a page's bytes lie. Version 1, little-endian:
//
//   offset  0  u8   'T'
//           1  u8   format version (1)
//           2  u8   flags (0; unknown bits are refused)
//           3  u8   number of replicas, 1..kMaxReplicas, all of one version
//           4  u32  low half of XXH3-64 over the rest, seed 'T' << 8 | version
//           8  u64  generation of the namespace when it was published
//          16  16   version id of the content
//          32  u64  length
//          40  u64  page check
//          48       replicas, one after another:
//                     16 incarnation | u32 segment | u32 extent | u32 epoch | u64 offset of the bytes in the
//                     segment | u8 length of the node's name | name
//
// Whatever comes from the directory is hostile until decode accepted it. Golden bytes:
// tests/native/store/golden.h. Pure; thread-safe.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "model/types.h"
#include "store/reason.h"

namespace tent::store {

constexpr uint8_t kRecordVersion = 1;
constexpr size_t kMaxReplicas = 8;
constexpr size_t kRecordHeader = 48;
constexpr size_t kReplicaFixed = 37;
constexpr size_t kMaxNodeName = 255;

// The segment of replicas on disk: nobody reads them one-sided, their owner brings them up when it is asked.
constexpr SegmentId kDiskSegment = UINT32_MAX - 1;
// In the epoch of replicas that lie in memory of their owner's caller (in_place.h): their readers always
// compare the check. The extent is then the page's slot in the segment.
constexpr uint32_t kInPlaceEpoch = 1u << 31;

struct Replica {
    std::string_view node;  // decoded: points into the record's bytes
    Id128 incarnation{};
    SegmentId segment = 0;
    uint32_t extent = 0;
    uint32_t epoch = 0;
    uint64_t offset = 0;
};

struct Record {
    uint64_t generation = 0;
    Id128 version{};
    uint64_t length = 0;
    uint64_t check = 0;
    uint8_t replica_count = 0;
    Replica replicas[kMaxReplicas];
};

// Appends the record's bytes. Names longer than kMaxNodeName must not get here.
void encode_record(const Record& record, Bytes& out);

// HIT, BAD_RECORD or VERSION. `out` points into `bytes`.
PageStatus decode_record(ByteView bytes, Record& out);

// ---- replicas come and go. A replica is a copy of one version, so records of two versions never mix.

// `there` with the (one) replica of `mine` in it, instead of any that its node had. False: another version,
// or no room for one more; `out` is then unchanged.
bool with_replica(const Record& there, const Record& mine, Bytes& out);
// `there` without the replicas in the bit set `which`; nothing where none is left.
Bytes without_replicas(const Record& there, uint32_t which);
// The replicas that both records name, as a bit set over those of `there`.
uint32_t shared_replicas(const Record& there, const Record& other);

// Incarnations compared: equal, or the protection is switched off (test builds).
bool same_incarnation(const Id128& a, const Id128& b);

// ---- a batch of records into flat columns, one row a page

struct NodeRef {
    std::string name;
    Id128 incarnation{};
};

// What reading from a node takes, as far as it is known: 0 is best.
struct NodeCost {
    NodeRef node;
    uint64_t nanos_per_mib = 0;
};
constexpr uint64_t kUnknownCost = 1'000'000;

// Columns that the caller allocated, `count` rows each.
struct RecordColumns {
    size_t count = 0;
    uint8_t* status = nullptr;  // PageStatus
    uint32_t* node = nullptr;   // index into `nodes`; kNoId without a record
    uint32_t* segment = nullptr;
    uint32_t* epoch = nullptr;
    uint64_t* offset = nullptr;
    uint64_t* length = nullptr;
    uint64_t* check = nullptr;
    uint8_t* version = nullptr;   // 16 bytes a row
    uint8_t* which = nullptr;     // the replica that was chosen: its place in the record
    uint8_t* replicas = nullptr;  // how many the record has
};

struct DecodeOptions {
    std::string_view prefer;           // a replica of this node is taken before any other
    uint64_t generation = 0;           // records of a lower one are CLEARED
    const uint64_t* expect = nullptr;  // `count` lengths, or null: LENGTH_MISMATCH where they differ
    const uint8_t* tried = nullptr;    // `count` bit sets of replicas that failed already, or null
    std::span<const NodeCost> costs;   // of the nodes whose cost is known
};

// A null record (data() == nullptr) is ABSENT; one whose every replica was tried, OWNER_UNREACHABLE. Of
// several replicas that one is taken at which the bytes asked of its node so far in this batch, and these,
// would be there first: the pages of a batch spread over the nodes that have them. Appends each node it meets
// once to `nodes`.
void decode_records(std::span<const ByteView> records, const DecodeOptions& options, const RecordColumns& out,
                    std::vector<NodeRef>& nodes);

}  // namespace tent::store
