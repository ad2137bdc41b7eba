#include "base/fork_guard.h"

#include <pthread.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <mutex>

#include "base/unique_fd.h"

namespace tent {
namespace {

// A bitmap rather than a set: the child's handler may only touch memory that needs no lock and no allocation.
constexpr int kMaxFd = 1 << 20;
std::array<std::atomic<uint64_t>, kMaxFd / 64> g_open{};
std::atomic<unsigned> g_generation{0};

void in_child() {
    g_generation.fetch_add(1);
    for (size_t word = 0; word < g_open.size(); ++word) {
        uint64_t bits = g_open[word].exchange(0, std::memory_order_relaxed);
        while (bits != 0) {
            int bit = __builtin_ctzll(bits);
            bits &= bits - 1;
            ::close(static_cast<int>(word) * 64 + bit);
        }
    }
}

}  // namespace

void install_fork_guard() {
    static std::once_flag once;
    std::call_once(once, [] { pthread_atfork(nullptr, nullptr, in_child); });
}

unsigned fork_generation() {
    return g_generation.load(std::memory_order_relaxed);
}

void guard_fd(int fd) {
    if (fd >= 0 && fd < kMaxFd) g_open[static_cast<size_t>(fd) / 64].fetch_or(1ull << (fd % 64));
}

void unguard_fd(int fd) {
    if (fd >= 0 && fd < kMaxFd) g_open[static_cast<size_t>(fd) / 64].fetch_and(~(1ull << (fd % 64)));
}

void close_guarded(int fd) {
    if (fd < 0) return;
    if (fd < kMaxFd) {
        uint64_t bit = 1ull << (fd % 64);
        if ((g_open[static_cast<size_t>(fd) / 64].fetch_and(~bit) & bit) == 0) return;  // a fork closed it
    }
    ::close(fd);
}

UniqueFd::UniqueFd(int fd) : fd_(fd) {
    guard_fd(fd);
}

void UniqueFd::reset() {
    if (fd_ >= 0) close_guarded(std::exchange(fd_, -1));
}

}  // namespace tent
