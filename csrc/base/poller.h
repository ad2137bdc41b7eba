// epoll with handlers that may go away at any time: events name a slot and its generation, never a pointer.
// wait() may be called by several threads at once and without a lock; everything else by one at a time.
#pragma once

#include <sys/epoll.h>

#include <array>
#include <cstdint>
#include <deque>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "base/unique_fd.h"

namespace tent {

class PollHandler {
  public:
    virtual ~PollHandler() = default;
    virtual void on_ready(uint32_t events) = 0;
};

class Poller {
  public:
    using Token = uint64_t;  // 0: none
    static constexpr int kBatch = 64;
    struct Batch {
        std::array<epoll_event, kBatch> events;
        int count = 0;
    };

    Status open();
    Token add(int fd, uint32_t events, PollHandler* handler);
    void modify(Token token, int fd, uint32_t events);
    void remove(Token token, int fd);

    // Waits up to `timeout` (kNever: for ever). Returns the number of events.
    int wait(Batch& batch, Nanos timeout);
    void dispatch(const Batch& batch);
    // Makes one wait() return. Thread-safe.
    void wake();
    int fd() const { return epoll_.get(); }
    size_t size() const { return slots_.size() - free_.size(); }  // descriptors that are watched

  private:
    struct Slot {
        PollHandler* handler = nullptr;
        uint32_t generation = 0;
    };
    UniqueFd epoll_, wakeup_;
    std::deque<Slot> slots_;
    std::vector<uint32_t> free_;
};

}  // namespace tent
