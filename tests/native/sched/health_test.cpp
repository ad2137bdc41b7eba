// Health: who is suspected, when, and what becomes of the bytes.
#include <doctest/doctest.h>

#include "base/status.h"
#include "world.h"

using namespace tent;
using namespace tent::sched;
using namespace tent::sched::test;

namespace {

constexpr uint64_t kGB = 1'000'000'000;

void links(World& w, int n) {
    for (int i = 0; i < n; ++i) w.link(w.rail(kGB), w.rail(kGB), 50 * kMicrosecond);
}

Nanos when(const World& w, LinkId link, LinkState state) {
    auto it = w.states.find(link);
    if (it == w.states.end()) return kNever;
    for (const auto& [at, s] : it->second) {
        if (s == state && at > 1'000'000'000) return at;
    }
    return kNever;
}

}  // namespace

TEST_CASE("a silent link is suspected, its tail goes elsewhere, and it comes back through probation") {
    World w;
    links(w, 3);
    FlowId warm = w.flow(256 << 20);
    w.run(w.now + 40 * kMillisecond);
    Nanos fault = w.now;
    w.stall(1);
    w.run(w.now + 10 * kSecond);
    REQUIRE(w.flows[warm].done);
    Nanos suspect = when(w, 1, LinkState::suspect), down = when(w, 1, LinkState::down);
    REQUIRE(suspect != kNever);
    MESSAGE("suspected after " << (suspect - fault) / kMicrosecond << " us, down after "
                               << (down - fault) / kMicrosecond << " us");
    // Two slices may be under way, then the floor.
    CHECK(suspect - fault <= 2 * 4 * kMillisecond + 10 * kMillisecond);
    CHECK(w.flows[warm].ended - fault < 300 * kMillisecond);
    CHECK(w.sprayer.view(1).reissued > 0);
    CHECK(w.sprayer.view(1).state != LinkState::up);

    FlowId while_down = w.flow(64 << 20);
    w.run(w.now + 10 * kSecond);
    CHECK(w.flows[while_down].done);
    REQUIRE(w.sprayer.view(1).state == LinkState::down);
    w.heal(1);
    while (w.sprayer.view(1).state == LinkState::down) REQUIRE(w.step());
    CHECK(w.sprayer.view(1).state == LinkState::probation);
    uint64_t before = w.carried[1];
    FlowId after = w.flow(256 << 20);
    w.run(w.now + 10 * kSecond);
    CHECK(w.flows[after].done);
    CHECK(w.sprayer.view(1).state == LinkState::up);
    CHECK(w.carried[1] > before + (32 << 20));  // it carries its share again
}

TEST_CASE("a link that has just come back is watched like any other") {
    World w;
    links(w, 2);
    w.flow(256 << 20);
    w.run(w.now + kSecond);
    w.cut(0);
    w.mend(0);
    while (w.sprayer.view(0).state == LinkState::down) REQUIRE(w.step());
    REQUIRE(w.sprayer.view(0).state == LinkState::probation);
    FlowId id = w.flow(64 << 20);
    w.run(w.now + kMillisecond);
    Nanos fault = w.now;
    w.stall(0);
    w.run(w.now + 10 * kSecond);
    REQUIRE(w.flows[id].done);
    CHECK(w.flows[id].ended - fault < 200 * kMillisecond);
}

TEST_CASE(
    "a slow link whose bytes are seen to arrive is waited for a tenth of a second, not for its slowness") {
    World w;
    w.reports_progress = true;
    w.link(w.rail(kGB / 10, true), w.rail(kGB / 10, true), 50 * kMicrosecond);
    LinkId slow = w.link(w.rail(400'000, true), w.rail(400'000, true), 50 * kMicrosecond);
    w.flow(kGB);
    while (w.carried[slow] == 0) REQUIRE(w.step());  // two pieces of 64 KiB are 328 ms of it
    REQUIRE(w.sprayer.view(slow).outstanding > 0);
    Nanos fault = w.now;
    w.stall(slow);
    w.run(w.now + kSecond);
    Nanos suspect = kNever;
    for (const auto& [at, state] : w.states[slow])
        if (state == LinkState::suspect && at >= fault) suspect = std::min(suspect, at);
    REQUIRE(suspect != kNever);
    CHECK(suspect - fault <= 110 * kMillisecond);
}

TEST_CASE("the only link of a peer is never given up for being slow") {
    World w;
    links(w, 1);
    FlowId id = w.flow(16 << 20);
    w.run(w.now + 3 * kMillisecond);
    w.stall(0);
    w.run(w.now + 5 * kSecond);
    CHECK(w.sprayer.view(0).state == LinkState::up);
    CHECK(w.revokes == 0);
    w.heal(0);
    w.run(w.now + kSecond);
    CHECK(w.flows[id].done);
}

TEST_CASE("all links silent together: the peer is suspect, and none of them is given up") {
    World w;
    links(w, 3);
    w.flow(256 << 20);
    w.run(w.now + 40 * kMillisecond);
    w.stall(0);  // what its kernel still had came over the others
    w.run(w.now + kMillisecond);
    w.stall(1);
    w.stall(2);
    w.run(w.now + kSecond);
    for (LinkId l = 0; l < 3; ++l) {
        CHECK(w.sprayer.view(l).state == LinkState::up);
        CHECK(when(w, l, LinkState::suspect) == kNever);
    }
    CHECK(w.revokes == 0);
}

TEST_CASE("wrongly suspected, and then the other link falls silent: the one that is well carries again") {
    World w;
    links(w, 2);
    FlowId id = w.flow(256 << 20);
    w.run(w.now + 40 * kMillisecond);
    w.stall(0);
    while (w.sprayer.view(0).state != LinkState::suspect) REQUIRE(w.step());
    w.stall(1);
    while (w.sprayer.view(0).outstanding > 0) REQUIRE(w.step());
    REQUIRE(w.sprayer.view(0).state == LinkState::suspect);
    w.heal(0);
    w.run(w.now + 10 * kSecond);
    CHECK(w.flows[id].done);
}

TEST_CASE("an error takes a link down at once; its bytes go elsewhere") {
    World w;
    links(w, 2);
    FlowId id = w.flow(64 << 20);
    w.run(w.now + 10 * kMillisecond);
    Nanos fault = w.now;
    w.cut(0);
    CHECK(w.sprayer.view(0).state == LinkState::down);
    w.run(w.now + 10 * kSecond);
    CHECK(w.flows[id].done);
    CHECK(w.probed[0].front() == fault);
}

TEST_CASE("probes: at most the interval apart in the first minute, then rarer, and never while up") {
    World w;
    links(w, 2);
    w.settle();
    w.cut(0);
    Nanos start = w.now;
    while (w.now < start + 120 * kSecond) REQUIRE(w.step());
    const auto& probed = w.probed[0];
    REQUIRE(probed.size() > 1000);
    size_t late = 0;
    for (size_t i = 1; i < probed.size(); ++i) {
        Nanos gap = probed[i] - probed[i - 1];
        if (probed[i] < start + 60 * kSecond) CHECK(gap <= 50 * kMillisecond);
        CHECK(gap >= 50 * kMillisecond);
        CHECK(gap <= 5 * kSecond);
        late += gap == 5 * kSecond;
    }
    CHECK(late > 3);
    CHECK(w.probed[1].empty());
    w.mend(0);
    while (w.sprayer.view(0).state != LinkState::up) REQUIRE(w.step());  // probation ends even without work
    CHECK(w.sprayer.next_wakeup() == kNever);
}

TEST_CASE("our own lag is nobody's fault") {
    for (bool lagged : {true, false}) {
        World w;
        links(w, 2);
        w.flow(256 << 20);
        w.run(w.now + 40 * kMillisecond);
        // Our loop sleeps for 100 ms: what ended meanwhile is heard of only now.
        w.stall(0);
        if (lagged) w.sprayer.own_lag(100 * kMillisecond);
        w.run(w.now + 60 * kMillisecond);
        CHECK((when(w, 0, LinkState::suspect) == kNever) == lagged);
    }
}

TEST_CASE("a false alarm makes the sprayer more patient with that link") {
    World w;
    links(w, 2);
    w.flow(uint64_t{4} << 30);
    w.run(w.now + 40 * kMillisecond);
    std::vector<Nanos> patience;
    for (int i = 0; i < 4; ++i) {
        Nanos from = w.now;
        w.stall(0);
        for (int n = 0; n < 10000 && w.sprayer.view(0).state == LinkState::up; ++n) REQUIRE(w.step());
        REQUIRE(w.sprayer.view(0).state == LinkState::suspect);
        patience.push_back(w.now - from);
        w.heal(0);
        for (int n = 0; n < 10000 && w.sprayer.view(0).state != LinkState::up; ++n) REQUIRE(w.step());
        w.run(w.now + 30 * kMillisecond);
    }
    CHECK(patience.back() > patience.front());
}

TEST_CASE("a removed link is used no more and probed no more") {
    World w;
    links(w, 2);
    FlowId id = w.flow(64 << 20);
    w.run(w.now + 10 * kMillisecond);
    w.sprayer.remove_link(0, w.now);
    uint64_t posted = w.sprayer.view(0).posted;
    w.run(w.now + 10 * kSecond);
    CHECK(w.flows[id].done);
    CHECK(w.sprayer.view(0).posted == posted);
    CHECK(w.probed[0].empty());
    w.sprayer.link_up(0, w.now);
    CHECK(w.sprayer.view(0).state == LinkState::down);
}

TEST_CASE("every link down: the flow waits and goes on when one is back") {
    World w;
    links(w, 2);
    FlowId id = w.flow(64 << 20, Priority::normal, w.now + 20 * kSecond);
    w.run(w.now + 10 * kMillisecond);
    w.cut(0);
    w.cut(1);
    w.run(w.now + 3 * kSecond);
    CHECK_FALSE(w.flows[id].over());
    w.mend(1);
    w.run(w.now + 3 * kSecond);
    CHECK(w.flows[id].done);
}

TEST_SUITE("protects:join") {
    TEST_CASE("invariant 3: a link that comes up later carries a transfer that was submitted before") {
        World w;
        links(w, 1);
        FlowId flow = w.flow(64 << 20);
        w.run(w.now + 5 * kMillisecond);
        REQUIRE(!w.flows[flow].over());
        links(w, 1);
        w.cut(0);
        w.run(w.now + 10 * kSecond);
        REQUIRE(w.flows[flow].done);
        CHECK(w.carried[1] > (32 << 20));
    }
}
