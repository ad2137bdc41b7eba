#include <thread>

#include "world.h"

namespace tent::test {
namespace {

constexpr uint64_t kBytes = 8 << 20;

struct Reach {
    const char* name;
    bool shm, region;
    std::vector<std::string> bind;
};
const Reach kReaches[] = {{"memfd", true, false, {}},
                          {"region", true, true, {}},
                          {"tcp", false, true, {}},
                          {"tcp6", false, false, {"::1"}},
                          {"two rails", false, false, {"127.0.0.1", "127.0.0.2"}}};

}  // namespace

TEST_CASE("bytes arrive, both ways, whatever the size and the reach") {
    for (const Reach& r : kReaches) {
        CAPTURE(r.name);
        World w(r.shm, r.region, kBytes, r.bind);
        for (uint64_t n : {uint64_t{1}, uint64_t{4096}, uint64_t{65537}, uint64_t{1 << 20}, kBytes - 3}) {
            CAPTURE(n);
            fill(w.memory.data(), n, n);
            Status s = w.run(Op::write, {0}, {3}, {n});
            REQUIRE_MESSAGE(s.ok(), s.text());
            CHECK(std::memcmp(w.theirs->base + 3, w.memory.data(), n) == 0);
            fill(w.their_memory() + 3, n, n + 1);
            s = w.run(Op::read, {0}, {3}, {n});
            REQUIRE_MESSAGE(s.ok(), s.text());
            CHECK(std::memcmp(w.theirs->base + 3, w.memory.data(), n) == 0);
        }
    }
}

TEST_CASE("scatter and gather keep every range in its place") {
    for (const Reach& r : kReaches) {
        CAPTURE(r.name);
        World w(r.shm, r.region, kBytes, r.bind);
        std::vector<uint64_t> at, offset, length;
        for (uint64_t i = 0; i < 1500; ++i) {
            at.push_back(i * 5000);
            offset.push_back((1499 - i) * 5001);
            length.push_back(1 + (i * 37) % 4999);
        }
        fill(w.their_memory(), kBytes, 7);
        Status s = w.run(Op::read, at, offset, length);
        REQUIRE_MESSAGE(s.ok(), s.text());
        for (size_t i = 0; i < at.size(); ++i) {
            REQUIRE(std::memcmp(w.memory.data() + at[i], w.theirs->base + offset[i], length[i]) == 0);
        }
    }
}

TEST_CASE("a bad range fails alone") {
    for (const Reach& r : kReaches) {
        CAPTURE(r.name);
        World w(r.shm, r.region, kBytes, r.bind);
        fill(w.their_memory(), kBytes, 9);
        auto t = w.submit(Op::read, {0, 4096, 8192}, {0, kBytes - 10, 8192}, {4096, 4096, 4096});
        REQUIRE(t.ok());
        REQUIRE(w.initiator->wait(**t, 20 * kSecond));
        CHECK((*t)->result().code() == Code::out_of_range);
        CHECK((*t)->prefix() == 1);
        CHECK((*t)->state(1) == engine::RangeState::failed);
        CHECK((*t)->state(2) == engine::RangeState::ok);
        CHECK(std::memcmp(w.memory.data() + 8192, w.theirs->base + 8192, 4096) == 0);
    }
}

TEST_CASE("several threads share the engine") {
    for (const Reach& r : kReaches) {
        CAPTURE(r.name);
        World w(r.shm, r.region, kBytes, r.bind);
        fill(w.their_memory(), kBytes, 11);
        std::vector<std::thread> threads;
        std::atomic<int> bad{0};
        for (uint64_t i = 0; i < 4; ++i) {
            threads.emplace_back([&, i] {
                uint64_t mine = kBytes / 4 * i;
                for (int k = 0; k < 20; ++k) {
                    auto t = w.submit(Op::read, {mine}, {mine}, {kBytes / 4});
                    if (!t.ok() || !w.initiator->wait(**t, 20 * kSecond) || !(*t)->result().ok()) ++bad;
                    if (t.ok() && !w.initiator->wait_released(**t, 20 * kSecond)) ++bad;
                }
            });
        }
        for (auto& t : threads) t.join();
        CHECK(bad == 0);
        CHECK(std::memcmp(w.memory.data(), w.theirs->base, kBytes) == 0);
    }
}

TEST_CASE("cancelled and closed in mid-flight, nothing hangs and nothing is lost count of") {
    for (const Reach& r : kReaches) {
        CAPTURE(r.name);
        World w(r.shm, r.region, kBytes, r.bind);
        for (int k = 0; k < 10; ++k) {
            auto t = w.submit(k % 2 == 0 ? Op::write : Op::read, {0}, {0}, {kBytes});
            REQUIRE(t.ok());
            w.initiator->cancel(**t);
            CHECK((*t)->done());
            CHECK(w.initiator->wait_released(**t, 20 * kSecond));
        }
        auto c = w.initiator->counters();
        CHECK(c.submitted == c.completed + c.failed + c.cancelled);
        CHECK(c.submitted == c.released);
        auto t = w.submit(Op::read, {0}, {0}, {kBytes});
        REQUIRE(t.ok());
        w.initiator->close(5 * kSecond);
        CHECK((*t)->released());
    }
}

TEST_CASE("unregistering under load: the transfer ends, the memory is free") {
    for (const Reach& r : kReaches) {
        CAPTURE(r.name);
        World w(r.shm, r.region, kBytes, r.bind);
        auto t = w.submit(Op::read, {0}, {0}, {kBytes});
        REQUIRE(t.ok());
        Status s = w.owner->unregister(w.theirs->id, 10 * kSecond);
        CHECK_MESSAGE(s.ok(), s.text());
        CHECK(w.initiator->wait(**t, 20 * kSecond));
        s = w.run(Op::read, {0}, {0}, {4096});
        CHECK_FALSE(s.ok());
    }
}

}  // namespace tent::test
