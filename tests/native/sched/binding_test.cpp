// Late binding and water filling: what several links carry together, what a small flow waits for, what classes get.
#include <doctest/doctest.h>

#include "sched/math.h"
#include "world.h"

using namespace tent;
using namespace tent::sched;
using namespace tent::sched::test;

namespace {

constexpr uint64_t kGB = 1'000'000'000;

// Four rails of 2, 2, 1 and 0.25 GB/s, each reaching its own counterpart.
void four_rails(World& w, bool known) {
    for (uint64_t quarter : {8u, 8u, 4u, 1u}) {
        RailId local = w.rail(quarter * kGB / 4, known), remote = w.rail(quarter * kGB / 4, known);
        w.link(local, remote, 20 * kMicrosecond);
    }
    w.checking = false;
}

// Goodput of one flow in percent of what all rails carry.
uint64_t percent(World& w, uint64_t bytes, uint64_t sum) {
    FlowId id = w.flow(bytes);
    Nanos start = w.now;
    w.run(w.now + 100 * kSecond);
    REQUIRE(w.flows[id].done);
    return mul_div(static_cast<uint64_t>(time_of(bytes, sum)), 100, static_cast<uint64_t>(w.flows[id].ended - start));
}

}  // namespace

TEST_CASE("four uneven rails carry nearly their sum") {
    uint64_t sum = 5 * kGB + kGB / 4;
    SUBCASE("known rates") {
        World w;
        four_rails(w, true);
        uint64_t p64 = percent(w, 64 << 20, sum), p4 = percent(w, 4 << 20, sum), p256 = percent(w, 256 << 20, sum);
        MESSAGE("64 MiB " << p64 << " %, 4 MiB " << p4 << " %, 256 MiB " << p256 << " %");
        CHECK(p64 >= 97);
        CHECK(p4 >= 85);
        CHECK(p256 >= 98);
        for (LinkId l = 0; l < 4; ++l) CHECK(w.carried[l] > 0);
    }
    SUBCASE("learned") {
        World w;
        four_rails(w, false);
        uint64_t cold = percent(w, 64 << 20, sum), warm = percent(w, 64 << 20, sum);
        MESSAGE("cold " << cold << " %, warm " << warm << " %");
        CHECK(cold >= 75);
        CHECK(warm >= 97);
    }
}
