#include "base/poller.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

namespace tent {
namespace {

constexpr uint64_t kWakeup = 0;

// epoll_pwait2 counts nanoseconds (Linux 5.11); older kernels get milliseconds, rounded up.
int wait_nanos(int fd, epoll_event* events, int max, Nanos timeout) {
#ifdef SYS_epoll_pwait2
    static bool missing = false;
    if (!missing) {
        timespec t{timeout / kSecond, timeout % kSecond};
        int n = static_cast<int>(
            syscall(SYS_epoll_pwait2, fd, events, max, timeout == kNever ? nullptr : &t, nullptr, 0));
        if (n >= 0 || errno != ENOSYS) return n;
        missing = true;
    }
#endif
    int ms = timeout == kNever ? -1 : static_cast<int>((timeout + kMillisecond - 1) / kMillisecond);
    return epoll_wait(fd, events, max, ms);
}

}  // namespace

Status Poller::open() {
    epoll_ = UniqueFd(epoll_create1(EPOLL_CLOEXEC));
    wakeup_ = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!epoll_ || !wakeup_) {
        return {Code::no_memory,
                std::string("cannot make an epoll descriptor (") + strerror(errno) + "): raise `ulimit -n`"};
    }
    slots_.push_back({});  // slot 0 is the wake-up
    epoll_event e{EPOLLIN, {.u64 = kWakeup}};
    epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wakeup_.get(), &e);
    return Status::good();
}

Poller::Token Poller::add(int fd, uint32_t events, PollHandler* handler) {
    uint32_t index;
    if (!free_.empty()) {
        index = free_.back();
        free_.pop_back();
    } else {
        index = static_cast<uint32_t>(slots_.size());
        slots_.push_back({});
    }
    Slot& slot = slots_[index];
    slot.handler = handler;
    Token token = (static_cast<uint64_t>(slot.generation) << 32) | index;
    epoll_event e{events, {.u64 = token}};
    if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &e) != 0) {
        slot.handler = nullptr;
        free_.push_back(index);
        return 0;
    }
    return token;
}

void Poller::modify(Token token, int fd, uint32_t events) {
    epoll_event e{events, {.u64 = token}};
    epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &e);
}

void Poller::remove(Token token, int fd) {
    if (token == 0) return;
    epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
    auto index = static_cast<uint32_t>(token);
    Slot& slot = slots_[index];
    slot.handler = nullptr;
    ++slot.generation;
    free_.push_back(index);
}

int Poller::wait(Batch& batch, Nanos timeout) {
    if (timeout < 0) timeout = 0;
    batch.count = wait_nanos(epoll_.get(), batch.events.data(), kBatch, timeout);
    if (batch.count < 0) batch.count = 0;
    return batch.count;
}

void Poller::dispatch(const Batch& batch) {
    for (int i = 0; i < batch.count; ++i) {
        const epoll_event& e = batch.events[static_cast<size_t>(i)];
        if (e.data.u64 == kWakeup) {
            uint64_t n;
            [[maybe_unused]] ssize_t got = ::read(wakeup_.get(), &n, sizeof n);
            continue;
        }
        auto index = static_cast<uint32_t>(e.data.u64);
        auto generation = static_cast<uint32_t>(e.data.u64 >> 32);
        if (index >= slots_.size()) continue;
        Slot& slot = slots_[index];
        if (slot.handler != nullptr && slot.generation == generation) slot.handler->on_ready(e.events);
    }
}

void Poller::wake() {
    uint64_t one = 1;
    [[maybe_unused]] ssize_t n = ::write(wakeup_.get(), &one, sizeof one);
}

}  // namespace tent
