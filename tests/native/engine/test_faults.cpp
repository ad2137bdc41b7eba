// Links that misbehave, over real TCP and real shared memory: no transfer fails while a route is left, every
// byte is right, every slice is accounted for.
#include <cstring>
#include <functional>

#include "transport/fault/faults.h"
#include "world.h"

namespace tent::test {
namespace {

using transport::fault::Faults;

constexpr uint64_t kBytes = 4 << 20;

struct Reach {
    const char* name;
    bool shm, region;
    std::vector<std::string> bind;
};
const Reach kTcp{"two rails", false, true, {"127.0.0.1", "127.0.0.2"}};
const Reach kMemory{"memfd", true, false, {}};
const Reach kPulled{"region", true, true, {}};

std::shared_ptr<Faults> inject(FaultPlan plan) {
    auto made = Faults::create(std::move(plan));
    REQUIRE_MESSAGE(made.ok(), made.status().text());
    return *made;
}

// Faults that have this for their time begin when every link is up and in use.
constexpr Nanos kWarm = 3600 * kSecond;

// Of the second of two rails.
Fault on_rail(FaultKind kind, Nanos at = 0) {
    Fault f;
    f.kind = kind;
    f.rail = "127.0.0.2";
    f.at = at;
    return f;
}

// Invariant 9, on every link.
void accounts_balance(World& w) {
    for (const auto& row : w.initiator->links()) {
        const auto& v = row.view;
        CAPTURE(row.name);
        CHECK(v.outstanding == 0);
        CHECK(v.posted == v.used + v.superseded + v.revoked + v.failed);
    }
    engine::Counters c = w.initiator->counters();
    CHECK(c.submitted == c.completed + c.failed + c.cancelled);
    CHECK(c.released == c.submitted);
}

// Reads and writes in turn, each compared byte by byte: so many, and more until every fault has struck.
// `begin` is called right before each until then: a fault that lasts for 100 ms must not be over before
// memory is filled, nor without anything under way on its rail.
void move_bytes(World& w, int times, const Faults* faults, const std::function<void()>& begin = {}) {
    auto met = [&] {
        return faults == nullptr ||
               std::all_of(faults->struck.begin(), faults->struck.end(), [](const auto& n) { return n > 0; });
    };
    for (int i = 0; i < times || !met(); ++i) {
        REQUIRE_MESSAGE(i < 300, "a fault never struck" << states(w));
        CAPTURE(i);
        uint8_t* from = i % 2 == 0 ? w.their_memory() : w.memory.data();
        fill(from, kBytes, static_cast<uint64_t>(i) + 1);
        if (begin && (i == 0 || !met())) begin();
        auto t = w.submit(i % 2 == 0 ? Op::read : Op::write, {0}, {0}, {kBytes});
        REQUIRE_MESSAGE(t.ok(), t.status().text());
        REQUIRE_MESSAGE(w.initiator->wait(**t, 20 * kSecond), "hung" << states(w));
        REQUIRE_MESSAGE((*t)->result().ok(), (*t)->result().text());
        REQUIRE(w.initiator->wait_released(**t, 20 * kSecond));
        REQUIRE(std::memcmp(w.theirs->base, w.memory.data(), kBytes) == 0);
    }
}

bool all_in_use(World& w, size_t links) {
    auto rows = w.initiator->links();
    return rows.size() >= links &&
           std::all_of(rows.begin(), rows.end(), [](const auto& row) { return row.view.used > 0; });
}

void run(const Reach& r, FaultPlan plan, int times = 12) {
    CAPTURE(r.name);
    bool later = std::any_of(plan.faults.begin(), plan.faults.end(), [](const Fault& f) { return f.at > 0; });
    auto faults = inject(std::move(plan));
    World w(r.shm, r.region, kBytes, r.bind, faults);
    while (later && !all_in_use(w, r.shm ? 1 : 2)) move_bytes(w, 1, nullptr);
    move_bytes(w, times, faults.get(), [&] {
        auto token = w.initiator->hold_loop();
        if (later) faults->jump_to(kWarm);
    });
    accounts_balance(w);
}

}  // namespace

TEST_CASE("with an empty plan nothing is different") {
    for (const Reach& r : {kTcp, kMemory, kPulled}) run(r, {}, 4);
}

TEST_CASE("attempts that are lost, refused, late or told twice") {
    for (const Reach& r : {kTcp, kMemory, kPulled}) {
        Fault refused;
        refused.kind = FaultKind::fail_submit;
        refused.from_attempt = 2;
        refused.attempts = 2;
        Fault twice;
        twice.kind = FaultKind::duplicate;
        Fault late;
        late.kind = FaultKind::delay;
        late.delay = kMillisecond;
        late.jitter = 2 * kMillisecond;
        late.chance_ppm = 300'000;
        run(r, {1, {refused, twice, late}});
    }
    Fault lost = on_rail(FaultKind::drop);
    lost.chance_ppm = 500'000;
    run(kTcp, {2, {lost}}, 6);
}

TEST_SUITE("protects:reroute") {
    TEST_CASE("invariant 3: a rail that fails, flaps, dies silently or in one direction fails no transfer") {
        Fault down = on_rail(FaultKind::down, kWarm);
        down.error = "carrier lost";
        run(kTcp, {3, {down}});
        Fault flap = on_rail(FaultKind::flap, kWarm);
        flap.period = 60 * kMillisecond;
        run(kTcp, {4, {flap}});
        Fault after = on_rail(FaultKind::fail_after);
        after.count = 3;
        run(kTcp, {5, {after}});
        run(kTcp, {6, {on_rail(FaultKind::silent, kWarm)}});
        for (FaultDirection d : {FaultDirection::out, FaultDirection::in}) {
            Fault one_way = on_rail(FaultKind::one_way, kWarm);
            one_way.direction = d;
            run(kTcp, {7, {one_way}});
        }
    }
}

TEST_CASE("a rail that slows down or stands still for a while") {
    Fault slow = on_rail(FaultKind::slow, kWarm);
    slow.factor = 10;
    run(kTcp, {8, {slow}});
    Fault stall = on_rail(FaultKind::stall, kWarm);
    stall.duration = 150 * kMillisecond;
    run(kTcp, {9, {stall}});
    // The only link there is: what waits goes on.
    for (const Reach& r : {kMemory, kPulled}) {
        Fault only;
        only.kind = FaultKind::stall;
        only.at = kWarm;
        only.duration = 100 * kMillisecond;
        run(r, {10, {only}});
        only.kind = FaultKind::slow;
        only.duration = 0;
        only.factor = 5;
        run(r, {11, {only}});
    }
}

TEST_CASE("every rail down for a while: transfers wait within their deadline and finish") {
    for (const Reach& r : {kTcp, kMemory}) {
        Fault all;
        all.kind = FaultKind::down;
        all.at = kWarm;
        all.duration = 300 * kMillisecond;
        run(r, {12, {all}});
    }
}

TEST_CASE(
    "no route for longer than the deadline: a clear end in bounded time, and nothing lands afterwards") {
    for (const Reach& r : {kTcp, kMemory, kPulled}) {
        CAPTURE(r.name);
        Fault all;
        all.kind = FaultKind::silent;
        all.from_attempt = 2;
        auto faults = inject({13, {all}});
        World w(r.shm, r.region, kBytes, r.bind, faults);
        std::memset(w.their_memory(), 1, kBytes);
        uint32_t id = w.theirs->id;
        uint64_t at = reinterpret_cast<uint64_t>(w.memory.data()), offset = 0, length = kBytes;
        Intent in;
        in.op = Op::read;
        in.peer = w.peer;
        in.local = std::span(&at, 1);
        in.segment = std::span(&id, 1);
        in.offset = std::span(&offset, 1);
        in.length = std::span(&length, 1);
        in.timeout = 300 * kMillisecond;
        auto t = w.initiator->submit(in, true);
        REQUIRE(t.ok());
        REQUIRE(w.initiator->wait(**t, 20 * kSecond));
        CHECK((*t)->result().code() == Code::deadline);
        REQUIRE(w.initiator->wait_released(**t, 20 * kSecond));
        std::memset(w.memory.data(), 2, kBytes);
        std::memset(w.their_memory(), 3, kBytes);
        Status s = w.initiator->unregister(w.ours->id, 10 * kSecond);
        REQUIRE_MESSAGE(s.ok(), s.text());
        CHECK(std::count(w.memory.begin(), w.memory.end(), 2) == static_cast<int64_t>(kBytes));
        accounts_balance(w);
    }
}

TEST_CASE("a transport refuses to stop a node") {
    Fault f;
    f.kind = FaultKind::stop_node;
    f.node = "owner";
    auto made = Faults::create({1, {f}});
    CHECK(made.status().code() == Code::invalid_argument);
}

}  // namespace tent::test
