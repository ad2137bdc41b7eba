// The page store of one node: extents, headers and index tied together. Batches in, batches out.
//
// Thread-safety: every method may be called from any thread; one mutex guards the bookkeeping and is never
// held while page bytes are copied. No thread, socket or clock in here: `now`, or a clock, comes in, copying
// may be spread by an executor. Memory: the segment (and the epochs, if given) belong to the caller and must
// outlive the Store. Errors: every page has a PageStatus; nothing throws for a fault of the world.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "store/copy.h"
#include "store/disk.h"
#include "store/extents.h"
#include "store/ghosts.h"
#include "store/index.h"
#include "store/lending.h"
#include "store/record.h"
#include "store/tenants.h"

namespace tent::store {

struct StoreConfig {
    uint8_t* base = nullptr;  // page-aligned
    uint64_t bytes = 0;
    uint64_t extent_bytes = 0;                // a multiple of 4096
    std::atomic<uint32_t>* epochs = nullptr;  // one per extent, shared with the transports; null: own
    SegmentId segment = 0;                    // as peers know the memory
    std::string node;                         // this node's name and incarnation, for records
    Id128 incarnation{};
    Id128 seed{};                       // random bits: version ids are drawn from it
    size_t max_pages = 0;               // bound of the index; 0: one page per 4 KiB
    uint64_t loan_limit = 64ull << 20;  // bytes lent to one writer at a time (at least one extent)
    Nanos (*clock)() = nullptr;         // for times to live; null: it stands still
    Nanos ttl = 0;                      // how long a page stays whose put does not say; 0: no limit
    uint64_t tenant_quota = 0;          // bytes of pages that one tenant may have here; 0: no limit
};

// N pages of P parts each, as flat arrays: digests N x 16 bytes, addresses and lengths N x P.
struct PageBatch {
    size_t count = 0;
    size_t parts = 1;
    const uint8_t* digests = nullptr;
    const uint64_t* addresses = nullptr;
    const uint64_t* lengths = nullptr;
    const uint64_t* tokens = nullptr;  // put: addresses of u64 stability counters (0: none), or null
    // put: what the counters read when the caller handed the pages in (a queued put starts later); null: now.
    const uint64_t* token_values = nullptr;
    // put: these are copies of pages that other nodes own, with their version ids (N x 16) and checks (N): a
    // page whose bytes come out otherwise is CHECK_FAILED. Null: the pages are new.
    const uint8_t* versions = nullptr;
    const uint64_t* checks = nullptr;
    Nanos ttl = -1;  // put: how long the pages stay; 0: no limit; below: as the store's configuration says
};

struct Commit {
    Slot slot;
    Id128 digest{};
    uint64_t check = 0;
    Id128 version{};  // of a copy; all zero: a new one is drawn
};

// A page that a peer asks this node to keep a copy of.
struct Wanted {
    Id128 digest{};
    Id128 space{};
    uint64_t generation = 0;
    uint8_t copies = 0;
};

// A page that this node owns and its directory record.
struct Published {
    Id128 digest{};
    Id128 space{};
    uint64_t generation = 0;
    Bytes record;
};

struct Moved {
    Id128 digest{};
    Bytes before, after;
};

constexpr size_t kMaxToStage = 65536;  // pages that peers want up at a time; beyond it they ask again

// An extent on its way to be reused. The caller takes `unpublish` out of the directory and swaps `moved`,
// then calls finish_reclaim(extent): only then may the memory change.
struct Reclaim {
    uint32_t extent = kNoId;
    std::vector<Published> unpublish;
    std::vector<Moved> moved;
};

struct StoreStats {
    uint64_t capacity = 0, extent_bytes = 0, live_bytes = 0, overhead_bytes = 0;
    uint64_t pages = 0, extents = 0, free_extents = 0, lent_extents = 0, quarantined_extents = 0,
             sealed_extents = 0;
    uint64_t stored = 0, present = 0, unstable = 0, no_space = 0, local_hits = 0, local_misses = 0,
             check_failed = 0;
    uint64_t evicted = 0, moved = 0, reclaimed_extents = 0, removed = 0, cleared = 0;
    uint64_t stored_bytes = 0, moved_bytes = 0, newcomer_share = 0, ghost_hits = 0, expired = 0,
             quota_evicted = 0, quota_refused = 0;
    uint64_t remote_commits = 0, remote_refused = 0, queued = 0, unpublishing = 0, pinned_pages = 0;
};

class Store {
  public:
    // Checks the sizes; seeds nothing and touches no page byte.
    static Result<std::shared_ptr<Store>> create(const StoreConfig& config);

    // Spreads copies over threads; set before use. Empty: the calling thread copies.
    void set_executor(Executor executor) { executor_ = std::move(executor); }
    // Pages that leave memory go there, and are found there; set before use.
    void set_disk(std::shared_ptr<Disk> disk) { disk_ = std::move(disk); }
    const std::shared_ptr<Disk>& disk() const { return disk_; }

    // ---- writing
    // Slots for pages of these lengths: STORED, TOO_LARGE or NO_SPACE each. Bytes go to address(slot). Every
    // slot must be handed to commit() or abort().
    void reserve(std::span<const uint64_t> lengths, std::span<Slot> slots, std::span<PageStatus> status);
    uint8_t* address(const Slot& slot) const { return extents_.bytes_at(slot.offset); }
    // Makes pages visible here. The first publisher of a digest wins: a later one is PRESENT, its slot
    // aborted.
    void commit(const Id128& space, uint64_t generation, std::span<const Commit> pages,
                std::span<PageStatus> status);
    void abort(std::span<const Slot> slots);
    // Reserve, copy with the check fused in, compare the stability tokens, commit.
    void put(const Id128& space, uint64_t generation, const PageBatch& batch, std::span<PageStatus> status);

    // ---- reading
    // Copies pages that this node owns into the caller's parts and verifies them. HIT or a miss. A page whose
    // check fails is dropped (see take_unpublish).
    void get(const PageBatch& batch, bool check, std::span<PageStatus> status);
    // HIT or a miss; `lengths` (may be empty) receives the lengths of hits.
    void find(std::span<const Id128> digests, std::span<PageStatus> status,
              std::span<uint64_t> lengths) const;

    // ---- keeping and dropping
    // A page on disk is PENDING until it has been brought up: pin it again then.
    void pin(std::span<const Id128> digests, bool pinned, std::span<PageStatus> status);
    void lease(std::span<const Id128> digests, Nanos until, std::span<PageStatus> status);
    void note_hits(std::span<const Id128> digests);
    // Forgets pages; what had been published is queued for take_unpublish().
    void remove(std::span<const Id128> digests, std::span<PageStatus> status);
    // Raises the namespace's generation and drops what is older. Returns how many pages went.
    size_t clear(const Id128& space, uint64_t generation);

    // ---- publishing (the caller talks to the directory)
    // Records of pages just put, in order; an empty record for pages that are gone.
    void records(std::span<const Id128> digests, std::vector<Published>& out) const;
    // The directory has these. Returns the positions of pages that went meanwhile: unpublish those.
    std::vector<uint32_t> confirm(std::span<const Id128> digests);
    // To be published later, by take_unpublished().
    void enqueue(std::span<const Id128> digests);
    void enqueue_all();
    std::vector<Published> take_unpublished(size_t most);
    // Pages whose time is over are dropped first.
    std::vector<Published> take_unpublish(size_t most);
    // Blocks the upkeep's thread until something is queued, wake() was called since the last return, or
    // `timeout`.
    void wait_work(Nanos timeout);
    void wake();

    // ---- reclaiming
    // Starts on a sealed extent without pins, leases or users (reclaim.cpp says which); pages that were read
    // are moved, up to `move_bytes` and to half of the bytes stored over time. Reclaim::extent is kNoId when
    // there is none.
    Reclaim begin_reclaim(Nanos now, uint64_t move_bytes);
    void finish_reclaim(uint32_t extent);

    // ---- tenants
    // The namespace's pages are the tenant's. Beyond its quota a put first evicts pages of that tenant, those
    // not read lately and the oldest; it is QUOTA where none may go.
    void assign(const Id128& space, const Id128& tenant);
    uint64_t tenant_bytes(const Id128& tenant);
    // Namespaces whose tenant is not known here.
    std::vector<Id128> unassigned() const;

    // ---- lending to writers in other processes; a writer is known by its session, and its limit counts by
    // incarnation
    proto::Lent lend(const WriterId& writer, const proto::LendRequest& request);
    std::vector<PageStatus> commit_lent(const WriterId& writer, const proto::CommitRequest& request);
    void give_back(const WriterId& writer, uint64_t loan);
    // Does [offset, offset + length) of the segment lie in one extent that is lent to this writer?
    bool may_write(const WriterId& writer, uint64_t offset, uint64_t length) const;
    bool lends_to(const WriterId& writer) const;
    // Rises whenever a loan ends. Lock-free.
    uint64_t loans_ended() const { return loans_ended_.load(std::memory_order_acquire); }
    // The writer fell silent: what it holds is not reused. `gone`: proven gone (or fenced): it is.
    void writer_lost(const WriterId& writer);
    void writer_gone(const WriterId& writer);

    // ---- copies for other nodes, and what operators ask (adopt.cpp)
    // Takes note of pages that this node is to fetch copies of: PENDING, PRESENT, or REFUSED. However many
    // ask, each is fetched once. Wakes wait_wanted().
    void want(const proto::AdoptRequest& request, std::span<PageStatus> status);
    // One thread, which has fetched what it took before, or given it up, when it asks (or waits) again.
    std::vector<Wanted> take_wanted(size_t most);
    // Blocks until something is wanted, stop_waiting() was called, or `timeout`. False: stopped for good.
    bool wait_wanted(Nanos timeout);
    void stop_waiting();
    // A peer, or an operator, asks this node to leave. Never taken back: nothing is wanted or lent from then
    // on.
    void ask_to_drain();
    bool asked_to_drain() const { return draining_.load(std::memory_order_acquire); }
    proto::PageList list(uint64_t cursor, size_t most) const;
    proto::SpaceList spaces() const;

    // ---- pages that lie on disk (stage.cpp)
    // Brings pages into memory, verified, for up to `patience`: HIT (they are there), ABSENT, CHECK_FAILED,
    // NO_SPACE (room is to be made first), DEADLINE (the disk is slow: they are still on it), QUOTA.
    void stage(std::span<const Id128> digests, Nanos patience, std::span<PageStatus> status);
    // Pages leave memory in order; the disk takes them if it can in `patience` for each. Returns how many it
    // has.
    size_t leave(std::span<const Id128> digests, Nanos patience);
    // A peer wants them up: PENDING until they are in memory; then HIT, where they lie, and a short lease.
    proto::Staged ask_stage(const std::vector<Id128>& digests, Nanos now);
    // Blocks until somebody wants pages up or a scrub, stop_waiting() was called, or `timeout`. False:
    // stopped for good.
    bool wait_stage(Nanos timeout);
    std::vector<Id128> take_stage(size_t most);
    // Reads and checks a few pages more of a scrub of the disk that somebody asked for.
    void scrub_disk_some(Nanos patience);
    proto::DiskScrub ask_scrub(proto::ScrubWish wish);
    proto::PageList list_disk(uint64_t cursor, size_t most) const;
    proto::SpaceList disk_spaces() const;
    // The directory says so: pages on disk of an earlier incarnation may be found, and are to be published.
    void confirm_space(const Id128& space, uint64_t generation);

    // ---- pages that a reader found bad (scrub.cpp)
    // Takes note; wakes wait_work().
    void doubt(std::span<const Id128> digests);
    // Looks at up to `most` of them, and drops those that are bad. Returns how many it looked at.
    size_t scrub(size_t most);

    // Rebuilds the index from the slot headers (everything known before is forgotten). The namespace of a
    // page is not in its header: the pages belong to the zero namespace until they are published again.
    // Returns pages found.
    size_t rebuild();

    StoreStats stats() const;
    uint32_t free_extents() const;
    const StoreConfig& config() const { return config_; }

  private:
    explicit Store(const StoreConfig& config);

    struct Space {
        Id128 digest{};
        uint64_t generation = 0;
        uint32_t tenant = 0;
    };
    // A page between reservation and commit, or held while it is copied.
    struct Pending {
        size_t row = 0;
        Slot slot;
        Id128 digest{};
        uint64_t token = 0;
        uint64_t check = 0;
        uint64_t from = 0;  // moves: where its bytes lay
        Id128 version{};    // copies
        uint32_t hits = 0;  // moves: that it keeps
        Nanos ttl = -1;
        bool good = true;
    };
    uint32_t space_of(const Id128& digest);
    bool cleared(const Entry& entry) const;
    bool dead(const Entry& entry) const { return cleared(entry) || expired(entry); }
    Nanos now() const;
    bool expired(const Entry& entry) const;
    Nanos expiry(Nanos ttl) const;
    void expire();
    PageStatus admit(uint32_t space, uint64_t length, uint64_t ahead);
    bool make_way(uint32_t tenant, uint64_t most);
    EntryId live(const Id128& digest) const;
    PageStatus commit_one(uint32_t space, uint64_t generation, const Commit& page);
    PageStatus insert(uint32_t space, uint64_t generation, const Slot& slot, const Id128& digest,
                      const Id128& version, uint64_t check);
    void drop(EntryId id);
    void forget(EntryId id);
    PageStatus reserve_one(const Id128& digest, uint64_t length, Slot& out);
    void release(uint32_t extent);
    Bytes record_of(const Entry& entry) const;
    Published published(const Entry& entry) const;
    Id128 next_version();
    void reserve_puts(uint32_t space, uint64_t generation, const PageBatch& batch,
                      std::vector<Pending>& pending, std::span<PageStatus> status);
    void commit_puts(uint32_t space, uint64_t generation, const std::vector<Pending>& pending,
                     std::span<PageStatus> status);
    bool reclaimable(const Extent& extent, Nanos now) const;
    uint32_t victim(Nanos now, uint64_t limit);
    uint32_t holey(Nanos now, uint64_t move_bytes) const;
    std::vector<Pending> choose_moves(uint32_t extent, uint64_t budget, bool keeps);
    void copy_moves(std::vector<Pending>& moves);
    void finish_move(const Pending& move, Reclaim& out);
    uint32_t loan_extent(const WriterId& writer, uint64_t loan) const;
    PageStatus want_one(const proto::AdoptRequest& request, const Id128& digest);
    size_t rebuild_extent(uint32_t extent);
    // ---- the disk, where there is one
    bool on_disk(const Id128& digest) const { return disk_ != nullptr && disk_->find(digest, now()); }
    std::vector<DiskOffer> leaving(uint32_t extent, const std::vector<Pending>& moves) const;
    void take_leave(EntryId id, Reclaim& out);
    bool want_up(const Id128& digest);
    size_t check_on_disk(std::span<const DiskPage> pages, size_t at, bool keeps, Nanos patience,
                         proto::DiskScrub& found);
    void land(std::span<const std::shared_ptr<Disk::Read>> reads, std::span<const size_t> rows,
              std::span<PageStatus> status);
    PageStatus enter(const DiskPage& page, const Slot& slot, bool good);

    StoreConfig config_;
    Executor executor_;
    mutable std::mutex mutex_;
    std::condition_variable work_;
    bool woken_ = false;
    Extents extents_;
    Index index_;
    Tenants tenants_{index_};
    Ghosts ghosts_;
    uint64_t newcomer_share_ = 0;  // bytes of newcomers from which on they go before keepers
    uint64_t move_credit_ = 0;     // bytes that may be moved now
    std::vector<Space> spaces_;
    std::vector<Id128> queue_;          // to publish, oldest last taken first out
    std::vector<Published> unpublish_;  // to take out of the directory
    uint64_t versions_ = 0, loans_ = 0;
    std::atomic<uint64_t> loans_ended_{0};
    std::vector<Id128> doubted_;
    std::condition_variable wanting_;
    std::deque<Id128> wanted_;
    std::map<Id128, Wanted> asked_wanted_;  // the same: each page once
    std::set<Id128> fetching_;              // taken last: their copies are being fetched
    std::shared_ptr<Disk> disk_;
    std::condition_variable staging_;
    std::deque<Id128> to_stage_;
    std::set<Id128> asked_stage_;  // the same
    proto::DiskScrub scrub_;
    uint64_t scrub_cursor_ = 0;
    bool scrub_keeps_ = false;
    bool stopped_waiting_ = false;
    std::atomic<bool> draining_{false};
    mutable StoreStats counts_;
};

}  // namespace tent::store
