// The header in front of every page in an extent: 64 bytes, then the page. Little-endian; golden bytes in
// tests/native/store/golden.h.
//
//   offset  0  u32  'TSLT'
//           4  u16  format version (1)
//           6  u16  0
//           8  u32  commit mark: kMarkOpen while the page is being written, kMarkCommitted, kMarkDropped
//          12  u32  epoch of the extent
//          16  16   the page's digest
//          32  16   version id of the content
//          48  u64  length: of the page; of the room reserved while the mark is open
//          56  u64  page check
//
// Headers let an index be rebuilt by walking an extent from its start: each names the length of what follows.
// They are the owner's to write, also in extents lent to a writer.
#pragma once

#include <atomic>
#include <bit>
#include <cstdint>

#include "base/bytes.h"

namespace tent::store {

constexpr uint32_t kSlotMagic = 0x544C5354;  // "TSLT"
constexpr uint16_t kSlotVersion = 1;
constexpr uint64_t kSlotHeader = 64;
constexpr uint64_t kSlotAlign = 64;

constexpr uint32_t kMarkOpen = 0x4E45504F;       // "OPEN"
constexpr uint32_t kMarkCommitted = 0x544D4D43;  // "CMMT"
constexpr uint32_t kMarkDropped = 0x504F5244;    // "DROP"

struct SlotHeader {
    uint32_t magic = kSlotMagic;
    uint16_t format = kSlotVersion;
    uint16_t zero = 0;
    uint32_t mark = kMarkOpen;
    uint32_t epoch = 0;
    Id128 digest{};
    Id128 version{};
    uint64_t length = 0;
    uint64_t check = 0;
};
static_assert(sizeof(SlotHeader) == kSlotHeader);
static_assert(std::endian::native == std::endian::little, "headers are laid out in memory as they are");

// Bytes that a page of `length` takes up, header and alignment included. `length` <= 2^48.
constexpr uint64_t slot_bytes(uint64_t length) {
    return kSlotHeader + (length + kSlotAlign - 1) / kSlotAlign * kSlotAlign;
}

// Writes all but the mark, then the mark: a reader that sees the mark sees the rest.
inline void write_header(uint8_t* at, const SlotHeader& header) {
    SlotHeader open = header;
    open.mark = kMarkOpen;
    std::memcpy(at, &open, sizeof open);
    std::atomic_ref<uint32_t>(*reinterpret_cast<uint32_t*>(at + 8))
        .store(header.mark, std::memory_order_release);
}

inline void write_mark(uint8_t* at, uint32_t mark) {
    std::atomic_ref<uint32_t>(*reinterpret_cast<uint32_t*>(at + 8)).store(mark, std::memory_order_release);
}

inline SlotHeader read_header(const uint8_t* at) {
    auto* mark = const_cast<uint32_t*>(reinterpret_cast<const uint32_t*>(at + 8));
    uint32_t seen = std::atomic_ref<uint32_t>(*mark).load(std::memory_order_acquire);
    SlotHeader header;
    std::memcpy(&header, at, sizeof header);
    header.mark = seen;
    return header;
}

}  // namespace tent::store
