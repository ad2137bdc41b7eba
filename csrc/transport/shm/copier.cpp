#include "transport/shm/copier.h"

#include <errno.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include <cstring>
#include <optional>

#include "base/switches.h"

namespace tent::transport::shm {
namespace {

constexpr uint64_t kChunk = 1 << 20;          // between two looks at `cancelled`
constexpr uint64_t kHashedChunk = 128 << 10;  // and small enough to be in a core's cache after it was copied

bool process_alive(int pidfd) {
    if (pidfd < 0) return true;
    pollfd p{pidfd, POLLIN, 0};
    return poll(&p, 1, 0) == 0;
}

Status pull(const CopyJob& job, const CopyPart& part, Leaves::Walk* walk) {
    uint64_t at = 0, chunk = walk == nullptr ? kChunk : kHashedChunk;
    while (at < part.length) {
        if (job.cancelled.load(std::memory_order_relaxed)) return {Code::cancelled, "given up"};
        uint64_t n = std::min(chunk, part.length - at);
        iovec local{part.to + at, n};
        iovec remote{const_cast<uint8_t*>(part.from) + at, n};
        ssize_t got = process_vm_readv(job.pid, &local, 1, &remote, 1, 0);
        if (got <= 0) {
            return {Code::link_failed,
                    std::string("process_vm_readv: ") + (got == 0 ? "nothing read" : strerror(errno))};
        }
        if (walk != nullptr) walk->copied(part.to + at, part.to + at, static_cast<uint64_t>(got));
        at += static_cast<uint64_t>(got);
    }
    return Status::good();
}

// What is hashed is what arrived: the source may be changing meanwhile.
Status copy_hashed(const CopyJob& job, const CopyPart& part, Leaves::Walk& walk) {
    const uint8_t* local = job.op == Op::read ? part.to : part.from;
    for (uint64_t at = 0; at < part.length; at += kHashedChunk) {
        if (at != 0 && job.cancelled.load(std::memory_order_relaxed)) return {Code::cancelled, "given up"};
        uint64_t n = std::min(kHashedChunk, part.length - at);
        std::memcpy(part.to + at, part.from + at, n);
        walk.copied(local + at, part.to + at, n);
    }
    return Status::good();
}

Status copy(const CopyJob& job, const CopyPart& part, Leaves::Walk* walk) {
    if (job.pid != 0) return pull(job, part, walk);
    if (walk != nullptr) return copy_hashed(job, part, *walk);
    for (uint64_t at = 0; at < part.length; at += kChunk) {
        if (at != 0 && job.cancelled.load(std::memory_order_relaxed)) return {Code::cancelled, "given up"};
        std::memcpy(part.to + at, part.from + at, std::min(kChunk, part.length - at));
    }
    return Status::good();
}

// Is the foreign segment still granted, and its extent still the one that was meant?
Status granted(const CopyPart& part) {
    if (part.face == nullptr) return Status::good();
    if (protection_on(Protection::grant) && part.face->alive.load(std::memory_order_seq_cst) == 0) {
        return {Code::segment_gone,
                "segment " + std::to_string(part.segment) + " was unregistered by its owner"};
    }
    if (part.epoch != 0 && part.extent < part.face->extents && protection_on(Protection::epoch) &&
        part.face->epochs[part.extent].load(std::memory_order_seq_cst) != part.epoch) {
        return {Code::stale_epoch, "the extent was reused"};
    }
    return Status::good();
}

Status run_part(CopyJob& job, const CopyPart& part, Leaves::Walk* walk) {
    Status s = granted(part);
    if (!s.ok()) {
        job.refused = true;
        return s;
    }
    s = copy(job, part, walk);
    if (!s.ok()) return s;
    std::atomic_thread_fence(std::memory_order_acquire);
    s = granted(part);
    if (!s.ok()) job.refused = true;
    return s;
}

}  // namespace

void run_copy(CopyJob& job) {
    if (job.pid != 0 && !process_alive(job.pidfd)) {
        job.status = {Code::peer_dead, "the peer's process is gone"};
        return;
    }
    std::optional<Leaves::Walk> walk;
    if (job.leaves) walk.emplace(*job.leaves);
    uint32_t held = kNoId, slot = 0;
    for (const CopyPart& part : job.parts) {
        if (job.cancelled.load(std::memory_order_relaxed)) {
            job.status = {Code::cancelled, "given up"};
            break;
        }
        if (part.face != nullptr && job.hazards != nullptr && held != part.segment) {
            if (held != kNoId) job.hazards->release(slot);
            slot = job.hazards->acquire(part.segment);
            held = part.segment;
        }
        job.status = run_part(job, part, walk ? &*walk : nullptr);
        if (!job.status.ok()) {
            job.bad_piece = part.piece;
            break;
        }
    }
    if (held != kNoId) job.hazards->release(slot);
    if (job.status.ok() && job.pid != 0 && !process_alive(job.pidfd)) {
        job.status = {Code::peer_dead, "the peer's process ended while it was read"};
    }
}

Copier::Copier(int threads, std::function<void()> done) : wake_(std::move(done)) {
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
}

Copier::~Copier() {
    stop();
}

void Copier::stop() {
    {
        std::lock_guard lock(mutex_);
        stop_ = true;
        warming_.clear();
    }
    work_cv_.notify_all();
    for (std::thread& t : threads_) {
        if (t.joinable()) t.join();
    }
    while (help()) {
    }
}

void Copier::submit(std::shared_ptr<CopyJob> job, bool helper_waits) {
    bool wake;
    {
        std::lock_guard lock(mutex_);
        jobs_.push_back(std::move(job));
        waiting_.store(jobs_.size(), std::memory_order_relaxed);
        wake = !helper_waits || jobs_.size() > 1;
    }
    if (wake) work_cv_.notify_one();
}

void Copier::finish(std::shared_ptr<CopyJob> job) {
    {
        std::lock_guard lock(done_mutex_);
        done_.push_back(std::move(job));
        done_count_.store(done_.size(), std::memory_order_release);
    }
    wake_();
}

bool Copier::help() {
    if (waiting_.load(std::memory_order_relaxed) == 0) return false;
    std::shared_ptr<CopyJob> job;
    {
        std::lock_guard lock(mutex_);
        if (jobs_.empty()) return false;
        job = std::move(jobs_.front());
        jobs_.pop_front();
        waiting_.store(jobs_.size(), std::memory_order_relaxed);
    }
    run_copy(*job);
    finish(std::move(job));
    return true;
}

void Copier::work() {
    std::unique_lock lock(mutex_);
    for (;;) {
        work_cv_.wait(lock,
                      [this] { return stop_ || !jobs_.empty() || !tasks_.empty() || !warming_.empty(); });
        if (!tasks_.empty()) {
            std::function<void()> task = std::move(tasks_.front());
            tasks_.pop_front();
            lock.unlock();
            task();
            lock.lock();
            continue;
        }
        if (jobs_.empty()) {
            if (stop_) return;
            warm_some(lock);
            continue;
        }
        std::shared_ptr<CopyJob> job = std::move(jobs_.front());
        jobs_.pop_front();
        waiting_.store(jobs_.size(), std::memory_order_relaxed);
        lock.unlock();
        run_copy(*job);
        finish(std::move(job));
        lock.lock();
    }
}

void Copier::warm(std::weak_ptr<const void> of, uint8_t* address, uint64_t bytes, bool writable) {
    {
        std::lock_guard lock(mutex_);
        if (stop_) return;
        std::shared_ptr<const void> kept = protection_on(Protection::warming) ? nullptr : of.lock();
        warming_.push_back({std::move(of), std::move(kept), address, bytes, writable});
    }
    work_cv_.notify_one();
}

// A piece at a time, so that a copy that comes meanwhile need not wait for long. Nothing is lost where the
// kernel (before Linux 5.14) does not know how.
void Copier::warm_some(std::unique_lock<std::mutex>& lock) {
#ifdef MADV_POPULATE_WRITE
    constexpr uint64_t kPiece = 512 << 10;
    Warming w = std::move(warming_.front());
    warming_.pop_front();
    lock.unlock();
    uint64_t n = std::min(w.left, kPiece);
    int advice = w.writable ? MADV_POPULATE_WRITE : MADV_POPULATE_READ;
    std::shared_ptr<const void> keep = w.of.lock();  // its owner waits for one piece at most
    bool more = keep && madvise(w.at, n, advice) == 0 && w.left > n;
    w.at += n;
    w.left -= n;
    keep.reset();  // outside the lock: it may be the last to hold the mapping
    lock.lock();
    if (more) warming_.push_front(std::move(w));
#else
    (void)lock;
    warming_.clear();
#endif
}

void Copier::parallel(size_t n, const std::function<void(size_t)>& fn) {
    struct Shared {
        std::atomic<size_t> next{0}, finished{0};
    };
    auto shared = std::make_shared<Shared>();
    // The function is only touched for an index below n, hence before the caller's wait ends.
    auto body = [shared, n, &fn] {
        for (size_t i; (i = shared->next.fetch_add(1)) < n;) {
            fn(i);
            if (shared->finished.fetch_add(1) + 1 == n) shared->finished.notify_all();
        }
    };
    size_t extra = std::min(threads_.size(), n > 1 ? n - 1 : 0);
    if (extra > 0) {
        std::lock_guard lock(mutex_);
        for (size_t i = 0; i < extra && !stop_; ++i) tasks_.emplace_back(body);
    }
    for (size_t i = 0; i < extra; ++i) work_cv_.notify_one();
    body();
    for (size_t f = shared->finished.load(); f < n; f = shared->finished.load()) shared->finished.wait(f);
}

std::shared_ptr<CopyJob> Copier::take_done() {
    if (!has_done()) return nullptr;
    std::lock_guard lock(done_mutex_);
    if (done_.empty()) return nullptr;
    std::shared_ptr<CopyJob> job = std::move(done_.front());
    done_.pop_front();
    done_count_.store(done_.size(), std::memory_order_release);
    return job;
}

}  // namespace tent::transport::shm
