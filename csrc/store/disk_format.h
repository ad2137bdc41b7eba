// What lies in the file of the disk tier. Little-endian; golden bytes in tests/native/store/golden.
//
//   block 0 (4096 bytes), the file's head:
//     offset  0  8    'TENTPAGE'
//             8  u32  format version (1)
//            12  u32  0
//            16  16   id of the file, random
//            32  u64  bytes of an extent, a multiple of 4096
//            40  u64  number of extents
//            48  u64  XXH3-64 over the 48 bytes before, seed 'T' << 8 | version
//            56       0
//   extent i, at 4096 + i * bytes of an extent: its table, padded to disk_table_bytes(), then pages.
//     offset  0  u32  'TEXT'
//             4  u16  format version (1)
//             6  u16  number of slots
//             8  16   id of the file
//            24  u32  the extent's number
//            28  u32  epoch: counts its reuses
//            32  u64  when it was written: rises from extent to extent
//            40  u64  XXH3-64 over the 40 bytes before and all slots, seed as above
//            48       slots, 88 bytes each:
//                       16 digest | 16 version id | 16 namespace | u64 generation of the namespace |
//                       u64 offset of the page in the extent | u64 length | u64 page check | u64 0
//
// A table is written after the pages that it names. Whatever comes from the file is hostile until it was
// decoded; the bytes of a page until they fit its check. Pure; thread-safe.
#pragma once

#include <vector>

#include "base/block_io.h"
#include "base/bytes.h"
#include "store/reason.h"

namespace tent::store {

constexpr uint32_t kDiskVersion = 1;
constexpr uint64_t kDiskHeader = 48, kDiskSlot = 88;
constexpr uint64_t kDiskPerSlot = 16 << 10;  // bytes of an extent for each slot of its table
constexpr uint64_t kDiskMostSlots = 60000;
constexpr uint64_t kDiskMostExtent = 1ull << 31;

struct DiskHead {
    Id128 file{};
    uint64_t extent_bytes = 0, extents = 0;
};

struct DiskSlot {
    Id128 digest{}, version{}, space{};
    uint64_t generation = 0, offset = 0, length = 0, check = 0;
};

struct DiskTable {
    Id128 file{};
    uint32_t extent = 0, epoch = 0;
    uint64_t written = 0;
    std::vector<DiskSlot> slots;
};

uint64_t disk_most_slots(uint64_t extent_bytes);
uint64_t disk_table_bytes(uint64_t extent_bytes);  // a multiple of 4096
constexpr uint64_t disk_extent_at(uint64_t extent, uint64_t extent_bytes) {
    return kBlock + extent * extent_bytes;
}

// 4096 bytes, and disk_table_bytes().
Bytes encode(const DiskHead& head);
Bytes encode(const DiskTable& table, uint64_t extent_bytes);
// HIT; VERSION: a newer TENT wrote it; ABSENT: nothing but zeros; BAD_RECORD: something else.
PageStatus decode(ByteView block, DiskHead& out);
// HIT, or ABSENT for anything that is not a whole table of this file's extent.
PageStatus decode(ByteView bytes, const DiskHead& head, uint32_t extent, DiskTable& out);

}  // namespace tent::store
