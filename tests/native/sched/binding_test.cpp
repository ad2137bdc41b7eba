// Late binding and water filling: what several links carry together, what a small flow waits for, what
// classes get.
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
    return mul_div(static_cast<uint64_t>(time_of(bytes, sum)), 100,
                   static_cast<uint64_t>(w.flows[id].ended - start));
}

}  // namespace

TEST_CASE("four uneven rails carry nearly their sum") {
    uint64_t sum = 5 * kGB + kGB / 4;
    SUBCASE("known rates") {
        World w;
        four_rails(w, true);
        uint64_t p64 = percent(w, 64 << 20, sum), p4 = percent(w, 4 << 20, sum),
                 p256 = percent(w, 256 << 20, sum);
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
        CHECK(cold >= 90);  // small slices, until each rail has shown what it does
        CHECK(warm >= 97);
    }
}

TEST_CASE("a rail far slower than everybody's first guess is found out, and used") {
    World w;
    for (uint64_t mbit : {400u, 400u, 200u, 50u}) {
        RailId local = w.rail(mbit * 125'000, false), remote = w.rail(mbit * 125'000, false);
        w.link(local, remote, 100 * kMicrosecond);
    }
    w.checking = false;
    uint64_t sum = 1050 * 125'000, last = 0;
    for (int i = 0; i < 5; ++i) last = percent(w, 16 << 20, sum);
    MESSAGE("the fifth flow: " << last << " %, the slow rail carried " << w.carried[3]);
    CHECK(last >= 96);
    CHECK(w.carried[3] > 0);
}

TEST_CASE("four local by four remote rails are eight resources, not sixteen") {
    World w;
    w.checking = false;
    std::vector<RailId> local, remote;
    for (int i = 0; i < 4; ++i) local.push_back(w.rail(kGB, true));
    for (int i = 0; i < 4; ++i) remote.push_back(w.rail(kGB, true));
    for (RailId a : local) {
        for (RailId b : remote) w.link(a, b, 20 * kMicrosecond);
    }
    uint64_t p = percent(w, 64 << 20, 4 * kGB);
    MESSAGE("4 x 4: " << p << " %");
    CHECK(p >= 90);
    Nanos predicted = w.sprayer.predict(0, 64 << 20, Priority::normal, w.now);
    CHECK(predicted >= time_of(64 << 20, 4 * kGB));
    CHECK(predicted <= time_of(64 << 20, 4 * kGB) * 11 / 10);
}

TEST_CASE("a slow link takes nothing that it would finish too late") {
    World w;
    RailId fast = w.rail(2 * kGB, true), slow = w.rail(kGB / 100, true);
    LinkId good = w.link(fast, w.rail(2 * kGB, true), 20 * kMicrosecond);
    LinkId bad = w.link(slow, w.rail(kGB / 100, true), 20 * kMicrosecond);
    // 4 MiB end after 2 ms; the slow rail would need 6 for the smallest slice.
    FlowId id = w.flow(4 << 20);
    w.run(w.now + kSecond);
    CHECK(w.flows[id].done);
    CHECK(w.carried[bad] == 0);
    CHECK(w.carried[good] == 4 << 20);
}

TEST_CASE("a small flow goes at once, in one slice, on the best link") {
    World w;
    LinkId far = w.link(w.rail(2 * kGB, true), w.rail(2 * kGB, true), kMillisecond);
    LinkId near = w.link(w.rail(kGB, true), w.rail(kGB, true), 10 * kMicrosecond);
    w.flow(64 << 10);
    Action a;
    REQUIRE(w.sprayer.next(a, w.now));
    while (a.kind != Action::Kind::post) REQUIRE(w.sprayer.next(a, w.now));
    CHECK(a.link == near);
    CHECK(a.link != far);
    CHECK(a.begin == 0);
    CHECK(a.end == 64 << 10);
    CHECK(a.predicted - w.now <= 2 * 20 * kMicrosecond + time_of(64 << 10, kGB));
}

TEST_CASE("interactive work waits behind one bulk slice of a link at most") {
    World w;
    for (int i = 0; i < 2; ++i) w.link(w.rail(kGB, true), w.rail(kGB, true), 20 * kMicrosecond);
    FlowId bulk = w.flow(512 << 20, Priority::bulk);
    Nanos slice = time_of(4 << 20, kGB);
    Nanos worst = 0;
    for (int i = 0; i < 50; ++i) {
        w.run(w.now + 777 * kMicrosecond);
        FlowId id = w.flow(16 << 10, Priority::interactive);
        while (!w.flows[id].done) REQUIRE(w.step());
        worst = std::max(worst, w.flows[id].ended - w.flows[id].submitted);
    }
    MESSAGE("worst interactive " << worst << " ns beside bulk");
    // One slice under way and what is in the pipe with it.
    CHECK(worst <= slice + 200 * kMicrosecond);
    w.run(w.now + 100 * kSecond);
    CHECK(w.flows[bulk].done);
}

TEST_CASE("the better class goes first, and the lower one does not starve") {
    World w;
    w.checking = false;
    w.link(w.rail(kGB, true), w.rail(kGB, true), 20 * kMicrosecond);
    FlowId low = w.flow(32 << 20, Priority::bulk);
    FlowId high = w.flow(64 << 20, Priority::normal);
    w.run(w.now + 60 * kMillisecond);
    CHECK_FALSE(w.flows[low].done);
    w.run(w.now + 100 * kSecond);
    CHECK(w.flows[high].ended < w.flows[low].ended);
    // Interactive work without end: bulk still moves.
    FlowId starving = w.flow(8 << 20, Priority::bulk);
    for (int i = 0; i < 200 && !w.flows[starving].done; ++i) {
        w.flow(16 << 20, Priority::interactive);
        w.run(w.now + 15 * kMillisecond);
    }
    CHECK(w.flows[starving].done);
}

TEST_CASE("inside a class the nearest deadline goes first") {
    World w;
    w.link(w.rail(kGB, true), w.rail(kGB, true), 20 * kMicrosecond);
    FlowId later = w.flow(16 << 20, Priority::normal, w.now + 10 * kSecond);
    FlowId sooner = w.flow(16 << 20, Priority::normal, w.now + kSecond);
    w.run(w.now + kSecond);
    CHECK(w.flows[sooner].ended < w.flows[later].ended);
}

TEST_CASE("a lower tier is used only while the better one cannot carry the flow") {
    World w;
    RailId memory = w.rail(4 * kGB, true), nic = w.rail(4 * kGB, true);
    LinkId shm = w.link(memory, memory, 0, 0, 0, 6);
    LinkId tcp = w.link(nic, w.rail(4 * kGB, true), 20 * kMicrosecond, 0, 1);
    FlowId both = w.flow(64 << 20);
    w.run(w.now + kSecond);
    CHECK(w.flows[both].done);
    CHECK(w.carried[shm] == 64 << 20);
    FlowId only = w.flow(1 << 20, Priority::normal, kNever, 0, nullptr, {tcp});
    w.run(w.now + kSecond);
    CHECK(w.flows[only].done);
    CHECK(w.carried[tcp] == 1 << 20);
    w.cut(shm);
    FlowId after = w.flow(1 << 20);
    w.run(w.now + kSecond);
    CHECK(w.flows[after].done);
    CHECK(w.carried[tcp] == 2 << 20);
}

TEST_CASE("no more attempts than the link's depth") {
    World w;
    LinkId l = w.link(w.rail(kGB, true), w.rail(kGB, true), 10 * kMillisecond, 0, 1, 3);
    w.flow(64 << 20);
    w.settle();
    CHECK(w.sprayer.view(l).outstanding == 3);
}

TEST_CASE("a slow-down is believed, and so is its end") {
    World w;
    w.checking = false;
    RailId a = w.rail(kGB), b = w.rail(kGB);
    LinkId slowed = w.link(a, w.rail(kGB), 20 * kMicrosecond);
    w.link(b, w.rail(kGB), 20 * kMicrosecond);
    w.flow(1 << 30);
    w.run(w.now + 100 * kMillisecond);
    CHECK(w.sprayer.view(slowed).rate_Bps > kGB * 9 / 10);
    w.set_rate(a, kGB / 4);
    w.run(w.now + 150 * kMillisecond);
    CHECK(w.sprayer.view(slowed).rate_Bps < kGB * 4 / 10);
    w.set_rate(a, kGB);
    w.run(w.now + 60 * kMillisecond);
    CHECK(w.sprayer.view(slowed).rate_Bps > kGB * 8 / 10);
}

TEST_CASE("a prediction counts what is queued in the class and above, not below") {
    World w;
    w.link(w.rail(kGB, true), w.rail(kGB, true), 20 * kMicrosecond);
    Nanos idle = w.sprayer.predict(0, 10 << 20, Priority::normal, w.now);
    w.flow(100 << 20, Priority::bulk);
    CHECK(w.sprayer.predict(0, 10 << 20, Priority::normal, w.now) == idle);
    w.flow(100 << 20, Priority::normal);
    Nanos behind = w.sprayer.predict(0, 10 << 20, Priority::normal, w.now);
    CHECK(behind >= idle + time_of(100 << 20, kGB));
    CHECK(w.sprayer.predict(7, 1, Priority::normal, w.now) == kNever);  // no such peer
}

TEST_CASE("an owner's window bounds the writes in flight on its link, for as long as it is told") {
    for (Op op : {Op::write, Op::read}) {
        Sprayer s(Settings{});
        LinkSpec spec;
        spec.local = s.add_rail({"local", kGB});
        spec.remote = s.add_rail({"remote", kGB});
        Nanos now = kSecond;
        LinkId link = s.add_link(spec, now);
        s.link_window(link, 256 << 10, now + 100 * kMillisecond, now);
        FlowSpec f;
        f.bytes = uint64_t{1} << 40;
        f.op = op;
        s.add_flow(1, f, now);
        uint64_t most_before = 0, most_after = 0;
        for (int i = 0; i < 2000; ++i) {
            std::vector<AttemptId> posted;
            for (Action a; s.next(a, now);) {
                if (a.kind == Action::Kind::post) posted.push_back(a.attempt);
            }
            uint64_t& most = now < kSecond + 100 * kMillisecond ? most_before : most_after;
            most = std::max(most, s.view(link).in_flight);
            now += 100 * kMicrosecond;
            REQUIRE_FALSE(posted.empty());  // something is always under way
            for (AttemptId id : posted) s.attempt_ended(id, Outcome::done, 0, now);
        }
        if (op == Op::write) CHECK(most_before <= 256 << 10);
        if (op == Op::read) CHECK(most_before > 256 << 10);
        CHECK(most_after > 256 << 10);
    }
}

TEST_CASE("hedging: a late slice moves to an idle link, once, within its share; without it nothing moves") {
    for (uint32_t hedge : {0u, 20'000u}) {
        Settings settings;
        settings.hedge_ppm = hedge;
        World w(settings);
        for (int i = 0; i < 2; ++i) w.link(w.rail(kGB, true), w.rail(kGB, true), 50 * kMicrosecond);
        for (int i = 0; i < 20; ++i) w.flow(16 << 20);  // shows what both carry, and earns credit
        w.run(w.now + 10 * kSecond);
        w.set_rate(0, kGB / 50);
        uint64_t revokes = w.revokes;
        FlowId small = w.flow(400 << 10);
        w.run(w.now + kSecond);
        REQUIRE(w.flows[small].done);
        Nanos took = w.flows[small].ended - w.flows[small].submitted;
        if (hedge == 0) {
            CHECK(w.sprayer.hedged() == 0);
            CHECK(took > 2 * kMillisecond);
        } else {
            CHECK(w.sprayer.hedged() >= 1);
            CHECK(w.revokes - revokes == w.sprayer.hedged());
            CHECK(took < 2 * kMillisecond);
        }
    }
}

TEST_CASE(
    "engines of one host: what others have in flight over a rail is ahead of us, what arrives there is its "
    "rate") {
    World w;
    w.checking = false;
    SUBCASE("in flight") {
        RailId local = w.rail(kGB, true), remote = w.rail(kGB, true);
        w.link(local, remote, 20 * kMicrosecond);
        Nanos alone = w.sprayer.predict(0, 64 << 10, Priority::normal, w.now);
        w.sprayer.rail_shared(local, 20'000'000, 0, w.now);
        CHECK(w.sprayer.rail(local).others == 20'000'000);
        CHECK(w.sprayer.predict(0, 64 << 10, Priority::normal, w.now) >= alone + 9 * kMillisecond);
        w.sprayer.rail_shared(local, 0, 0, w.now);
        CHECK(w.sprayer.predict(0, 64 << 10, Priority::normal, w.now) == alone);
    }
    SUBCASE("rate") {
        // The rail carries 1 GB/s, half of which is somebody else's.
        for (bool told : {false, true}) {
            RailId local = w.rail(kGB / 2), remote = w.rail(4 * kGB, true);
            PeerId peer = told ? 1 : 0;
            w.link(local, remote, 20 * kMicrosecond, peer);
            FlowId id = w.flow(256 << 20, Priority::normal, kNever, peer);
            for (Nanos last = w.now; !w.flows[id].over() && w.step();) {
                if (!told || w.now - last < kMillisecond) continue;
                w.sprayer.rail_shared(local, 1 << 20, static_cast<uint64_t>(w.now - last) / 2, w.now);
                last = w.now;
            }
            REQUIRE(w.flows[id].done);
            uint64_t rate = w.sprayer.rail(local).rate_Bps;
            MESSAGE("told " << told << ": " << rate);
            CHECK(rate > (told ? 9 : 4) * kGB / 10);
            CHECK(rate < (told ? 13 : 6) * kGB / 10);
        }
    }
    SUBCASE("several rails that others use go on carrying side by side") {
        four_rails(w, true);
        for (RailId local : {0u, 2u, 4u, 6u}) w.sprayer.rail_shared(local, 4 << 20, 0, w.now);
        FlowId id = w.flow(64 << 20);
        w.run(w.now + 100 * kSecond);
        REQUIRE(w.flows[id].done);
        for (LinkId l = 0; l < 4; ++l) CHECK(w.carried[l] > 0);
    }
}
