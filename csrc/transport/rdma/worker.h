// A thread for verbs that may take long: a queue pair's way to its peer waits for the neighbour's address, a
// memory region for its pages. What follows is done on the loop.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "base/poller.h"
#include "base/status.h"
#include "base/unique_fd.h"

namespace tent::transport::rdma {

class Worker final : public PollHandler {
  public:
    explicit Worker(Poller& poller) : poller_(poller) {}
    ~Worker() override;
    Status start();
    // `work` on the thread, then `done` on the loop, unless the worker was stopped. One after the other.
    void submit(std::function<void()> work, std::function<void()> done);
    // Waits for what is under way; drops the rest. Loop token held.
    void stop();
    // In a forked child: the thread is the parent's.
    void abandon();
    void on_ready(uint32_t events) override;

  private:
    struct Job {
        std::function<void()> work, done;
    };
    void run();

    Poller& poller_;
    UniqueFd news_;
    Poller::Token token_ = 0;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::deque<Job> waiting_, finished_;
    bool stop_ = false;
    std::thread thread_;
};

}  // namespace tent::transport::rdma
