// A few threads that read and write. Reads go first: somebody waits for them.
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "base/unique_fd.h"
#include "transport/file/file.h"

namespace tent::transport::file {
namespace {

constexpr size_t kThreads = 4;

// What the threads share; it outlives a thread that a stuck disk does not let go.
struct Shared {
    UniqueFd fd;
    std::mutex mutex;
    std::condition_variable work, ended;
    std::deque<BlockOp> reads, writes;
    size_t running = kThreads;
    size_t writing = 0;
    bool closed = false;
};

int64_t carry_out(int fd, const BlockOp& op) {
    if (op.kind == BlockKind::sync) return fdatasync(fd) == 0 ? 0 : -errno;
    size_t done = 0;
    while (done < op.bytes) {
        off_t at = static_cast<off_t>(op.offset + done);
        ssize_t n = op.kind == BlockKind::read ? pread(fd, op.memory + done, op.bytes - done, at)
                                               : pwrite(fd, op.memory + done, op.bytes - done, at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -errno;
        if (n == 0) break;
        done += static_cast<size_t>(n);
    }
    return static_cast<int64_t>(done);
}

// Writes take all threads but one: a read finds one free.
bool ready(const Shared& s) {
    return !s.reads.empty() || (!s.writes.empty() && s.writing + 1 < kThreads);
}

void run(const std::shared_ptr<Shared>& s) {
    std::unique_lock lock(s->mutex);
    for (;;) {
        s->work.wait(lock, [&] { return ready(*s) || (s->closed && s->writes.empty()); });
        if (!ready(*s)) break;
        std::deque<BlockOp>& from = s->reads.empty() ? s->writes : s->reads;
        bool write = &from == &s->writes;
        BlockOp op = std::move(from.front());
        from.pop_front();
        s->writing += write;
        lock.unlock();
        op.done(outcome(op, carry_out(s->fd.get(), op)));
        op = {};
        lock.lock();
        s->writing -= write;
        s->work.notify_all();
    }
    --s->running;
    s->ended.notify_all();
}

class Threads final : public Runner {
  public:
    explicit Threads(UniqueFd fd) : shared_(std::make_shared<Shared>()) {
        shared_->fd = std::move(fd);
        for (size_t i = 0; i < kThreads; ++i) threads_.emplace_back(run, shared_);
    }
    ~Threads() override { Threads::close(); }

    void submit(BlockOp op) override {
        {
            std::lock_guard lock(shared_->mutex);
            if (!shared_->closed) {
                (op.kind == BlockKind::read ? shared_->reads : shared_->writes).push_back(std::move(op));
                shared_->work.notify_one();
                return;
            }
        }
        op.done({Code::closed, "the file was closed"});
    }
    bool close() override {
        if (threads_.empty()) return ended_;
        // The last operation may be what drops the last reference to us.
        bool own = std::any_of(threads_.begin(), threads_.end(),
                               [](const std::thread& t) { return t.get_id() == std::this_thread::get_id(); });
        bool all;
        {
            std::unique_lock lock(shared_->mutex);
            shared_->closed = true;
            shared_->work.notify_all();
            all = !own && shared_->ended.wait_for(lock, std::chrono::nanoseconds(kCloseWait),
                                                  [&] { return shared_->running == 0; });
        }
        for (std::thread& t : threads_) {
            if (all) {
                t.join();
            } else {
                t.detach();
            }
        }
        threads_.clear();
        return ended_ = all;
    }
    const char* name() const override { return "threads"; }

  private:
    std::shared_ptr<Shared> shared_;
    std::vector<std::thread> threads_;
    bool ended_ = false;
};

}  // namespace

std::shared_ptr<Runner> run_by_threads(int fd) {
    return std::make_shared<Threads>(UniqueFd(dup(fd)));
}

}  // namespace tent::transport::file
