#include "model/fault_plan.h"

#include <doctest/doctest.h>

using namespace tent;

TEST_CASE("patterns of names") {
    CHECK(matches("*", ""));
    CHECK(matches("rail?", "rail1"));
    CHECK_FALSE(matches("rail?", "rail12"));
    CHECK(matches("*a*b", "xxaayyb"));
    CHECK_FALSE(matches("*a*b", "xxaayybc"));
    CHECK(matches("10.0.*.1", "10.0.22.1"));
    CHECK_FALSE(matches("", "x"));
    CHECK(matches("**", "x"));
}

TEST_CASE("a link is hit at whichever of its ends the fault names") {
    FaultLink link{"tcp", "a", "eth0", "b", "eth1"};
    Fault f;
    CHECK(hits(f, link) == FaultSide::here);
    f.node = "b";
    CHECK(hits(f, link) == FaultSide::there);
    f.rail = "eth0";
    CHECK(hits(f, link) == FaultSide::none);
    f.rail = "eth1";
    f.peer = "a";
    CHECK(hits(f, link) == FaultSide::there);
    f.peer_rail = "eth1";
    CHECK(hits(f, link) == FaultSide::none);
    f.peer_rail = "*";
    f.transport = "shm";
    CHECK(hits(f, link) == FaultSide::none);
}

TEST_CASE("what vanishes one way, seen from both ends") {
    Fault f;
    f.kind = FaultKind::one_way;
    CHECK(swallows(f, FaultSide::here, true));
    CHECK_FALSE(swallows(f, FaultSide::here, false));
    CHECK_FALSE(swallows(f, FaultSide::there, true));
    CHECK(swallows(f, FaultSide::there, false));
    f.direction = FaultDirection::in;
    CHECK(swallows(f, FaultSide::here, false));
    CHECK(swallows(f, FaultSide::there, true));
    CHECK_FALSE(swallows(f, FaultSide::none, true));
}

TEST_CASE("when a fault is on, and when that changes") {
    Fault f;
    CHECK(on_at(f, 0));
    CHECK(next_change(f, 0) == kNever);
    f.at = 100;
    f.duration = 50;
    CHECK_FALSE(on_at(f, 99));
    CHECK(next_change(f, 99) == 100);
    CHECK(on_at(f, 100));
    CHECK(next_change(f, 100) == 150);
    CHECK(on_at(f, 149));
    CHECK_FALSE(on_at(f, 150));
    CHECK(next_change(f, 150) == kNever);
    f.duration = kNever;
    CHECK(on_at(f, kNever - 1));
}

TEST_CASE("a flap is down for half of its period") {
    Fault f;
    f.kind = FaultKind::flap;
    f.at = 100;
    f.period = 20;
    f.duration = 35;
    Nanos now = 0;
    std::vector<Nanos> changes;
    std::vector<bool> on;
    while ((now = next_change(f, now)) != kNever) {
        changes.push_back(now);
        on.push_back(on_at(f, now));
    }
    CHECK(changes == std::vector<Nanos>{100, 110, 120, 130, 135});
    CHECK(on == std::vector<bool>{true, false, true, false, false});
}

TEST_CASE("which attempts a fault strikes is decided by the seed alone") {
    FaultPlan plan{7, {Fault{}, Fault{}}};
    FaultLink link{"tcp", "a", "eth0", "b", "eth1"};
    plan.faults[0].from_attempt = 3;
    plan.faults[0].attempts = 2;
    CHECK_FALSE(strikes(plan, 0, link, 2));
    CHECK(strikes(plan, 0, link, 3));
    CHECK(strikes(plan, 0, link, 4));
    CHECK_FALSE(strikes(plan, 0, link, 5));
    plan.faults[1].chance_ppm = 250'000;
    int struck = 0, same = 0;
    FaultPlan other = plan;
    other.seed = 8;
    for (uint64_t n = 1; n <= 4000; ++n) {
        bool hit = strikes(plan, 1, link, n);
        CHECK(hit == strikes(plan, 1, link, n));
        struck += hit;
        same += hit == strikes(other, 1, link, n);
    }
    CHECK(struck > 800);
    CHECK(struck < 1200);
    CHECK(same < 3500);
}
