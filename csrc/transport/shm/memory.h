// Shared memory: sealed memfds, one per extent, mapped side by side; and what peers read beside them.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/unique_fd.h"

namespace tent::transport::shm {

// A mapping that unmaps itself. MADV_DONTFORK: a forked child does not inherit it.
class Mapping {
  public:
    Mapping() = default;
    Mapping(uint8_t* address, size_t bytes) : address_(address), bytes_(bytes) {}
    ~Mapping() { reset(); }
    Mapping(Mapping&& o) noexcept;
    Mapping& operator=(Mapping&& o) noexcept;
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    uint8_t* address() const { return address_; }
    size_t bytes() const { return bytes_; }
    explicit operator bool() const { return address_ != nullptr; }
    void reset();

  private:
    uint8_t* address_ = nullptr;
    size_t bytes_ = 0;
    unsigned born_ = 0;
};

// A memfd of `bytes`, allocated now (no SIGBUS later) and sealed against shrinking and growing.
Result<UniqueFd> make_memfd(const char* name, uint64_t bytes);
// Checks size and seals of a descriptor that a peer sent, then maps it whole.
Result<Mapping> map_foreign(const UniqueFd& fd, uint64_t bytes, bool writable);
Result<Mapping> map_own(const UniqueFd& fd, uint64_t bytes, bool writable);
// The same memory by a descriptor that cannot be mapped writable.
Result<UniqueFd> read_only(const UniqueFd& fd);

// Extents side by side in one range of addresses.
struct ExtentMemory {
    Mapping range;
    std::vector<UniqueFd> extents;
    uint64_t extent_bytes = 0;
};
// no_memory names the limit that is too small (cgroup or host).
Result<ExtentMemory> allocate_extents(uint64_t bytes, uint64_t extent_bytes);

// What an owner shows beside each exposed segment, read-only to peers: is it still granted, and its extents'
// epochs.
struct Face {
    std::atomic<uint32_t> alive;
    uint32_t extents;
    std::atomic<uint32_t> epochs[];
    static size_t bytes(size_t extents) {
        return (sizeof(Face) + extents * sizeof(uint32_t) + 4095) / 4096 * 4096;
    }
};

// Which segments an initiator's threads are inside right now (segment id + 1; 0 = free slot). Written by the
// initiator, read by the owner: a grant is revoked when it is marked and no slot names it.
struct HazardPage {
    static constexpr size_t kSlots = 256;
    std::atomic<uint32_t> inside[kSlots];
    uint32_t acquire(uint32_t segment);  // returns the slot
    void release(uint32_t slot) { inside[slot].store(0, std::memory_order_release); }
    bool holds(uint32_t segment) const;
};

// Bytes that may still be allocated: the smallest of the host's available memory and the cgroups' limits.
// `what` says which.
uint64_t available_memory(std::string& what);

}  // namespace tent::transport::shm
