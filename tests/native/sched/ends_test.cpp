// The ends of a flow: cancelled, past its deadline, or refused, at every moment of its life.
#include <doctest/doctest.h>

#include "base/status.h"
#include "world.h"

using namespace tent;
using namespace tent::sched;
using namespace tent::sched::test;

namespace {

constexpr uint64_t kGB = 1'000'000'000;
constexpr uint64_t kBytes = 3 << 20;

void two_links(World& w) {
    w.link(w.rail(kGB, true), w.rail(kGB, true), 50 * kMicrosecond);
    w.link(w.rail(kGB / 3, true), w.rail(kGB / 3, true), 80 * kMicrosecond);
}

}  // namespace

TEST_CASE("cancel after every event") {
    bool finished = false;
    int moments = 0;
    for (int steps = 0; !finished; ++steps, ++moments) {
        CAPTURE(steps);
        World w;
        two_links(w);
        FlowId id = w.flow(kBytes), other = w.flow(kBytes);
        if (steps > 0) w.settle();
        for (int i = 1; i < steps; ++i) w.step();
        finished = w.flows[id].done;
        w.cancel(id);
        w.cancel(id);  // as often as one likes
        w.run(w.now + kSecond);
        const FlowRecord& f = w.flows[id];
        CHECK(f.done == finished);
        CHECK(f.cancelled == !finished);
        CHECK(f.released != kNever);
        CHECK(w.flows[other].done);
        CHECK(w.sprayer.outstanding() == 0);
    }
    CHECK(moments > 10);
}

TEST_CASE("a deadline at every moment") {
    int failed = 0, done = 0;
    for (Nanos after = 0; after < 10 * kMillisecond; after += 37 * kMicrosecond) {
        CAPTURE(after);
        World w;
        two_links(w);
        Nanos deadline = w.now + after;
        FlowId id = w.flow(kBytes, Priority::normal, deadline);
        w.run(w.now + kSecond);
        const FlowRecord& f = w.flows[id];
        CHECK(f.over());
        CHECK(f.released != kNever);
        if (f.failed) {
            CHECK(f.reason == static_cast<uint16_t>(Code::deadline));
            CHECK(f.ended == deadline);
            CHECK(f.released <= deadline + kMillisecond);
            ++failed;
        } else {
            CHECK(f.ended <= deadline);
            ++done;
        }
    }
    CHECK(failed > 10);
    CHECK(done > 10);
}

TEST_CASE("a refusal ends the flow with its reason, and no link is blamed") {
    World w;
    two_links(w);
    FlowId id = w.flow(kBytes);
    w.refuse_next(static_cast<uint16_t>(Code::stale_epoch));
    w.run(w.now + kSecond);
    CHECK(w.flows[id].failed);
    CHECK(w.flows[id].reason == static_cast<uint16_t>(Code::stale_epoch));
    for (LinkId l : {0u, 1u}) {
        CHECK(w.sprayer.view(l).state == LinkState::up);
        CHECK(w.sprayer.view(l).bytes_used + w.sprayer.view(l).reissued <= 2 * kBytes);
    }
    CHECK(w.flows[id].released != kNever);
}

TEST_CASE("nothing to move, unknown ids, an id twice") {
    World w;
    FlowId empty = w.flow(0);
    w.settle();
    CHECK(w.flows[empty].done);
    CHECK(w.flows[empty].released != kNever);
    w.sprayer.cancel_flow(99, w.now);
    w.sprayer.set_priority(99, Priority::bulk, w.now);
    w.sprayer.attempt_ended(99, Outcome::done, 0, w.now);
    w.sprayer.attempt_progress(99, 1, w.now);
    w.sprayer.link_down(99, w.now);
    w.sprayer.link_up(99, w.now);
    w.sprayer.link_probe(99, true, w.now);
    w.sprayer.remove_link(99, w.now);
    CHECK(w.sprayer.view(99).posted == 0);
    CHECK(w.sprayer.accounts_balance());
    CHECK(w.sprayer.next_wakeup() == kNever);  // idle costs nothing
}

TEST_CASE("a peer without links: the flow waits until its deadline") {
    World w;
    FlowId id = w.flow(kBytes, Priority::normal, w.now + kSecond, 3);
    FlowId lucky = w.flow(kBytes, Priority::normal, w.now + 5 * kSecond, 3);
    w.run(w.now + 2 * kSecond);
    CHECK(w.flows[id].failed);
    CHECK(w.flows[id].reason == static_cast<uint16_t>(Code::deadline));
    w.link(w.rail(kGB), w.rail(kGB), 50 * kMicrosecond, 3);
    w.run(w.now + kSecond);
    CHECK(w.flows[lucky].done);
}
