#include "store/in_place.h"

#include <algorithm>

#include "base/switches.h"

namespace tent::store {
namespace {

constexpr size_t kMaxUnpublish = 65536;  // beyond it records are left to whoever meets them

uint64_t load_token(uint64_t address) {
    return address == 0 ? 0 : __atomic_load_n(reinterpret_cast<const uint64_t*>(address), __ATOMIC_ACQUIRE);
}

}  // namespace

// ---- small things, mutex held

InPlace::Memory* InPlace::memory_of(const uint8_t* address, uint64_t length) {
    for (auto& [id, m] : memories_) {
        if (address >= m.at.base && within(static_cast<uint64_t>(address - m.at.base), length, m.at.bytes))
            return &m;
    }
    return nullptr;
}

bool InPlace::fresh(const Page& page) const {
    return page.token == 0 || load_token(page.token) == page.token_value || !protection_on(Protection::token);
}

bool InPlace::current(const Page& page) const {
    auto at = memories_.find(page.segment);
    return at != memories_.end() && !at->second.dropped &&
           (at->second.at.epochs[page.slot].load() == page.epoch || !protection_on(Protection::epoch));
}

uint64_t InPlace::generation_of(const Id128& space) const {
    auto at = generations_.find(space);
    return at == generations_.end() ? 0 : at->second;
}

// Null where there is none, or what is there has another owner by now.
InPlace::Page* InPlace::live(const Id128& digest) {
    auto at = pages_.find(digest);
    if (at == pages_.end()) return nullptr;
    bool cleared = at->second.generation < generation_of(at->second.space);
    if (fresh(at->second) && (!cleared || !protection_on(Protection::generation))) return &at->second;
    counts_.stale += !cleared;
    take(&at->second);
    return nullptr;
}

// Before a byte changes. Neighbours never have the same epoch (its last bit is the slot's): pages side by
// side would travel as one piece otherwise, and one of them that is stale would take the others along.
void InPlace::raise_epoch(Memory& memory, uint32_t slot) {
    uint32_t next = (memory.at.epochs[slot].load() | 1) + 1 + (slot & 1);
    memory.at.epochs[slot].store(kInPlaceEpoch | next);
}

void InPlace::take(Page* page) {
    Memory& memory = memories_.at(page->segment);
    if (page->published && unpublish_.size() < kMaxUnpublish) unpublish_.push_back(published(*page));
    raise_epoch(memory, page->slot);
    memory.pages[page->slot] = nullptr;
    counts_.bytes -= page->length;
    ++counts_.retired;
    Id128 digest = page->digest;
    pages_.erase(digest);
}

Published InPlace::published(const Page& page) const {
    Record record;
    record.generation = page.generation;
    record.version = page.version;
    record.length = page.length;
    record.check = page.check;
    record.replica_count = 1;
    record.replicas[0] = {config_.node, config_.incarnation, page.segment,
                          page.slot,    page.epoch,          page.offset};
    Bytes out;
    encode_record(record, out);
    return {page.digest, page.space, page.generation, std::move(out)};
}

// ---- memory

void InPlace::add(const SharedMemory& memory) {
    std::lock_guard lock(mutex_);
    Memory& m = memories_[memory.segment];
    m.at = memory;
    m.pages.resize((memory.bytes + memory.slot_bytes - 1) / memory.slot_bytes);
    for (uint32_t i = 0; i < m.pages.size(); ++i) raise_epoch(m, i);
}

void InPlace::drop(SegmentId segment) {
    std::unique_lock lock(mutex_);
    auto at = memories_.find(segment);
    if (at == memories_.end()) return;
    at->second.dropped = true;
    for (Page* page : at->second.pages) {
        if (page != nullptr) take(page);
    }
    left_.wait(lock, [&] { return at->second.users == 0 || !protection_on(Protection::hold); });
    memories_.erase(at);
}

void InPlace::retire(SegmentId segment, std::span<const uint64_t> offsets) {
    std::lock_guard lock(mutex_);
    auto at = memories_.find(segment);
    if (at == memories_.end()) return;
    Memory& m = at->second;
    for (uint64_t offset : offsets) {
        uint64_t slot = offset / m.at.slot_bytes;
        if (slot >= m.pages.size()) continue;
        if (m.pages[slot] != nullptr) {
            take(m.pages[slot]);
        } else {
            raise_epoch(m, static_cast<uint32_t>(slot));  // for a publish that is under way
        }
    }
}

size_t InPlace::sweep(size_t most) {
    std::lock_guard lock(mutex_);
    size_t looked = 0, gone = 0;
    auto at = memories_.lower_bound(swept_.first);
    size_t slot = at != memories_.end() && at->first == swept_.first ? swept_.second : 0;
    for (; at != memories_.end(); ++at, slot = 0) {
        std::vector<Page*>& pages = at->second.pages;
        for (; slot < pages.size(); ++slot) {
            if (looked == most) {
                swept_ = {at->first, slot};
                return gone;
            }
            if (pages[slot] == nullptr) continue;
            ++looked;
            if (fresh(*pages[slot])) continue;
            ++counts_.stale;
            ++gone;
            take(pages[slot]);
        }
    }
    swept_ = {};
    return gone;
}

// ---- publishing

PageStatus InPlace::begin(const Id128& space, uint64_t generation, const PageBatch& batch, Held& held) {
    Page& p = held.page;
    std::memcpy(p.digest.data(), batch.digests + 16 * held.row, 16);
    auto* address = reinterpret_cast<const uint8_t*>(batch.addresses[held.row]);
    p.length = batch.lengths[held.row];
    held.memory = memory_of(address, p.length);
    if (held.memory == nullptr || held.memory->dropped) return PageStatus::REFUSED;
    if (generation < generation_of(space) && protection_on(Protection::generation))
        return PageStatus::CLEARED;
    if (live(p.digest) != nullptr) return PageStatus::PRESENT;
    p.segment = held.memory->at.segment;
    p.offset = static_cast<uint64_t>(address - held.memory->at.base);
    p.slot = static_cast<uint32_t>(p.offset / held.memory->at.slot_bytes);
    if (!publishing_.emplace(p.segment, p.slot).second) return PageStatus::REFUSED;
    if (Page* before = held.memory->pages[p.slot]) take(before);
    p.space = space;
    p.generation = generation;
    p.epoch = held.memory->at.epochs[p.slot].load();
    if (batch.tokens != nullptr) {
        p.token = batch.tokens[held.row];
        p.token_value = batch.token_values != nullptr ? batch.token_values[held.row] : load_token(p.token);
    }
    ++held.memory->users;
    return PageStatus::PENDING;
}

PageStatus InPlace::finish(const Held& held) {
    const Page& p = held.page;
    publishing_.erase({p.segment, p.slot});
    if (held.memory->dropped || !current(p) || !fresh(p)) return PageStatus::UNSTABLE;
    if (p.generation < generation_of(p.space)) return PageStatus::CLEARED;
    if (live(p.digest) != nullptr) return PageStatus::PRESENT;
    Page& there = pages_.emplace(p.digest, p).first->second;
    there.version = config_.seed;
    uint64_t n = ++versions_;
    std::memcpy(there.version.data() + 8, &n, sizeof n);
    held.memory->pages[p.slot] = &there;
    counts_.bytes += p.length;
    ++counts_.published;
    return PageStatus::STORED;
}

void InPlace::publish(const Id128& space, uint64_t generation, const PageBatch& batch,
                      std::span<PageStatus> status) {
    std::vector<Held> held;
    {
        std::lock_guard lock(mutex_);
        for (size_t i = 0; i < batch.count; ++i) {
            Held h;
            h.row = i;
            status[i] = begin(space, generation, batch, h);
            if (status[i] == PageStatus::PENDING) held.push_back(h);
        }
    }
    std::vector<uint64_t> checks;
    copy(batch, held, Direction::verify, checks);
    std::atomic_thread_fence(std::memory_order_acquire);
    std::lock_guard lock(mutex_);
    for (size_t k = 0; k < held.size(); ++k) {
        held[k].page.check = checks[k];
        status[held[k].row] = finish(held[k]);
    }
    leave(held);
}

void InPlace::copy(const PageBatch& batch, std::span<const Held> held, Direction direction,
                   std::vector<uint64_t>& checks) {
    std::vector<PageJob> jobs(held.size());
    for (size_t k = 0; k < held.size(); ++k) {
        const Held& h = held[k];
        jobs[k].digest = h.page.digest;
        if (direction == Direction::out) jobs[k].slot = h.memory->at.base + h.page.offset;
        jobs[k].address = batch.addresses + h.row * batch.parts;
        jobs[k].length = batch.lengths + h.row * batch.parts;
        jobs[k].parts = batch.parts;
        jobs[k].bytes = h.page.length;
    }
    copy_pages(jobs, direction, true, executor_);
    for (const PageJob& job : jobs) checks.push_back(job.check);
}

void InPlace::leave(std::span<const Held> held) {
    for (const Held& h : held) --h.memory->users;
    left_.notify_all();
}

// ---- reading

void InPlace::get(const PageBatch& batch, std::span<PageStatus> status) {
    std::vector<Held> held;
    {
        std::lock_guard lock(mutex_);
        for (size_t i = 0; i < batch.count; ++i) {
            Id128 digest;
            std::memcpy(digest.data(), batch.digests + 16 * i, 16);
            const Page* page = live(digest);
            status[i] = PageStatus::ABSENT;
            if (page == nullptr) continue;
            uint64_t bytes = 0;
            for (size_t p = 0; p < batch.parts; ++p) bytes += batch.lengths[i * batch.parts + p];
            status[i] = bytes == page->length ? PageStatus::HIT : PageStatus::LENGTH_MISMATCH;
            if (status[i] != PageStatus::HIT) continue;
            Memory& memory = memories_.at(page->segment);
            ++memory.users;
            held.push_back({i, *page, &memory});
        }
    }
    std::vector<uint64_t> checks;
    copy(batch, held, Direction::out, checks);
    std::lock_guard lock(mutex_);
    for (size_t k = 0; k < held.size(); ++k) {
        const Page& p = held[k].page;
        bool bad = checks[k] != p.check && protection_on(Protection::check);
        auto there = pages_.find(p.digest);
        bool same = there != pages_.end() && there->second.version == p.version;
        if (same && !fresh(p)) ++counts_.stale;
        if (same && (bad || !fresh(p))) take(&there->second);
        if (!same || !current(p) || !fresh(p)) {
            status[held[k].row] = PageStatus::STALE_EPOCH;
        } else if (bad) {
            status[held[k].row] = PageStatus::CHECK_FAILED;
        }
        counts_.check_failed += bad;
    }
    leave(held);
}

void InPlace::find(std::span<const Id128> digests, std::span<PageStatus> status,
                   std::span<uint64_t> lengths) {
    std::lock_guard lock(mutex_);
    for (size_t i = 0; i < digests.size(); ++i) {
        const Page* page = live(digests[i]);
        status[i] = page != nullptr ? PageStatus::HIT : PageStatus::ABSENT;
        if (page != nullptr) lengths[i] = page->length;
    }
}

// ---- dropping

void InPlace::remove(std::span<const Id128> digests, std::span<PageStatus> status) {
    std::lock_guard lock(mutex_);
    for (size_t i = 0; i < digests.size(); ++i) {
        auto at = pages_.find(digests[i]);
        if (at == pages_.end()) continue;
        status[i] = PageStatus::HIT;
        take(&at->second);
    }
}

size_t InPlace::clear(const Id128& space, uint64_t generation) {
    std::lock_guard lock(mutex_);
    uint64_t& known = generations_[space];
    if (generation <= known) return 0;
    known = generation;
    if (!protection_on(Protection::generation)) return 0;
    std::vector<Page*> gone;
    for (auto& [digest, page] : pages_) {
        if (page.space == space && page.generation < generation) gone.push_back(&page);
    }
    for (Page* page : gone) take(page);
    return gone.size();
}

// ---- the directory

std::vector<Published> InPlace::records(std::span<const Id128> digests) const {
    std::lock_guard lock(mutex_);
    std::vector<Published> out;
    for (const Id128& d : digests) {
        auto at = pages_.find(d);
        if (at != pages_.end()) out.push_back(published(at->second));
    }
    return out;
}

std::vector<uint32_t> InPlace::confirm(std::span<const Id128> digests) {
    std::lock_guard lock(mutex_);
    std::vector<uint32_t> gone;
    for (size_t i = 0; i < digests.size(); ++i) {
        Page* page = live(digests[i]);
        if (page != nullptr) {
            page->published = true;
        } else {
            gone.push_back(static_cast<uint32_t>(i));
        }
    }
    return gone;
}

void InPlace::enqueue(std::span<const Id128> digests) {
    std::lock_guard lock(mutex_);
    queue_.insert(queue_.end(), digests.begin(), digests.end());
}

void InPlace::enqueue_all() {
    std::lock_guard lock(mutex_);
    queue_.clear();
    for (const auto& [digest, page] : pages_) queue_.push_back(digest);
}

std::vector<Published> InPlace::take_unpublished(size_t most) {
    std::lock_guard lock(mutex_);
    std::vector<Published> out;
    while (!queue_.empty() && out.size() < most) {
        const Page* page = live(queue_.back());
        queue_.pop_back();
        if (page != nullptr) out.push_back(published(*page));
    }
    return out;
}

std::vector<Published> InPlace::take_unpublish(size_t most) {
    std::lock_guard lock(mutex_);
    size_t n = std::min(most, unpublish_.size());
    std::vector<Published> out(std::make_move_iterator(unpublish_.end() - static_cast<ptrdiff_t>(n)),
                               std::make_move_iterator(unpublish_.end()));
    unpublish_.resize(unpublish_.size() - n);
    return out;
}

InPlaceStats InPlace::stats() const {
    std::lock_guard lock(mutex_);
    InPlaceStats s = counts_;
    s.pages = pages_.size();
    s.queued = queue_.size();
    s.unpublishing = unpublish_.size();
    return s;
}

}  // namespace tent::store
