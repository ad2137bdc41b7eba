#include "store/disk_format.h"

#include <algorithm>

#include "base/digest.h"
#include "model/types.h"

namespace tent::store {
namespace {

constexpr uint64_t kSeed = (uint64_t{'T'} << 8) | kDiskVersion;
constexpr std::string_view kFileMagic = "TENTPAGE";
constexpr uint32_t kTableMagic = 0x54584554;  // "TEXT"
constexpr size_t kHeadSummed = 48, kTableSummed = 40;

uint64_t table_sum(ByteView bytes, size_t slots) {
    Xxh3Stream sum(kSeed);
    sum.update(bytes.data(), kTableSummed);
    sum.update(bytes.data() + kDiskHeader, slots * kDiskSlot);
    return sum.finish();
}

bool slot_sound(const DiskSlot& s, uint64_t extent_bytes) {
    return s.length > 0 && s.offset >= disk_table_bytes(extent_bytes) &&
           within(s.offset, s.length, extent_bytes);
}

}  // namespace

uint64_t disk_most_slots(uint64_t extent_bytes) {
    return std::clamp<uint64_t>(extent_bytes / kDiskPerSlot, 1, kDiskMostSlots);
}

uint64_t disk_table_bytes(uint64_t extent_bytes) {
    uint64_t bytes = kDiskHeader + disk_most_slots(extent_bytes) * kDiskSlot;
    return (bytes + kBlock - 1) / kBlock * kBlock;
}

Bytes encode(const DiskHead& head) {
    Bytes out;
    out.reserve(kBlock);
    Writer w(out);
    w.raw(as_bytes(kFileMagic));
    w.u32(kDiskVersion);
    w.u32(0);
    w.id(head.file);
    w.u64(head.extent_bytes);
    w.u64(head.extents);
    w.u64(xxh3_64(out.data(), kHeadSummed, kSeed));
    out.resize(kBlock);
    return out;
}

PageStatus decode(ByteView block, DiskHead& out) {
    if (block.size() < kBlock) return PageStatus::BAD_RECORD;
    if (std::all_of(block.begin(), block.begin() + kBlock, [](uint8_t b) { return b == 0; }))
        return PageStatus::ABSENT;
    Reader in(block.subspan(0, kHeadSummed + 8));
    ByteView magic = in.raw(kFileMagic.size());
    if (!std::equal(magic.begin(), magic.end(), kFileMagic.begin())) return PageStatus::BAD_RECORD;
    if (in.u32() != kDiskVersion) return PageStatus::VERSION;
    in.u32();
    out.file = in.id();
    out.extent_bytes = in.u64();
    out.extents = in.u64();
    bool sound = in.u64() == xxh3_64(block.data(), kHeadSummed, kSeed) && out.extent_bytes % kBlock == 0 &&
                 out.extent_bytes <= kDiskMostExtent &&
                 out.extent_bytes > disk_table_bytes(out.extent_bytes) && out.extents < UINT32_MAX;
    return sound ? PageStatus::HIT : PageStatus::BAD_RECORD;
}

Bytes encode(const DiskTable& table, uint64_t extent_bytes) {
    Bytes out;
    out.reserve(disk_table_bytes(extent_bytes));
    Writer w(out);
    w.u32(kTableMagic);
    w.u16(static_cast<uint16_t>(kDiskVersion));
    w.u16(static_cast<uint16_t>(table.slots.size()));
    w.id(table.file);
    w.u32(table.extent);
    w.u32(table.epoch);
    w.u64(table.written);
    w.u64(0);
    for (const DiskSlot& s : table.slots) {
        w.id(s.digest);
        w.id(s.version);
        w.id(s.space);
        w.u64(s.generation);
        w.u64(s.offset);
        w.u64(s.length);
        w.u64(s.check);
        w.u64(0);
    }
    uint64_t sum = table_sum(out, table.slots.size());
    std::memcpy(out.data() + kTableSummed, &sum, sizeof sum);
    out.resize(disk_table_bytes(extent_bytes));
    return out;
}

PageStatus decode(ByteView bytes, const DiskHead& head, uint32_t extent, DiskTable& out) {
    if (bytes.size() < disk_table_bytes(head.extent_bytes)) return PageStatus::ABSENT;
    Reader in(bytes);
    bool ours = in.u32() == kTableMagic;
    ours &= in.u16() == kDiskVersion;
    size_t slots = in.u16();
    out.file = in.id();
    out.extent = in.u32();
    out.epoch = in.u32();
    out.written = in.u64();
    if (!ours || slots > disk_most_slots(head.extent_bytes) || out.file != head.file ||
        out.extent != extent || in.u64() != table_sum(bytes, slots)) {
        return PageStatus::ABSENT;
    }
    out.slots.assign(slots, {});
    for (DiskSlot& s : out.slots) {
        s.digest = in.id();
        s.version = in.id();
        s.space = in.id();
        s.generation = in.u64();
        s.offset = in.u64();
        s.length = in.u64();
        s.check = in.u64();
        in.u64();
        if (!slot_sound(s, head.extent_bytes)) return PageStatus::ABSENT;
    }
    return PageStatus::HIT;
}

}  // namespace tent::store
