// What adapters may touch: memory regions of our segments, a chunk at a time, registered on first use and
// kept until the segment goes. One registration of a chunk serves our own transfers and, as far as the
// segment is exposed, peers'. Pinning takes a while, so it is done on a thread. Loop token held.
#pragma once

#include <algorithm>
#include <map>
#include <memory>

#include "model/types.h"
#include "transport/rdma/device.h"
#include "transport/rdma/worker.h"

namespace tent::transport::rdma {

constexpr uint64_t kChunk = 128ull << 20;

// A segment as this transport sees it.
struct Region {
    SegmentId segment = 0;
    uint8_t* base = nullptr;
    uint64_t length = 0;
    bool writable = true;          // by ourselves
    Rights remote = Rights::none;  // of peers, by RDMA
    uint64_t chunk_of(const uint8_t* address) const { return static_cast<uint64_t>(address - base) / kChunk; }
    uint64_t chunk_bytes(uint64_t chunk) const { return std::min(kChunk, length - chunk * kChunk); }
};

class Memory {
  public:
    explicit Memory(Worker& worker) : worker_(worker) {}
    ~Memory() { clear(); }
    void clear();  // lets go of everything; the thread has been stopped
    // Null: it is being registered (`why` is good: ask again on the loop's next turn), or cannot be
    // (no_memory, with what to do about it).
    const abi::MemoryRegion* get(Device& device, const Region& region, uint64_t chunk, Status& why);
    // Nobody's adapter touches the segment any more. False: not yet; ask again.
    bool forget(SegmentId segment);
    size_t regions() const { return chunks_.size(); }

  private:
    struct Key {
        SegmentId segment;
        uint32_t device;
        uint64_t chunk;
        auto operator<=>(const Key&) const = default;
    };
    struct Chunk {
        const Library* lib = nullptr;
        abi::MemoryRegion* region = nullptr;
        bool busy = false;  // registered, or let go of, on the thread
        Status failed;
        Nanos failed_at = 0;
    };
    Worker& worker_;
    std::map<Key, std::shared_ptr<Chunk>> chunks_;
};

}  // namespace tent::transport::rdma
