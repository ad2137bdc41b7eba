// Pages published where they already lie: in memory that a serving engine has anyway, so that sharing them
// costs no second copy. The engine goes on owning that memory. Each slot of it holds at most one page, and
// has an epoch that peers see beside the memory; retiring a page raises it before a byte may change. What the
// engine overwrites without a word is found by its stability token, and in any case by the page's check,
// which every reader of such a page compares.
//
// Thread-safe; one mutex, never held while page bytes are read. No thread, socket or clock in here.
#pragma once

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "store/store.h"

namespace tent::store {

struct InPlaceConfig {
    std::string node;  // for records
    Id128 incarnation{};
    Id128 seed{};  // random bits: version ids are drawn from it
};

// Memory of the caller's, as the engine registered it. `epochs`: one per slot, shared with the transports.
struct SharedMemory {
    SegmentId segment = 0;
    uint8_t* base = nullptr;
    uint64_t bytes = 0, slot_bytes = 0;
    std::atomic<uint32_t>* epochs = nullptr;
};

struct InPlaceStats {
    uint64_t pages = 0, bytes = 0, published = 0, retired = 0, stale = 0, check_failed = 0, queued = 0,
             unpublishing = 0;
};

class InPlace {
  public:
    explicit InPlace(const InPlaceConfig& config) : config_(config) {}
    void set_executor(Executor executor) { executor_ = std::move(executor); }

    void add(const SharedMemory& memory);
    // Retires all its pages, and returns when no publish() or get() is inside it any more: it may be
    // unregistered then (invariant 11).
    void drop(SegmentId segment);

    // One part per page, inside one slot of known memory (the caller has checked): STORED, PRESENT, UNSTABLE
    // (the token changed meanwhile, or the slot was retired), CLEARED, or REFUSED (another publish of that
    // slot is under way, or the memory is being dropped).
    void publish(const Id128& space, uint64_t generation, const PageBatch& batch,
                 std::span<PageStatus> status);
    // The slots at these offsets are about to hold something else: from now on no reader gets their old page.
    void retire(SegmentId segment, std::span<const uint64_t> offsets);
    // Looks at the tokens of up to `most` pages more, and retires those whose token has changed. Returns how
    // many it retired.
    size_t sweep(size_t most);

    // Copies pages out and verifies them, whatever the configuration says. HIT or a miss.
    void get(const PageBatch& batch, std::span<PageStatus> status);
    void find(std::span<const Id128> digests, std::span<PageStatus> status, std::span<uint64_t> lengths);
    void remove(std::span<const Id128> digests, std::span<PageStatus> status);
    size_t clear(const Id128& space, uint64_t generation);

    // ---- as the Store's, see there
    std::vector<Published> records(std::span<const Id128> digests) const;
    std::vector<uint32_t> confirm(std::span<const Id128> digests);
    void enqueue(std::span<const Id128> digests);
    void enqueue_all();
    std::vector<Published> take_unpublished(size_t most);
    std::vector<Published> take_unpublish(size_t most);
    InPlaceStats stats() const;

  private:
    struct Page {
        Id128 digest{}, version{}, space{};
        uint64_t generation = 0, offset = 0, length = 0, check = 0;
        uint64_t token = 0, token_value = 0;  // its address; 0: none
        SegmentId segment = 0;
        uint32_t slot = 0, epoch = 0;
        bool published = false;
    };
    struct Memory {
        SharedMemory at;
        std::vector<Page*> pages;  // by slot
        uint32_t users = 0;
        bool dropped = false;
    };
    struct Hash {  // digests are random bits already
        size_t operator()(const Id128& id) const {
            size_t h;
            std::memcpy(&h, id.data(), sizeof h);
            return h;
        }
    };
    // A page between its beginning and its end in publish() or get().
    struct Held {
        size_t row = 0;
        Page page;
        Memory* memory = nullptr;
    };
    Memory* memory_of(const uint8_t* address, uint64_t length);
    bool fresh(const Page& page) const;
    bool current(const Page& page) const;
    uint64_t generation_of(const Id128& space) const;
    Page* live(const Id128& digest);
    void raise_epoch(Memory& memory, uint32_t slot);
    void take(Page* page);
    PageStatus begin(const Id128& space, uint64_t generation, const PageBatch& batch, Held& held);
    PageStatus finish(const Held& held);
    Published published(const Page& page) const;
    void copy(const PageBatch& batch, std::span<const Held> held, Direction direction,
              std::vector<uint64_t>& checks);
    void leave(std::span<const Held> held);

    InPlaceConfig config_;
    Executor executor_;
    mutable std::mutex mutex_;
    std::condition_variable left_;
    std::map<SegmentId, Memory> memories_;
    std::unordered_map<Id128, Page, Hash> pages_;
    std::map<Id128, uint64_t> generations_;
    std::set<std::pair<SegmentId, uint32_t>> publishing_;
    std::vector<Id128> queue_;
    std::vector<Published> unpublish_;
    uint64_t versions_ = 0;
    std::pair<SegmentId, size_t> swept_{};
    InPlaceStats counts_;
};

}  // namespace tent::store
