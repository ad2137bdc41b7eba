// How pages get to the disk: gathered in buffers, one extent at a time, the table behind the pages.
#include <algorithm>
#include <chrono>

#include "store/disk.h"

namespace tent::store {
namespace {

constexpr size_t kPiece = 1 << 20;  // bytes of one write
constexpr size_t kWindow = 4;       // writes at a time: reads are not to wait behind more
constexpr uint64_t kAlign = 64;

}  // namespace

void Disk::offer(std::span<const DiskOffer> pages) {
    Lock lock(mutex_);
    for (const DiskOffer& page : pages) {
        if (closed_ || counts_.off) break;
        if (!take(page, lock)) ++counts_.dropped;
    }
    send(lock);
}

bool Disk::wait_buffer(Nanos patience) {
    Lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::nanoseconds(patience), [&] {
        return closed_ || counts_.off || filling_ != SIZE_MAX ||
               std::any_of(buffers_.begin(), buffers_.end(),
                           [](const Buffer& b) { return b.extent == kNoId && b.users == 0; });
    });
}

// False: there was no room, since the disk is behind.
bool Disk::take(const DiskOffer& offer, Lock& lock) {
    const DiskPage& p = offer.page;
    if (uint32_t there = index_.find(p.digest); there != kNoPage) {
        if (index_.at(there).version == p.version) return true;
        drop(there);
    }
    uint32_t space = space_of(p.space);
    if (space == kNoId || p.generation < spaces_[space].generation) return true;
    uint64_t need = (p.length + kAlign - 1) / kAlign * kAlign;
    if (p.length == 0 || need > head_.extent_bytes - table_bytes_) {
        ++counts_.too_large;
        return true;
    }
    auto fits = [&] {
        const Buffer& b = buffers_[filling_];
        return b.fill + need <= head_.extent_bytes && b.slots < disk_most_slots(head_.extent_bytes);
    };
    if (filling_ != SIZE_MAX && !fits()) seal();
    if (filling_ == SIZE_MAX && !next_buffer(offer.read)) return false;
    size_t n = filling_;
    Buffer& b = buffers_[n];
    DiskEntry e;
    e.digest = p.digest;
    e.version = p.version;
    e.check = p.check;
    e.generation = p.generation;
    e.expires = p.expires;
    e.offset = static_cast<uint32_t>(b.fill);
    e.length = static_cast<uint32_t>(p.length);
    e.extent = b.extent;
    e.space = space;
    b.fill += need;
    ++b.slots;
    ++b.users;
    lock.unlock();
    std::memcpy(b.memory->at() + e.offset, offer.bytes, p.length);
    lock.lock();
    expiring_ |= p.expires != 0;
    if (!counts_.off && index_.find(p.digest) == kNoPage && index_.insert(e) != kNoPage) {
        extents_[e.extent].bytes += e.length;
        ++counts_.written;
        counts_.written_bytes += e.length;
    }
    release(n);
    return true;
}

// A free buffer and an extent for it. For pages that nobody read one of the buffers is left alone.
bool Disk::next_buffer(bool wanted) {
    size_t idle = 0, found = SIZE_MAX;
    for (size_t i = 0; i < buffers_.size(); ++i) {
        if (buffers_[i].extent != kNoId || buffers_[i].users > 0) continue;
        ++idle;
        found = i;
    }
    if (idle < (wanted ? 1 : 2)) return false;
    Buffer& b = buffers_[found];
    if (b.memory == nullptr) {
        auto memory = std::make_unique<Blocks>(head_.extent_bytes);
        if (memory->at() == nullptr) return false;
        b.memory = std::move(memory);
    }
    uint32_t extent = next_extent();
    if (extent == kNoId) return false;
    std::unique_ptr<Blocks> memory = std::move(b.memory);
    b = {};
    b.memory = std::move(memory);
    b.extent = extent;
    b.fill = table_bytes_;
    filling_ = found;
    Extent& e = extents_[extent];
    size_t before = index_.size();
    drop_extent(extent);
    counts_.evicted += before - index_.size();
    e.state = State::filling;
    e.buffer = found;
    ++e.epoch;
    return true;
}

// One that was never used, else the one that was written longest ago. What is read is in memory by then, and
// comes back from there.
uint32_t Disk::next_extent() {
    uint32_t best = kNoId;
    for (uint32_t i = 0; i < extents_.size(); ++i) {
        const Extent& e = extents_[i];
        if (e.users > 0 || (e.state != State::free && e.state != State::sealed)) continue;
        if (e.state == State::free || index_.first(i) == kNoPage) return i;
        if (best == kNoId || e.written < extents_[best].written) best = i;
    }
    return best;
}

void Disk::seal() {
    size_t n = filling_;
    filling_ = SIZE_MAX;
    buffers_[n].sealed = true;
    extents_[buffers_[n].extent].state = State::writing;
    ++buffers_[n].users;
    release(n);
}

// Whoever copied into or read out of the buffer is done.
void Disk::release(size_t buffer) {
    Buffer& b = buffers_[buffer];
    if (--b.users > 0 || !b.sealed || b.phase != Phase::idle || b.extent == kNoId) return;
    b.phase = Phase::pages;
    b.sent = table_bytes_;
    Extent& e = extents_[b.extent];
    std::memset(b.memory->at(), 0, kBlock);
    if (e.written != 0) {  // its old table would name what is written over now
        post(buffer, BlockKind::write, at(b.extent), b.memory->at(), kBlock);
    } else {
        go_on(buffer);
    }
}

// What follows when nothing of the buffer is under way, or there is room for more.
void Disk::go_on(size_t buffer) {
    Buffer& b = buffers_[buffer];
    if (!b.worst.ok()) {
        if (b.under_way == 0) finish(buffer);
        return;
    }
    if (b.phase == Phase::pages) {
        uint64_t end = (b.fill + kBlock - 1) / kBlock * kBlock;
        for (; b.sent < end && b.under_way < kWindow; b.sent += kPiece) {
            post(buffer, BlockKind::write, at(b.extent) + b.sent, b.memory->at() + b.sent,
                 std::min<uint64_t>(kPiece, end - b.sent));
        }
        if (b.under_way > 0) return;
        b.phase = Phase::sync;
        post(buffer, BlockKind::sync, 0, nullptr, 0);
    } else if (b.under_way == 0 && b.phase == Phase::sync) {
        b.phase = Phase::table;
        extents_[b.extent].written = ++writes_;
        extents_[b.extent].dirty = false;
        Bytes table = table_of(b.extent);
        std::memcpy(b.memory->at(), table.data(), table.size());
        post(buffer, BlockKind::write, at(b.extent), b.memory->at(), table.size());
    } else if (b.under_way == 0) {
        finish(buffer);
    }
}

void Disk::post(size_t buffer, BlockKind kind, uint64_t offset, uint8_t* memory, size_t bytes) {
    ++buffers_[buffer].under_way;
    to_send_.push_back({kind, offset, memory, bytes, [self = shared_from_this(), buffer](const Status& s) {
                            self->on_written(buffer, s);
                        }});
}

void Disk::on_written(size_t buffer, const Status& status) {
    Lock lock(mutex_);
    Buffer& b = buffers_[buffer];
    --b.under_way;
    if (!status.ok() && b.worst.ok()) b.worst = status;
    go_on(buffer);
    send(lock);
}

// The extent is on the disk, or never will be.
void Disk::finish(size_t buffer) {
    Buffer& b = buffers_[buffer];
    Extent& e = extents_[b.extent];
    e.buffer = SIZE_MAX;
    e.state = State::sealed;
    if (!b.worst.ok()) failed(b.extent, b.worst);
    b.extent = kNoId;
    b.phase = Phase::idle;
    b.sealed = false;
    changed_.notify_all();
}

Bytes Disk::table_of(uint32_t extent) const {
    DiskTable table;
    table.file = head_.file;
    table.extent = extent;
    table.epoch = extents_[extent].epoch;
    table.written = extents_[extent].written;
    for (uint32_t id = index_.first(extent); id != kNoPage; id = index_.at(id).next) {
        const DiskEntry& e = index_.at(id);
        table.slots.push_back(
            {e.digest, e.version, spaces_[e.space].digest, e.generation, e.offset, e.length, e.check});
    }
    return encode(table, head_.extent_bytes);
}

// Pages that were removed are not to come back with the next start.
void Disk::rewrite_table(uint32_t extent) {
    auto memory = std::make_shared<Blocks>(table_bytes_);
    if (memory->at() == nullptr) return;
    Bytes table = table_of(extent);
    std::memcpy(memory->at(), table.data(), table.size());
    extents_[extent].dirty = false;
    ++extents_[extent].users;
    auto done = [self = shared_from_this(), extent, memory](const Status& s) {
        Lock lock(self->mutex_);
        --self->extents_[extent].users;
        if (!s.ok()) self->failed(extent, s);
        self->changed_.notify_all();
    };
    to_send_.push_back({BlockKind::write, at(extent), memory->at(), table.size(), std::move(done)});
}

void Disk::send(Lock& lock) {
    while (!to_send_.empty()) {
        std::vector<BlockOp> ops = std::move(to_send_);
        to_send_.clear();
        lock.unlock();
        for (BlockOp& op : ops) io_->submit(std::move(op));
        lock.lock();
    }
}

void Disk::close(Nanos patience) {
    tend(0);
    Lock lock(mutex_);
    closed_ = true;
    if (filling_ != SIZE_MAX && !counts_.off) seal();
    if (counts_.off) return;
    send(lock);
    changed_.wait_for(lock, std::chrono::nanoseconds(patience), [&] {
        return std::all_of(buffers_.begin(), buffers_.end(),
                           [](const Buffer& b) { return b.extent == kNoId; }) &&
               std::all_of(extents_.begin(), extents_.end(), [](const Extent& e) { return e.users == 0; });
    });
}

}  // namespace tent::store
