// How pages come back from the disk.
#include <algorithm>
#include <chrono>

#include "base/switches.h"
#include "store/disk.h"

namespace tent::store {
namespace {

constexpr size_t kSpare = 16;  // blocks of memory kept for the next reads

}  // namespace

std::unique_ptr<Blocks> Disk::blocks(size_t bytes) {
    for (auto& spare : spare_) {
        if (spare->bytes() < bytes || spare->bytes() > 2 * bytes) continue;
        std::unique_ptr<Blocks> found = std::move(spare);
        spare = std::move(spare_.back());
        spare_.pop_back();
        return found;
    }
    return std::make_unique<Blocks>(bytes);
}

void Disk::give_back(std::unique_ptr<Blocks> memory) {
    reading_ -= memory->bytes();
    if (spare_.size() < kSpare) spare_.push_back(std::move(memory));
}

std::shared_ptr<Disk::Read> Disk::begin(const Id128& digest, Nanos now) {
    Lock lock(mutex_);
    uint32_t id = index_.find(digest);
    if (id == kNoPage || !visible(index_.at(id), now)) return nullptr;
    const DiskEntry& e = index_.at(id);
    auto read = std::make_shared<Read>();
    read->page = page_of(e);
    read->extent = e.extent;
    if (extents_[e.extent].buffer != SIZE_MAX) {  // it is still in memory
        read->buffer = extents_[e.extent].buffer;
        ++buffers_[read->buffer].users;
        read->bytes = buffers_[read->buffer].memory->at() + e.offset;
        read->done = true;
        return read;
    }
    if (closed_ || stuck_ > 0) {
        counts_.stalled += stuck_ > 0;
        return nullptr;
    }
    uint64_t first = e.offset / kBlock * kBlock;
    uint64_t bytes = (e.offset + e.length + kBlock - 1) / kBlock * kBlock - first;
    if (reading_ > 0 && reading_ + bytes > config_.read_bytes) return nullptr;
    read->memory = blocks(bytes);
    if (read->memory->at() == nullptr) return nullptr;
    reading_ += read->memory->bytes();
    read->bytes = read->memory->at() + (e.offset - first);
    ++extents_[e.extent].users;
    to_send_.push_back({BlockKind::read, at(e.extent) + first, read->memory->at(), bytes,
                        [self = shared_from_this(), read](const Status& s) { self->on_read(read, s); }});
    send(lock);
    return read;
}

void Disk::on_read(const std::shared_ptr<Read>& read, const Status& status) {
    Lock lock(mutex_);
    --extents_[read->extent].users;
    read->status = status;
    read->done = true;  // behind it: who waited in vain may look without the lock
    ++counts_.read;
    counts_.read_bytes += read->page.length;
    if (!status.ok()) failed(read->extent, status);
    if (read->abandoned) {
        --stuck_;
        give_back(std::move(read->memory));
    }
    changed_.notify_all();
}

void Disk::wait(std::span<const std::shared_ptr<Read>> reads, Nanos patience) {
    Lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::nanoseconds(patience), [&] {
        return std::all_of(reads.begin(), reads.end(), [](const auto& read) { return read->done.load(); });
    });
}

bool Disk::wait_room(Nanos patience) {
    Lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::nanoseconds(patience),
                      [&] { return stuck_ > 0 || closed_ || reading_ == 0; });
    return stuck_ == 0 && !closed_ && reading_ == 0;
}

void Disk::end(const std::shared_ptr<Read>& read, bool good) {
    Lock lock(mutex_);
    if (!read->done) {
        read->abandoned = true;
        ++stuck_;
        return;
    }
    if (read->status.ok() && !good) {
        ++counts_.check_failed;
        uint32_t id = index_.find(read->page.digest);
        if (id != kNoPage && index_.at(id).version == read->page.version) drop(id);
    }
    if (read->buffer != SIZE_MAX) {
        release(read->buffer);
    } else if (read->memory != nullptr) {
        give_back(std::move(read->memory));
        changed_.notify_all();
    }
    send(lock);
}

bool Disk::stuck() const {
    std::lock_guard lock(mutex_);
    return stuck_ > 0;
}

}  // namespace tent::store
