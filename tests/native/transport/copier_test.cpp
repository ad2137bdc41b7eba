// The copying threads' background work.
#include "transport/shm/copier.h"

#include <doctest/doctest.h>
#include <sys/mman.h>

#include <atomic>
#include <latch>
#include <memory>
#include <thread>

using tent::transport::shm::Copier;

namespace {

constexpr size_t kBytes = 64 << 20;

std::shared_ptr<void> mapping(std::atomic<bool>& gone) {
    void* at = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(at != MAP_FAILED);
    return {at, [&gone](void* p) {
                munmap(p, kBytes);
                gone = true;
            }};
}

}  // namespace

TEST_SUITE("protects:warming") {
    TEST_CASE("invariant 10: a mapping that is still to be warmed is freed with its last user") {
        std::atomic<bool> gone{false};
        Copier copier(1, [] {});
        // Its only thread is busy, and so is the caller, until the mapping's user is gone.
        std::latch busy(2), over(1);
        std::thread caller([&] {
            copier.parallel(2, [&](size_t) {
                busy.count_down();
                over.wait();
            });
        });
        busy.wait();
        auto memory = mapping(gone);
        copier.warm(memory, static_cast<uint8_t*>(memory.get()), kBytes, true);
        memory.reset();
        CHECK(gone);
        over.count_down();
        caller.join();
        copier.stop();
    }
}
