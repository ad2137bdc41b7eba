// Copies between mappings (memcpy) and out of another process (process_vm_readv), by a few threads and by
// whoever waits. The one part of the shm transport that runs without the loop token.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "model/types.h"
#include "transport/shm/memory.h"
#include "transport/transport.h"

namespace tent::transport::shm {

struct CopyPart {
    uint8_t* to = nullptr;
    const uint8_t* from = nullptr;  // an address in process `pid` when that is set
    uint64_t length = 0;
    const Face* face = nullptr;  // of the foreign segment: checked before and after; nullptr: none
    uint32_t segment = 0;        // the foreign segment, for the hazard
    uint32_t extent = 0;
    uint32_t epoch = 0;  // 0: do not compare
    uint32_t piece = 0;  // index in the attempt, to name a refusal
};

struct CopyJob {
    AttemptId attempt = 0;
    void* owner = nullptr;  // who gets it back
    HazardPage* hazards = nullptr;
    pid_t pid = 0;  // != 0: `from` lies in that process
    int pidfd = -1;
    std::vector<CopyPart> parts;
    Op op = Op::read;
    std::shared_ptr<Leaves> leaves;                 // optional: told of what was copied
    std::vector<std::shared_ptr<const void>> keep;  // mappings that must outlive the copy
    std::atomic<bool> cancelled{false};
    // Results, valid once done:
    Status status;
    uint32_t bad_piece = kNoId;
    bool refused = false;  // status is about a range, not about the copying
};

// Runs a job where it is called.
void run_copy(CopyJob& job);

class Copier {
  public:
    // `done` is called from a copying thread after each job, to wake the loop.
    Copier(int threads, std::function<void()> done);
    ~Copier();
    // `helper_waits`: a caller is about to help(), so one job need not wake a thread.
    void submit(std::shared_ptr<CopyJob> job, bool helper_waits);
    // Runs one waiting job in the calling thread. False when there is none.
    bool help();
    // Runs fn(0..n-1) on the threads and the caller; returns when all have run. For checks and local copies.
    void parallel(size_t n, const std::function<void(size_t)>& fn);
    // Enters the pages of a fresh mapping into the page table, in the background and behind all copies: a
    // first write through a mapping costs several times a copy. It ends when `of`, which holds the mapping,
    // is gone.
    void warm(std::weak_ptr<const void> of, uint8_t* address, uint64_t bytes, bool writable);
    std::shared_ptr<CopyJob> take_done();
    bool has_done() const { return done_count_.load(std::memory_order_acquire) != 0; }
    int threads() const { return static_cast<int>(threads_.size()); }
    void stop();

  private:
    void work();
    void finish(std::shared_ptr<CopyJob> job);
    void warm_some(std::unique_lock<std::mutex>& lock);
    struct Warming {
        std::weak_ptr<const void> of;
        std::shared_ptr<const void> kept;  // only with the protection `warming` off
        uint8_t* at;
        uint64_t left;
        bool writable;
    };
    std::function<void()> wake_;
    std::mutex mutex_;
    std::condition_variable work_cv_;
    std::deque<std::shared_ptr<CopyJob>> jobs_;
    std::deque<std::function<void()>> tasks_;
    std::deque<Warming> warming_;
    std::mutex done_mutex_;
    std::deque<std::shared_ptr<CopyJob>> done_;
    std::atomic<size_t> done_count_{0};
    std::atomic<size_t> waiting_{0};
    std::vector<std::thread> threads_;
    bool stop_ = false;
};

}  // namespace tent::transport::shm
