#include "transport/rdma/worker.h"

#include <sys/eventfd.h>
#include <unistd.h>

namespace tent::transport::rdma {

Worker::~Worker() {
    stop();
}

Status Worker::start() {
    news_ = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!news_) return {Code::no_memory, "no eventfd: too many open files (ulimit -n)"};
    token_ = poller_.add(news_.get(), EPOLLIN, this);
    thread_ = std::thread([this] { run(); });
    return Status::good();
}

void Worker::submit(std::function<void()> work, std::function<void()> done) {
    std::lock_guard lock(mutex_);
    waiting_.push_back({std::move(work), std::move(done)});
    wake_.notify_one();
}

void Worker::run() {
    std::unique_lock lock(mutex_);
    for (;;) {
        wake_.wait(lock, [this] { return stop_ || !waiting_.empty(); });
        if (stop_) return;
        Job job = std::move(waiting_.front());
        waiting_.pop_front();
        lock.unlock();
        job.work();
        job.work = nullptr;
        lock.lock();
        finished_.push_back(std::move(job));
        uint64_t one = 1;
        [[maybe_unused]] ssize_t n = ::write(news_.get(), &one, sizeof one);
    }
}

void Worker::on_ready(uint32_t) {
    uint64_t count;
    [[maybe_unused]] ssize_t n = ::read(news_.get(), &count, sizeof count);
    std::deque<Job> jobs;
    {
        std::lock_guard lock(mutex_);
        jobs.swap(finished_);
    }
    for (Job& job : jobs) job.done();
}

void Worker::stop() {
    if (!thread_.joinable()) return;
    {
        std::lock_guard lock(mutex_);
        stop_ = true;
    }
    wake_.notify_all();
    thread_.join();
    waiting_.clear();
    finished_.clear();
    if (token_ != 0) poller_.remove(token_, news_.get());
    token_ = 0;
}

void Worker::abandon() {
    if (thread_.joinable()) thread_.detach();
}

}  // namespace tent::transport::rdma
