// What a page store and its peers tell each other: bodies of `call` and `reply` frames (wire.h), the call's
// aux being the method. Plain data and its bytes; what the messages mean is csrc/store's business.
//
//   method     request         reply
//   lend       LendRequest     Lent
//   give_back  GiveBack        empty
//   commit     CommitRequest   Statuses: one per item, in order
//   pin        PinRequest      Statuses: one per digest: HIT (kept for that time) or ABSENT
//   unpin      DigestList      empty
//   hits       DigestList      empty: read one-sided, so the owner could not see it
//   remove     RemoveRequest   Statuses
//   stat       StatRequest     StoreStat
//   stale      DigestList      empty: the directory's record led nowhere, the owner looks again
//   adopt      AdoptRequest    Statuses: PENDING (it will fetch a copy and publish it), PRESENT (it has one),
//                              REFUSED (it leaves soon, or too many wait)
//   list       ListRequest     PageList: the pages that it owns, piece by piece
//   keep       KeepRequest     Statuses: one per digest: HIT (pinned, or unpinned), PENDING (it is being
//                              brought up from disk: ask again) or ABSENT
//   drain      StatRequest     empty: it moves its pages to others, and leaves
//   spaces     StatRequest     SpaceList: what it holds by namespace
//   doubt      DigestList      empty: their bytes did not fit their checks, the owner looks at them itself
//   stage      DigestList      Staged: one per digest: HIT and where it lies in memory; PENDING (it is on
//   disk
//                              and being brought up: ask again); or why it cannot be had
//   disk       StatRequest     DiskStat: what it keeps on disk
//   disk_spaces  StatRequest   SpaceList: what it holds on disk by namespace
//   list_disk  ListRequest     PageList: the pages that it has on disk, piece by piece; no offsets
//   scrub_disk ScrubRequest    DiskScrub: it reads and checks what is on its disk; how far it is
//
// A node that knows none of the later ones answers `unsupported`.
//
// A refused call has the frame's code set and a text as body. Every message starts with u16 kStoreVersion; a
// body of another version is refused by name (version_mismatch), whatever follows. All else that does not fit
// exactly is `protocol`: lists hold at most kMaxItems, ranges do not wrap, nothing is left over. Golden
// bytes: tests/native/proto/golden/. Pure; thread-safe.
#pragma once

#include <optional>
#include <vector>

#include "base/bytes.h"
#include "base/status.h"
#include "model/types.h"

namespace tent::proto {

constexpr uint16_t kStoreVersion = 1;
constexpr size_t kMaxItems = 4096;
constexpr size_t kMaxListed = 1024;  // pages, or namespaces, of one reply

// Numbers below 64 are the store's; others of the engine's calls start there.
enum class Method : uint8_t {
    lend = 1,
    give_back = 2,
    commit = 3,
    pin = 4,
    unpin = 5,
    hits = 6,
    remove = 7,
    stat = 8,
    stale = 9,
    adopt = 10,
    list = 11,
    keep = 12,
    drain = 13,
    spaces = 14,
    doubt = 15,
    stage = 16,
    disk = 17,
    disk_spaces = 18,
    list_disk = 19,
    scrub_disk = 20,
};

// Nothing when the number is unknown: answer Code::unsupported.
std::optional<Method> method_from_wire(uint64_t aux);

// Room for pages of up to `largest` bytes is wanted, about `bytes` in all.
struct LendRequest {
    uint64_t bytes = 0;
    uint64_t largest = 0;
};

// An extent, or a part of one, lent to the session that asked.
struct Lent {
    uint8_t code = 0;   // a PageStatus: STORED, NO_SPACE, QUOTA ...
    uint64_t loan = 0;  // names the loan in commit and give_back; never reused within an incarnation
    SegmentId segment = 0;
    uint32_t extent = 0;
    uint32_t epoch = 0;
    uint64_t offset = 0;  // in the segment
    uint64_t length = 0;  // bytes from there on
};

struct GiveBack {
    uint64_t loan = 0;
};

// A page whose bytes are in place at [offset, offset + length) of the loan's segment.
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

// These pages are to stay where they are for so long (the owner bounds it).
struct PinRequest {
    uint32_t milliseconds = 0;
    std::vector<Id128> digests;
};

struct DigestList {
    std::vector<Id128> digests;
};

struct RemoveRequest {
    Id128 space{};
    std::vector<Id128> digests;
};

// The receiver is to fetch copies of these pages, each from where the directory says, unless there are
// `copies` of it already.
struct AdoptRequest {
    Id128 space{};
    uint64_t generation = 0;
    uint8_t copies = 0;
    std::vector<Id128> digests;
};

struct KeepRequest {
    uint8_t pinned = 0;  // 0 or 1
    std::vector<Id128> digests;
};

struct ListRequest {
    uint64_t cursor = 0;  // 0, then PageList::next
    uint32_t most = 0;    // at most kMaxListed
};

struct PageItem {
    Id128 digest{};
    Id128 space{};
    uint64_t generation = 0;
    uint64_t offset = 0;  // of the bytes in the segment
    uint64_t length = 0;
    uint64_t check = 0;
    uint32_t epoch = 0;
    uint32_t hits = 0;
    uint32_t pins = 0;
};

struct PageList {
    uint64_t next = 0;  // 0: that was the last piece
    SegmentId segment = 0;
    std::vector<PageItem> items;
};

struct SpaceItem {
    Id128 space{};
    uint64_t generation = 0;
    uint64_t pages = 0;
    uint64_t bytes = 0;
};

struct SpaceList {
    std::vector<SpaceItem> items;
};

struct StatRequest {};

struct StoreStat {
    uint64_t capacity = 0;  // bytes
    uint64_t used = 0;      // bytes of pages and their headers
    uint64_t lent = 0;      // bytes lent to writers
    uint64_t pages = 0;
    uint64_t pinned = 0;  // pages
};

struct StagedItem {
    uint8_t code = 0;  // PageStatus; what follows means something for HIT alone
    SegmentId segment = 0;
    uint32_t epoch = 0;
    uint64_t offset = 0;
    uint64_t length = 0;
    uint64_t check = 0;
    Id128 version{};
};

struct Staged {
    std::vector<StagedItem> items;
};

struct DiskStat {
    uint64_t capacity = 0;  // bytes; 0: it keeps none on disk
    uint64_t used = 0;      // bytes of pages
    uint64_t pages = 0;
    uint64_t errors = 0;
    uint8_t off = 0;  // 1: switched off after too many errors
};

// One scrub at a time: who asks for one while it runs is told of that one.
enum class ScrubWish : uint8_t { tell = 0, remove_bad = 1, keep_bad = 2 };

struct ScrubRequest {
    ScrubWish wish = ScrubWish::tell;
};

// The scrub under way, or the last one.
struct DiskScrub {
    uint64_t round = 0;  // 0: there was none
    uint64_t pages = 0, bytes = 0, bad = 0, removed = 0, unread = 0;
    uint8_t running = 0;  // 0 or 1
};

struct Statuses {
    std::vector<uint8_t> values;  // PageStatus
};

// Each appends the whole body. Lists of more than kMaxItems must not get here.
void encode(const LendRequest& m, Bytes& out);
void encode(const Lent& m, Bytes& out);
void encode(const GiveBack& m, Bytes& out);
void encode(const CommitRequest& m, Bytes& out);
void encode(const PinRequest& m, Bytes& out);
void encode(const DigestList& m, Bytes& out);
void encode(const RemoveRequest& m, Bytes& out);
void encode(const AdoptRequest& m, Bytes& out);
void encode(const KeepRequest& m, Bytes& out);
void encode(const ListRequest& m, Bytes& out);
void encode(const PageList& m, Bytes& out);
void encode(const SpaceList& m, Bytes& out);
void encode(const StatRequest& m, Bytes& out);
void encode(const StoreStat& m, Bytes& out);
void encode(const Statuses& m, Bytes& out);
void encode(const Staged& m, Bytes& out);
void encode(const DiskStat& m, Bytes& out);
void encode(const ScrubRequest& m, Bytes& out);
void encode(const DiskScrub& m, Bytes& out);

// ok, version_mismatch or protocol. What is in `m` after anything but ok is of no use.
Code decode(ByteView body, LendRequest& m);
Code decode(ByteView body, Lent& m);
Code decode(ByteView body, GiveBack& m);
Code decode(ByteView body, CommitRequest& m);
Code decode(ByteView body, PinRequest& m);
Code decode(ByteView body, DigestList& m);
Code decode(ByteView body, RemoveRequest& m);
Code decode(ByteView body, AdoptRequest& m);
Code decode(ByteView body, KeepRequest& m);
Code decode(ByteView body, ListRequest& m);
Code decode(ByteView body, PageList& m);
Code decode(ByteView body, SpaceList& m);
Code decode(ByteView body, StatRequest& m);
Code decode(ByteView body, StoreStat& m);
Code decode(ByteView body, Statuses& m);
Code decode(ByteView body, Staged& m);
Code decode(ByteView body, DiskStat& m);
Code decode(ByteView body, ScrubRequest& m);
Code decode(ByteView body, DiskScrub& m);

}  // namespace tent::proto
