#include "store/disk.h"

#include <sys/mman.h>

#include <algorithm>

#include "base/log.h"
#include "base/switches.h"

namespace tent::store {
namespace {

constexpr size_t kMaxUnpublish = 65536;  // beyond it, records are left to whoever meets them
constexpr uint32_t kExpireStep = 65536;  // entries looked at in one tend()
constexpr size_t kTablesAtOnce = 4;
constexpr size_t kMaxSpaces = 65536;

}  // namespace

Blocks::Blocks(size_t bytes) : bytes_((bytes + kBlock - 1) / kBlock * kBlock) {
    void* p = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return;
    madvise(p, bytes_, MADV_DONTFORK);  // the disk writes into it
    at_ = static_cast<uint8_t*>(p);
}

Blocks::~Blocks() {
    if (at_ != nullptr) munmap(at_, bytes_);
}

Disk::Disk(const DiskConfig& config, std::shared_ptr<BlockIo> io, const DiskHead& head)
    : config_(config),
      io_(std::move(io)),
      head_(head),
      table_bytes_(disk_table_bytes(head.extent_bytes)),
      index_(head.extents * disk_most_slots(head.extent_bytes), head.extents),
      extents_(head.extents),
      buffers_(std::max<size_t>(2, config.buffers)) {}

// ---- small things, mutex held

uint32_t Disk::space_of(const Id128& digest) {
    auto [at, fresh] = space_numbers_.try_emplace(digest, static_cast<uint32_t>(spaces_.size()));
    if (!fresh) return at->second;
    if (spaces_.size() >= kMaxSpaces) {
        space_numbers_.erase(at);
        return kNoId;
    }
    spaces_.push_back({digest, 0, true});
    return at->second;
}

bool Disk::visible(const DiskEntry& e, Nanos now) const {
    const Space& space = spaces_[e.space];
    bool current = space.confirmed && e.generation >= space.generation;
    return (current || !protection_on(Protection::generation)) && (e.expires == 0 || e.expires > now);
}

DiskPage Disk::page_of(const DiskEntry& e) const {
    return {e.digest, e.version, spaces_[e.space].digest, e.generation, e.length, e.check, e.expires};
}

Bytes Disk::record_of(const DiskEntry& e) const {
    Record record;
    record.generation = e.generation;
    record.version = e.version;
    record.length = e.length;
    record.check = e.check;
    record.replica_count = 1;
    record.replicas[0] = {config_.node, config_.incarnation,      kDiskSegment,
                          e.extent,     extents_[e.extent].epoch, e.offset};
    Bytes out;
    encode_record(record, out);
    return out;
}

void Disk::drop(uint32_t id) {
    DiskEntry& e = index_.at(id);
    if (e.shown && unpublish_.size() < kMaxUnpublish) unpublish_.emplace_back(e.digest, record_of(e));
    extents_[e.extent].bytes -= e.length;
    extents_[e.extent].dirty = true;
    index_.erase(id);
}

void Disk::drop_extent(uint32_t extent) {
    while (index_.first(extent) != kNoPage) drop(index_.first(extent));
}

void Disk::failed(uint32_t extent, const Status& why) {
    if (why.code() == Code::closed || counts_.off) return;
    Extent& e = extents_[extent];
    if (e.state == State::bad) return;
    size_t before = index_.size();
    drop_extent(extent);
    counts_.lost += before - index_.size();
    e.state = State::bad;
    ++counts_.bad_extents;
    if (why.code() == Code::no_space) {  // the extent has no blocks, which is no fault of the disk's
        if (counts_.no_space++ == 0)
            log(LogLevel::warning, config_.path + ": " + why.message() + "; fewer pages are kept on disk");
        return;
    }
    ++counts_.errors;
    if (counts_.errors >= config_.max_errors) turn_off(why);
}

void Disk::turn_off(const Status& why) {
    counts_.off = true;
    for (uint32_t i = 0; i < extents_.size(); ++i) drop_extent(i);
    log(LogLevel::error, config_.path + " failed " + std::to_string(counts_.errors) + " times (" +
                             why.message() + "): no pages are kept on disk until this process starts again");
}

// ---- finding

bool Disk::find(const Id128& digest, Nanos now, DiskPage* out) const {
    std::lock_guard lock(mutex_);
    uint32_t id = index_.find(digest);
    if (id == kNoPage || !visible(index_.at(id), now)) return false;
    if (out != nullptr) *out = page_of(index_.at(id));
    return true;
}

Bytes Disk::record(const Id128& digest, Nanos now, DiskPage* out) {
    std::lock_guard lock(mutex_);
    uint32_t id = index_.find(digest);
    if (id == kNoPage || !visible(index_.at(id), now)) return {};
    *out = page_of(index_.at(id));
    index_.at(id).shown = true;
    return record_of(index_.at(id));
}

std::vector<Id128> Disk::digests(Nanos now) const {
    std::lock_guard lock(mutex_);
    std::vector<Id128> out;
    for (uint32_t id = 0; id < index_.slots(); ++id) {
        if (index_.at(id).used && visible(index_.at(id), now)) out.push_back(index_.at(id).digest);
    }
    return out;
}

// ---- going

void Disk::remove(const Id128& digest) {
    std::lock_guard lock(mutex_);
    uint32_t id = index_.find(digest);
    if (id != kNoPage) drop(id);
}

size_t Disk::clear(const Id128& space, uint64_t generation) {
    std::lock_guard lock(mutex_);
    uint32_t s = space_of(space);
    if (s == kNoId || generation <= spaces_[s].generation) return 0;
    spaces_[s].generation = generation;
    if (!protection_on(Protection::generation)) return 0;
    size_t gone = 0;
    for (uint32_t id = 0; id < index_.slots(); ++id) {
        const DiskEntry& e = index_.at(id);
        if (!e.used || e.space != s || e.generation >= generation) continue;
        drop(id);
        ++gone;
    }
    return gone;
}

std::vector<std::pair<Id128, Bytes>> Disk::take_unpublish(size_t most) {
    std::lock_guard lock(mutex_);
    size_t n = std::min(most, unpublish_.size());
    std::vector<std::pair<Id128, Bytes>> out(
        std::make_move_iterator(unpublish_.end() - static_cast<ptrdiff_t>(n)),
        std::make_move_iterator(unpublish_.end()));
    unpublish_.resize(unpublish_.size() - n);
    return out;
}

// ---- after a restart

std::vector<std::pair<Id128, uint64_t>> Disk::unconfirmed() const {
    std::lock_guard lock(mutex_);
    std::vector<std::pair<Id128, uint64_t>> out;
    for (const Space& s : spaces_) {
        if (!s.confirmed) out.emplace_back(s.digest, s.generation);
    }
    return out;
}

std::vector<Id128> Disk::confirm(const Id128& space, uint64_t generation) {
    clear(space, generation);
    std::lock_guard lock(mutex_);
    std::vector<Id128> out;
    auto at = space_numbers_.find(space);
    if (at == space_numbers_.end() || spaces_[at->second].confirmed) return out;
    spaces_[at->second].confirmed = true;
    for (uint32_t id = 0; id < index_.slots(); ++id) {
        if (index_.at(id).used && index_.at(id).space == at->second) out.push_back(index_.at(id).digest);
    }
    return out;
}

// ---- housekeeping

void Disk::tend(Nanos now) {
    Lock lock(mutex_);
    if (expiring_) {
        uint32_t end = static_cast<uint32_t>(std::min<size_t>(index_.slots(), expired_to_ + kExpireStep));
        for (; expired_to_ < end; ++expired_to_) {
            const DiskEntry& e = index_.at(expired_to_);
            if (e.used && e.expires != 0 && e.expires <= now) drop(expired_to_);
        }
        if (expired_to_ >= index_.slots()) expired_to_ = 0;
    }
    if (!closed_ && !counts_.off) {
        size_t some = 0;
        for (uint32_t i = 0; i < extents_.size() && some < kTablesAtOnce; ++i) {
            if (extents_[i].state != State::sealed || !extents_[i].dirty || extents_[i].users > 0) continue;
            rewrite_table(i);
            ++some;
        }
    }
    send(lock);
}

DiskStats Disk::stats() const {
    std::lock_guard lock(mutex_);
    DiskStats s = counts_;
    s.capacity = head_.extents * head_.extent_bytes;
    for (const Extent& e : extents_) s.used += e.bytes;
    s.pages = index_.size();
    for (const Buffer& b : buffers_) s.writing += b.extent != kNoId && b.sealed;
    s.memory = index_.memory() + extents_.size() * sizeof(Extent);
    return s;
}

}  // namespace tent::store
