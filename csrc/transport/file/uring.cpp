// io_uring by raw system calls. One thread owns the ring: it hands operations to the kernel and reaps them,
// so that whoever submits never enters the kernel for longer than it takes to wake that thread.
#include <linux/io_uring.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "base/unique_fd.h"
#include "transport/file/file.h"

namespace tent::transport::file {
namespace {

constexpr unsigned kEntries = 64;
constexpr uint64_t kWake = UINT64_MAX;  // user data of the read that wakes the thread

struct Mapping {
    void* at = MAP_FAILED;
    size_t bytes = 0;
    bool map(int fd, size_t size, off_t what) {
        bytes = size;
        at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, what);
        return at != MAP_FAILED && madvise(at, size, MADV_DONTFORK) == 0;
    }
    ~Mapping() {
        if (at != MAP_FAILED) munmap(at, bytes);
    }
    Mapping() = default;
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    template <class T>
    T* as(uint32_t offset) const {
        return reinterpret_cast<T*>(static_cast<uint8_t*>(at) + offset);
    }
};

bool knows_operations(int ring) {
    constexpr unsigned kOps = IORING_OP_WRITE + 1;
    std::vector<uint8_t> room(sizeof(io_uring_probe) + kOps * sizeof(io_uring_probe_op));
    auto* probe = reinterpret_cast<io_uring_probe*>(room.data());
    if (syscall(SYS_io_uring_register, ring, IORING_REGISTER_PROBE, probe, kOps) != 0) return false;
    for (unsigned op : {IORING_OP_READ, IORING_OP_WRITE, IORING_OP_FSYNC}) {
        if (op > probe->last_op || (probe->ops[op].flags & IO_URING_OP_SUPPORTED) == 0) return false;
    }
    return true;
}

// The kernel's two rings and the operations under way. Outlives a thread that a stuck disk does not let go.
struct Ring {
    UniqueFd fd, wake, ring;
    io_uring_params params{};
    Mapping sq, cq, sqes;
    std::mutex mutex;
    std::condition_variable ended_changed;
    std::deque<BlockOp> reads, writes;
    bool closed = false, ended = false;
    // The thread's alone from here on.
    std::vector<BlockOp> under_way;
    std::vector<uint64_t> moved;  // by slot of `under_way`: bytes that came before a short answer
    std::vector<uint32_t> free;
    uint64_t news = 0;
    unsigned unsubmitted = 0;

    bool open(int file) {
        int made = static_cast<int>(syscall(SYS_io_uring_setup, kEntries, &params));
        if (made < 0) return false;
        ring = UniqueFd(made);
        if (!knows_operations(made)) return false;
        fd = UniqueFd(dup(file));
        wake = UniqueFd(eventfd(0, EFD_CLOEXEC));
        if (!fd || !wake) return false;
        size_t sq_bytes = params.sq_off.array + params.sq_entries * sizeof(uint32_t);
        size_t cq_bytes = params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe);
        for (uint32_t i = 0; i + 1 < params.sq_entries; ++i) free.push_back(i);  // one is for the wake-up
        under_way.resize(free.size());
        moved.resize(free.size());
        return sq.map(made, sq_bytes, IORING_OFF_SQ_RING) && cq.map(made, cq_bytes, IORING_OFF_CQ_RING) &&
               sqes.map(made, params.sq_entries * sizeof(io_uring_sqe), IORING_OFF_SQES);
    }

    io_uring_sqe& next_entry() {
        uint32_t tail = *sq.as<uint32_t>(params.sq_off.tail);
        uint32_t at = tail & *sq.as<uint32_t>(params.sq_off.ring_mask);
        io_uring_sqe& e = *sqes.as<io_uring_sqe>(static_cast<uint32_t>(at * sizeof(io_uring_sqe)));
        std::memset(&e, 0, sizeof e);
        sq.as<uint32_t>(params.sq_off.array)[at] = at;
        return e;
    }
    void push() {
        auto* tail = sq.as<uint32_t>(params.sq_off.tail);
        std::atomic_ref<uint32_t>(*tail).store(*tail + 1, std::memory_order_release);
        ++unsubmitted;
    }
    void arm_wake() {
        io_uring_sqe& e = next_entry();
        e.opcode = IORING_OP_READ;
        e.fd = wake.get();
        e.addr = reinterpret_cast<uint64_t>(&news);
        e.len = sizeof news;
        e.user_data = kWake;
        push();
    }
    void post(uint32_t slot) {
        const BlockOp& op = under_way[slot];
        io_uring_sqe& e = next_entry();
        e.fd = fd.get();
        e.user_data = slot;
        if (op.kind == BlockKind::sync) {
            e.opcode = IORING_OP_FSYNC;
            e.fsync_flags = IORING_FSYNC_DATASYNC;
        } else {
            e.opcode = op.kind == BlockKind::read ? IORING_OP_READ : IORING_OP_WRITE;
            e.addr = reinterpret_cast<uint64_t>(op.memory + moved[slot]);
            e.len = static_cast<uint32_t>(op.bytes - moved[slot]);
            e.off = op.offset + moved[slot];
        }
        push();
    }
    // Everything that waits and finds a slot. False: closed, and nothing is left.
    bool take() {
        std::lock_guard lock(mutex);
        while (!free.empty() && !(reads.empty() && writes.empty())) {
            std::deque<BlockOp>& from = reads.empty() ? writes : reads;
            uint32_t slot = free.back();
            free.pop_back();
            under_way[slot] = std::move(from.front());
            moved[slot] = 0;
            from.pop_front();
            post(slot);
        }
        return !closed || free.size() < under_way.size();
    }
    void answered(uint32_t slot, int32_t result) {
        BlockOp& op = under_way[slot];
        if (result == -EINTR || result == -EAGAIN) return post(slot);
        if (result > 0 && op.kind != BlockKind::sync) {
            moved[slot] += static_cast<uint64_t>(result);
            if (moved[slot] < op.bytes) return post(slot);
        }
        Status status = outcome(op, result < 0 ? int64_t{result} : static_cast<int64_t>(moved[slot]));
        BlockOp done = std::move(op);
        op = {};
        free.push_back(slot);
        done.done(status);
    }
    void reap() {
        auto* head = cq.as<uint32_t>(params.cq_off.head);
        auto* tail = cq.as<uint32_t>(params.cq_off.tail);
        uint32_t mask = *cq.as<uint32_t>(params.cq_off.ring_mask);
        while (*head != std::atomic_ref<uint32_t>(*tail).load(std::memory_order_acquire)) {
            io_uring_cqe answer = cq.as<io_uring_cqe>(params.cq_off.cqes)[*head & mask];
            std::atomic_ref<uint32_t>(*head).store(*head + 1, std::memory_order_release);
            if (answer.user_data == kWake) {
                arm_wake();
            } else {
                answered(static_cast<uint32_t>(answer.user_data), answer.res);
            }
        }
    }
    void run() {
        arm_wake();
        while (take()) {
            long sent =
                syscall(SYS_io_uring_enter, ring.get(), unsubmitted, 1, IORING_ENTER_GETEVENTS, nullptr, 0);
            if (sent > 0) unsubmitted -= static_cast<unsigned>(sent);
            if (sent < 0 && errno != EINTR) usleep(1000);  // the kernel is short of something
            reap();
        }
        std::lock_guard lock(mutex);
        ended = true;
        ended_changed.notify_all();
    }
    void ring_bell() {
        uint64_t one = 1;
        (void)!write(wake.get(), &one, sizeof one);
    }
};

class Uring final : public Runner {
  public:
    explicit Uring(std::shared_ptr<Ring> ring) : ring_(std::move(ring)) {
        thread_ = std::thread([shared = ring_] { shared->run(); });
    }
    ~Uring() override { Uring::close(); }

    void submit(BlockOp op) override {
        {
            std::lock_guard lock(ring_->mutex);
            if (!ring_->closed) {
                (op.kind == BlockKind::read ? ring_->reads : ring_->writes).push_back(std::move(op));
                ring_->ring_bell();
                return;
            }
        }
        op.done({Code::closed, "the file was closed"});
    }
    bool close() override {
        if (!thread_.joinable()) return ended_;
        // The last operation may be what drops the last reference to us.
        bool own = thread_.get_id() == std::this_thread::get_id();
        bool ended;
        {
            std::unique_lock lock(ring_->mutex);
            ring_->closed = true;
            ring_->ring_bell();
            ended = !own && ring_->ended_changed.wait_for(lock, std::chrono::nanoseconds(kCloseWait),
                                                          [&] { return ring_->ended; });
        }
        if (ended) {
            thread_.join();
        } else {
            thread_.detach();
        }
        return ended_ = ended;
    }
    const char* name() const override { return "io_uring"; }

  private:
    std::shared_ptr<Ring> ring_;
    std::thread thread_;
    bool ended_ = false;
};

}  // namespace

std::shared_ptr<Runner> run_by_uring(int fd) {
    auto ring = std::make_shared<Ring>();
    if (!ring->open(fd)) return nullptr;
    return std::make_shared<Uring>(std::move(ring));
}

}  // namespace tent::transport::file
