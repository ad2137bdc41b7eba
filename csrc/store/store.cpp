#include "store/store.h"

#include <algorithm>

#include "base/switches.h"

namespace tent::store {
namespace {

constexpr size_t kMaxSpaces = 65536;
constexpr uint64_t kMinPage = 4096;
// Newcomers have a tenth of the pool to begin with, and then between the two limits (per cent).
constexpr uint64_t kFirstShare = 10, kLeastShare = 2, kMostShare = 95;
constexpr uint64_t kShareStep = 4;   // a page that came back changes the share by this part of its bytes
constexpr uint64_t kMovesShare = 2;  // of the bytes stored, this part may be moved
constexpr uint64_t kMostCredit = 4;  // extents: moves saved up
// Beyond it (the directory has been away for long) records are left to whoever meets them: their epoch tells.
constexpr size_t kMaxUnpublish = 65536;

uint64_t load_token(uint64_t address) {
    return address == 0 ? 0 : __atomic_load_n(reinterpret_cast<const uint64_t*>(address), __ATOMIC_ACQUIRE);
}

Id128 digest_at(const PageBatch& batch, size_t i) {
    Id128 d;
    std::memcpy(d.data(), batch.digests + 16 * i, 16);
    return d;
}

uint64_t page_bytes(const PageBatch& batch, size_t i) {
    uint64_t total = 0;
    for (size_t p = 0; p < batch.parts; ++p) {
        if (__builtin_add_overflow(total, batch.lengths[i * batch.parts + p], &total)) return UINT64_MAX;
    }
    return total;
}

PageJob job_for(const PageBatch& batch, size_t i, const Id128& digest, uint8_t* slot, uint64_t bytes) {
    PageJob job;
    job.digest = digest;
    job.slot = slot;
    job.address = batch.addresses + i * batch.parts;
    job.length = batch.lengths + i * batch.parts;
    job.parts = batch.parts;
    job.bytes = bytes;
    return job;
}

}  // namespace

Result<std::shared_ptr<Store>> Store::create(const StoreConfig& config) {
    auto bad = [](std::string why) { return Status(Code::invalid_argument, std::move(why)); };
    if (config.base == nullptr || reinterpret_cast<uintptr_t>(config.base) % kSlotAlign != 0) {
        return bad("the store's memory is missing or not aligned to 64 bytes");
    }
    if (config.extent_bytes < kMinPage || config.extent_bytes % kMinPage != 0) {
        return bad("an extent must be a multiple of 4096 bytes");
    }
    if (config.bytes < config.extent_bytes) return bad("the store's memory is smaller than one extent");
    if (config.node.empty() || config.node.size() > kMaxNodeName)
        return bad("a node name has 1 to 255 bytes");
    return std::shared_ptr<Store>(new Store(config));
}

Store::Store(const StoreConfig& config)
    : config_(config),
      extents_(config.base, config.bytes, config.extent_bytes, config.epochs),
      index_(extents_, config.max_pages != 0 ? config.max_pages : config.bytes / kMinPage) {
    spaces_.push_back({});  // pages rebuilt from headers
    newcomer_share_ = config.bytes / 100 * kFirstShare;
    move_credit_ = config.extent_bytes;
}

// ---- small things, mutex held

uint32_t Store::space_of(const Id128& digest) {
    for (size_t i = 0; i < spaces_.size(); ++i) {
        if (spaces_[i].digest == digest) return static_cast<uint32_t>(i);
    }
    if (spaces_.size() >= kMaxSpaces) return 0;
    spaces_.push_back({digest, 0});
    return static_cast<uint32_t>(spaces_.size() - 1);
}

bool Store::cleared(const Entry& entry) const {
    return entry.generation < spaces_[entry.space].generation && protection_on(Protection::generation);
}

EntryId Store::live(const Id128& digest) const {
    EntryId id = index_.find(digest);
    return id != kNoEntry && dead(index_.at(id)) ? kNoEntry : id;
}

Id128 Store::next_version() {
    Id128 v = config_.seed;
    uint64_t n = ++versions_;
    std::memcpy(v.data() + 8, &n, sizeof n);
    return v;
}

Bytes Store::record_of(const Entry& entry) const {
    Record record;
    record.generation = entry.generation;
    record.version = entry.version;
    record.length = entry.length;
    record.check = entry.check;
    record.replica_count = 1;
    record.replicas[0] = {config_.node, config_.incarnation,          config_.segment,
                          entry.extent, extents_.epoch(entry.extent), entry.offset};
    Bytes out;
    out.reserve(kRecordHeader + kReplicaFixed + config_.node.size());
    encode_record(record, out);
    return out;
}

Published Store::published(const Entry& entry) const {
    return {entry.digest, spaces_[entry.space].digest, entry.generation, record_of(entry)};
}

void Store::drop(EntryId id) {
    Entry& e = index_.at(id);
    if (e.publication == Publication::published && unpublish_.size() < kMaxUnpublish) {
        unpublish_.push_back(published(e));
    }
    if (e.pins > 0) --extents_.at(e.extent).pinned;
    write_mark(extents_.header_at(e.offset), kMarkDropped);
    if (on_disk(e.digest)) queue_.push_back(e.digest);  // from now on the record leads there
    forget(id);
}

void Store::forget(EntryId id) {
    tenants_.take(spaces_[index_.at(id).space].tenant, id);
    index_.erase(id);
}

// A page that left not long ago goes to the keepers, and says of which kind of pages more should stay.
PageStatus Store::reserve_one(const Id128& digest, uint64_t length, Slot& out) {
    Ghosts::Kind left = ghosts_.find(digest);
    PageStatus status = extents_.reserve(length, false, left != Ghosts::Kind::none, out);
    if (status != PageStatus::STORED || left == Ghosts::Kind::none) return status;
    ghosts_.forget(digest);
    ++counts_.ghost_hits;
    uint64_t least = config_.bytes / 100 * kLeastShare, most = config_.bytes / 100 * kMostShare;
    uint64_t step = length / kShareStep;
    newcomer_share_ = left == Ghosts::Kind::newcomer
                          ? std::min(most, newcomer_share_ + step)
                          : std::max(least, newcomer_share_ - std::min(newcomer_share_, step));
    return status;
}

void Store::release(uint32_t extent) {
    Extent& e = extents_.at(extent);
    if (e.users > 0) --e.users;
    if (e.users == 0 && e.recycle_when_idle) extents_.recycle(extent);
}

PageStatus Store::insert(uint32_t space, uint64_t generation, const Slot& slot, const Id128& digest,
                         const Id128& version, uint64_t check) {
    // Computed before the namespace was cleared: it must not come back.
    if (generation < spaces_[space].generation && protection_on(Protection::generation))
        return PageStatus::CLEARED;
    EntryId id = index_.find(digest);
    if (id != kNoEntry) {
        if (!dead(index_.at(id))) return PageStatus::PRESENT;
        drop(id);
    }
    if (disk_ != nullptr) {
        DiskPage there;
        bool found = disk_->find(digest, now(), &there);
        if (found && there.version != version) return PageStatus::PRESENT;
        if (!found) disk_->remove(digest);  // from before the namespace was cleared, or a restart
    }
    Entry entry;
    entry.digest = digest;
    entry.version = version;
    entry.offset = slot.offset;
    entry.length = slot.length;
    entry.check = check;
    entry.generation = generation;
    entry.space = space;
    entry.extent = slot.extent;
    entry.expires = expiry(config_.ttl);
    id = index_.insert(entry);
    if (id == kNoEntry) return PageStatus::NO_SPACE;
    tenants_.add(spaces_[space].tenant, id);
    counts_.stored_bytes += slot.length;
    move_credit_ = std::min(move_credit_ + slot.length / kMovesShare, kMostCredit * extents_.extent_bytes());
    SlotHeader header;
    header.mark = kMarkCommitted;
    header.epoch = slot.epoch;
    header.digest = digest;
    header.version = version;
    header.length = slot.length;
    header.check = check;
    write_header(extents_.header_at(slot.offset), header);
    return PageStatus::STORED;
}

PageStatus Store::commit_one(uint32_t space, uint64_t generation, const Commit& page) {
    if (!extents_.current(page.slot) && protection_on(Protection::epoch)) return PageStatus::STALE_EPOCH;
    Id128 version = page.version == Id128{} ? next_version() : page.version;
    PageStatus s = insert(space, generation, page.slot, page.digest, version, page.check);
    extents_.close_slot(page.slot, s == PageStatus::STORED);
    return s;
}

// ---- writing

void Store::reserve(std::span<const uint64_t> lengths, std::span<Slot> slots, std::span<PageStatus> status) {
    std::lock_guard lock(mutex_);
    for (size_t i = 0; i < lengths.size(); ++i)
        status[i] = extents_.reserve(lengths[i], false, false, slots[i]);
}

void Store::commit(const Id128& space, uint64_t generation, std::span<const Commit> pages,
                   std::span<PageStatus> status) {
    std::lock_guard lock(mutex_);
    uint32_t s = space_of(space);
    for (size_t i = 0; i < pages.size(); ++i) {
        status[i] = admit(s, pages[i].slot.length, 0);
        if (status[i] == PageStatus::STORED) {
            status[i] = commit_one(s, generation, pages[i]);
        } else if (extents_.current(pages[i].slot)) {
            extents_.close_slot(pages[i].slot, false);
        }
    }
}

void Store::abort(std::span<const Slot> slots) {
    std::lock_guard lock(mutex_);
    for (const Slot& slot : slots) {
        if (extents_.current(slot)) extents_.close_slot(slot, false);
    }
}

void Store::reserve_puts(uint32_t space, uint64_t generation, const PageBatch& batch,
                         std::vector<Pending>& pending, std::span<PageStatus> status) {
    uint64_t ahead = 0;
    for (size_t i = 0; i < batch.count; ++i) {
        Pending p;
        p.row = i;
        p.digest = digest_at(batch, i);
        if (live(p.digest) != kNoEntry || on_disk(p.digest)) {
            status[i] = PageStatus::PRESENT;
            continue;
        }
        uint64_t bytes = page_bytes(batch, i);
        status[i] = admit(space, bytes, ahead);
        if (status[i] == PageStatus::STORED) status[i] = reserve_one(p.digest, bytes, p.slot);
        if (status[i] != PageStatus::STORED) continue;
        ahead += bytes;
        p.ttl = batch.ttl;
        // Committing before the bytes are in place is what this protection forbids.
        if (!protection_on(Protection::commit))
            insert(space, generation, p.slot, p.digest, next_version(), 0);
        pending.push_back(p);
    }
}

void Store::commit_puts(uint32_t space, uint64_t generation, const std::vector<Pending>& pending,
                        std::span<PageStatus> status) {
    // Backwards, so that the room of a row of refused pages is given back whole.
    for (size_t k = pending.size(); k-- > 0;) {
        const Pending& p = pending[k];
        if (!protection_on(Protection::commit)) {
            EntryId id = index_.find(p.digest);
            if (id != kNoEntry && index_.at(id).offset == p.slot.offset) index_.at(id).check = p.check;
            extents_.close_slot(p.slot, true);
        } else if (!p.good) {
            extents_.close_slot(p.slot, false);
            status[p.row] = p.version == Id128{} ? PageStatus::UNSTABLE : PageStatus::CHECK_FAILED;
        } else {
            status[p.row] = commit_one(space, generation, {p.slot, p.digest, p.check, p.version});
            bool own_ttl = status[p.row] == PageStatus::STORED && p.ttl >= 0;
            if (own_ttl) index_.set_expiry(index_.find(p.digest), expiry(p.ttl));
        }
    }
    for (size_t i = 0; i < status.size(); ++i) {
        counts_.stored += status[i] == PageStatus::STORED;
        counts_.present += status[i] == PageStatus::PRESENT;
        counts_.unstable += status[i] == PageStatus::UNSTABLE;
        counts_.no_space += status[i] == PageStatus::NO_SPACE;
    }
}

void Store::put(const Id128& space, uint64_t generation, const PageBatch& batch,
                std::span<PageStatus> status) {
    std::vector<Pending> pending;
    pending.reserve(batch.count);
    uint32_t s;
    {
        std::lock_guard lock(mutex_);
        s = space_of(space);
        reserve_puts(s, generation, batch, pending, status);
    }
    std::vector<PageJob> jobs;
    jobs.reserve(pending.size());
    for (Pending& p : pending) {
        if (batch.tokens != nullptr) {
            p.token =
                batch.token_values != nullptr ? batch.token_values[p.row] : load_token(batch.tokens[p.row]);
        }
        jobs.push_back(job_for(batch, p.row, p.digest, address(p.slot), p.slot.length));
    }
    copy_pages(jobs, Direction::in, true, executor_);
    std::atomic_thread_fence(std::memory_order_acquire);
    for (size_t k = 0; k < pending.size(); ++k) {
        Pending& p = pending[k];
        p.check = jobs[k].check;
        if (batch.versions != nullptr) {
            std::memcpy(p.version.data(), batch.versions + 16 * p.row, 16);
            p.good = p.check == batch.checks[p.row] || !protection_on(Protection::check);
        }
        if (batch.tokens != nullptr && protection_on(Protection::token)) {
            p.good = load_token(batch.tokens[p.row]) == p.token;
        }
    }
    std::lock_guard lock(mutex_);
    commit_puts(s, generation, pending, status);
}

// ---- reading

void Store::get(const PageBatch& batch, bool check, std::span<PageStatus> status) {
    std::vector<PageJob> jobs;
    std::vector<Pending> held;
    jobs.reserve(batch.count);
    held.reserve(batch.count);
    {
        std::lock_guard lock(mutex_);
        for (size_t i = 0; i < batch.count; ++i) {
            Pending p;
            p.row = i;
            p.digest = digest_at(batch, i);
            EntryId id = index_.find(p.digest);
            status[i] = PageStatus::ABSENT;
            if (id == kNoEntry) continue;
            const Entry& e = index_.at(id);
            if (expired(e)) continue;
            status[i] = cleared(e)                         ? PageStatus::CLEARED
                        : e.length != page_bytes(batch, i) ? PageStatus::LENGTH_MISMATCH
                                                           : PageStatus::HIT;
            if (status[i] != PageStatus::HIT) continue;
            index_.set_hits(id, index_.hits(id) + 1);
            p.slot = {e.extent, extents_.epoch(e.extent), e.offset, e.length};
            p.check = e.check;
            ++extents_.at(e.extent).users;
            held.push_back(p);
            jobs.push_back(job_for(batch, i, p.digest, address(p.slot), e.length));
        }
    }
    check = check && protection_on(Protection::check);
    copy_pages(jobs, Direction::out, check, executor_);
    std::lock_guard lock(mutex_);
    for (size_t k = 0; k < held.size(); ++k) {
        const Pending& p = held[k];
        if (check && jobs[k].check != p.check) {
            status[p.row] = PageStatus::CHECK_FAILED;
            ++counts_.check_failed;
            EntryId id = index_.find(p.digest);
            if (id != kNoEntry && index_.at(id).offset == p.slot.offset) drop(id);
        } else if (!extents_.current(p.slot) && protection_on(Protection::epoch)) {
            status[p.row] = PageStatus::STALE_EPOCH;
        }
        release(p.slot.extent);
    }
    for (size_t i = 0; i < batch.count; ++i) {
        ++(status[i] == PageStatus::HIT ? counts_.local_hits : counts_.local_misses);
    }
}

void Store::find(std::span<const Id128> digests, std::span<PageStatus> status,
                 std::span<uint64_t> lengths) const {
    std::lock_guard lock(mutex_);
    for (size_t i = 0; i < digests.size(); ++i) {
        EntryId id = index_.find(digests[i]);
        DiskPage page;
        if (id == kNoEntry && disk_ != nullptr && disk_->find(digests[i], now(), &page)) {
            status[i] = PageStatus::HIT;
            if (!lengths.empty()) lengths[i] = page.length;
        } else if (id == kNoEntry || expired(index_.at(id))) {
            status[i] = PageStatus::ABSENT;
        } else if (cleared(index_.at(id))) {
            status[i] = PageStatus::CLEARED;
        } else {
            status[i] = PageStatus::HIT;
            if (!lengths.empty()) lengths[i] = index_.at(id).length;
        }
    }
}

// ---- keeping and dropping

void Store::pin(std::span<const Id128> digests, bool pinned, std::span<PageStatus> status) {
    std::lock_guard lock(mutex_);
    for (size_t i = 0; i < digests.size(); ++i) {
        EntryId id = live(digests[i]);
        status[i] = PageStatus::ABSENT;
        if (id == kNoEntry) {
            if (pinned && on_disk(digests[i]))
                status[i] = want_up(digests[i]) ? PageStatus::PENDING : PageStatus::REFUSED;
            continue;
        }
        Entry& e = index_.at(id);
        Extent& extent = extents_.at(e.extent);
        if (pinned && extent.state == ExtentState::reclaiming) continue;  // it may be leaving
        status[i] = PageStatus::HIT;
        if (pinned) {
            if (e.pins++ == 0) ++extent.pinned;
        } else if (e.pins > 0 && --e.pins == 0) {
            --extent.pinned;
        }
    }
}

void Store::lease(std::span<const Id128> digests, Nanos until, std::span<PageStatus> status) {
    std::lock_guard lock(mutex_);
    for (size_t i = 0; i < digests.size(); ++i) {
        EntryId id = live(digests[i]);
        bool stays = id != kNoEntry && extents_.at(index_.at(id).extent).state != ExtentState::reclaiming;
        status[i] = stays || on_disk(digests[i]) ? PageStatus::HIT : PageStatus::ABSENT;
        if (!stays && status[i] == PageStatus::HIT) want_up(digests[i]);  // it will be read soon
        if (!stays) continue;
        Entry& e = index_.at(id);
        e.lease_until = std::max(e.lease_until, until);
        Extent& extent = extents_.at(e.extent);
        extent.lease_until = std::max(extent.lease_until, until);
    }
}

void Store::note_hits(std::span<const Id128> digests) {
    std::lock_guard lock(mutex_);
    for (const Id128& d : digests) {
        EntryId id = live(d);
        if (id != kNoEntry) index_.set_hits(id, index_.hits(id) + 1);
    }
}

void Store::remove(std::span<const Id128> digests, std::span<PageStatus> status) {
    std::lock_guard lock(mutex_);
    for (size_t i = 0; i < digests.size(); ++i) {
        EntryId id = index_.find(digests[i]);
        status[i] = id == kNoEntry && !on_disk(digests[i]) ? PageStatus::ABSENT : PageStatus::HIT;
        if (disk_ != nullptr) disk_->remove(digests[i]);
        if (id == kNoEntry) continue;
        drop(id);
        ++counts_.removed;
    }
}

size_t Store::clear(const Id128& space, uint64_t generation) {
    std::lock_guard lock(mutex_);
    uint32_t s = space_of(space);
    if (generation <= spaces_[s].generation) return 0;
    spaces_[s].generation = generation;
    size_t gone = disk_ != nullptr ? disk_->clear(space, generation) : 0;
    for (EntryId id = 0; id < index_.slots(); ++id) {
        const Entry& e = index_.at(id);
        if (!e.used || e.space != s || !cleared(e)) continue;
        drop(id);
        ++gone;
    }
    counts_.cleared += gone;
    return gone;
}

uint32_t Store::free_extents() const {
    std::lock_guard lock(mutex_);
    return extents_.free_count();
}

StoreStats Store::stats() const {
    std::lock_guard lock(mutex_);
    StoreStats s = counts_;
    s.extents = extents_.count();
    s.extent_bytes = extents_.extent_bytes();
    s.capacity = s.extents * s.extent_bytes;
    s.pages = index_.size();
    s.free_extents = extents_.free_count();
    s.overhead_bytes =
        index_.memory() + index_.size() * kSlotHeader + extents_.count() * sizeof(Extent) + ghosts_.memory();
    s.newcomer_share = newcomer_share_;
    for (uint32_t i = 0; i < extents_.count(); ++i) {
        const Extent& e = extents_.at(i);
        s.live_bytes += e.live_bytes;
        s.lent_extents += e.state == ExtentState::lent;
        s.quarantined_extents += e.state == ExtentState::quarantined;
        s.sealed_extents += e.state == ExtentState::sealed;
        s.pinned_pages += e.pinned;
    }
    s.queued = queue_.size();
    s.unpublishing = unpublish_.size();
    return s;
}

}  // namespace tent::store
