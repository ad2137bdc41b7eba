// The link model alone, and the tables under it.
#include "sched/model.h"

#include <doctest/doctest.h>

#include <map>

#include "sched/math.h"
#include "sched/tables.h"
#include "world.h"

using namespace tent;
using namespace tent::sched;
using test::Random;

namespace {

constexpr uint64_t kGB = 1'000'000'000;
constexpr uint64_t kSlice = 256 << 10;

// `n` slices back to back at `rate`; the busy period goes on when `more`.
Nanos feed(RateModel& m, Nanos now, int n, uint64_t rate, bool more = true) {
    for (int i = 0; i < n; ++i) {
        now += time_of(kSlice, rate);
        if (m.deliver(kSlice, now, more || i + 1 < n, 0) == RateModel::Verdict::low) m.believe_low();
    }
    return now;
}

}  // namespace

TEST_CASE("the first samples replace a guess, in both directions") {
    for (uint64_t rate : {kGB / 50, kGB / 3, 10 * kGB}) {
        RateModel m;
        m.start(kGB, false);
        CHECK_FALSE(m.proven());
        m.busy(kSecond);
        feed(m, kSecond, 200, rate);
        CHECK(m.proven());
        CHECK(m.measured() >= rate * 99 / 100);
        CHECK(m.measured() <= rate * 101 / 100);
    }
}

TEST_CASE("what was held up by our own stall, and is found at once, is no rate") {
    for (bool told : {true, false}) {
        RateModel m;
        m.start(kGB / 5, true);
        m.busy(kSecond);
        Nanos now = feed(m, kSecond, 40, kGB / 5);
        now += 8 * kMillisecond;  // at the end of which 8 ms worth of bytes lie there, and are read in one
        if (told) m.stalled(now);
        now = feed(m, now, 6, 2 * kGB);
        now = feed(m, now, 2, kGB / 5);
        CHECK(told == (m.measured() < kGB / 5 * 110 / 100));
    }
}

TEST_CASE("what comes late, and then as fast as ever, is not slow; what trickles in is") {
    for (bool late : {true, false}) {
        RateModel m;
        m.start(kGB, true);
        Nanos now = kSecond;
        for (int period = 0; period < 8; ++period) {
            m.busy(now);
            for (int i = 0; i < 4; ++i) {  // four pieces of 64 KiB within some 5 ms
                now += late && i > 0 ? time_of(64 << 10, kGB) : 1300 * kMicrosecond * (late ? 4 : 1);
                if (m.deliver(64 << 10, now, i < 3, 0) == RateModel::Verdict::low) m.believe_low();
            }
            now += 10 * kMillisecond;
        }
        if (late) CHECK(m.measured() == kGB);
        if (!late) CHECK(m.measured() < kGB / 10);
    }
}

TEST_CASE("a burst is not a rate") {
    // A token bucket lets the first 128 KiB of a busy period through at 15 times its rate.
    RateModel m;
    m.start(kGB, false);
    Nanos now = kSecond;
    for (int period = 0; period < 20; ++period) {
        m.busy(now);
        now += time_of(128 << 10, 15 * kGB / 10);
        m.deliver(128 << 10, now, true, 0);
        now = feed(m, now, 20, kGB / 10, false) + 100 * kMillisecond;
    }
    CHECK(m.measured() >= kGB / 10 * 99 / 100);
    CHECK(m.measured() <= kGB / 10 * 110 / 100);
    CHECK(m.burst() > 64 << 10);
    CHECK(m.burst() < 192 << 10);
}

TEST_CASE("with nothing to send nothing is learned") {
    RateModel m;
    m.start(kGB, false);
    m.busy(kSecond);
    Nanos now = feed(m, kSecond, 50, kGB);
    uint64_t rate = m.measured();
    // Small pieces far apart: the link was idle in between.
    for (int i = 0; i < 100; ++i) {
        m.busy(now);
        m.deliver(4096, now + 50 * kMicrosecond, false, 20 * kMicrosecond);
        now += 10 * kMillisecond;
    }
    CHECK(m.measured() == rate);
}

TEST_CASE("one slow sample is noise, two are a slow-down") {
    RateModel m;
    m.start(kGB, false);
    m.busy(kSecond);
    Nanos now = feed(m, kSecond, 100, kGB);
    now = feed(m, now, 2, kGB / 5);
    CHECK(m.measured() > kGB * 9 / 10);
    now = feed(m, now, 8, kGB / 5);
    CHECK(m.measured() < kGB / 4);
    now = feed(m, now, 10, kGB);
    CHECK(m.measured() > kGB * 9 / 10);
}

TEST_CASE("what was lost is tried again after a while without news") {
    RateModel m;
    m.start(kGB, false);
    m.busy(kSecond);
    Nanos now = feed(m, kSecond, 100, kGB);
    m.bound(1, now);
    uint64_t bounded = m.rate(now);
    CHECK(bounded < kGB / 3);
    CHECK(bounded > kGB / 5);  // one silence is no measurement
    CHECK(m.rate(now + kSecond / 2) == bounded);
    CHECK(m.rate(now + 10 * kSecond) > kGB * 9 / 10);
}

TEST_CASE("base latency is the least of the last samples") {
    LatencyModel m;
    m.start(100);
    CHECK(m.get() == 100);
    for (Nanos v : {50, 20, 70}) m.sample(v);
    CHECK(m.get() == 20);
    for (int i = 0; i < 16; ++i) m.sample(60);
    CHECK(m.get() == 60);  // the path got longer
    m.sample(-5);
    CHECK(m.get() == 0);
}

TEST_CASE("arithmetic saturates") {
    CHECK(mul_div(UINT64_MAX, UINT64_MAX, 1) == UINT64_MAX);
    CHECK(mul_div(UINT64_MAX, 3, 3) == UINT64_MAX);
    CHECK(mul_div(7, 0, 0) == 0);
    CHECK(time_of(UINT64_MAX, 1) == kLongest);
    CHECK(add_time(kNever, 1) == kNever);
    CHECK(add_time(kLongest, kLongest) < kNever);
    CHECK(Pace(1).time(UINT64_MAX) == kLongest);
    Random r(1);
    for (int i = 0; i < 10000; ++i) {
        uint64_t bytes = r.below(uint64_t{1} << 32), rate = r.between(1'000'000, 100 * kGB);
        Nanos exact = time_of(bytes, rate), quick = Pace(rate).time(bytes);
        REQUIRE(quick <= exact);
        REQUIRE(exact - quick <= 1);
    }
}

TEST_CASE("tables and timers agree with the standard ones") {
    Random r(7);
    IdTable table;
    std::map<uint64_t, uint32_t> ids;
    Timers timers;
    std::map<uint32_t, Nanos> times;
    for (int i = 0; i < 50000; ++i) {
        uint64_t id = r.below(3000) * (r.chance(50) ? 1 : uint64_t{1} << 40);
        if (ids.contains(id)) {
            REQUIRE(table.find(id) == ids[id]);
            table.erase(id);
            ids.erase(id);
        } else {
            REQUIRE(table.find(id) == kNoId);
            auto slot = static_cast<uint32_t>(r.below(1000));
            table.insert(id, slot);
            ids[id] = slot;
        }
        REQUIRE(table.size() == ids.size());
        auto slot = static_cast<uint32_t>(r.below(200));
        Nanos when = r.chance(30) ? kNever : static_cast<Nanos>(r.below(1000));
        timers.set(slot, when);
        times.erase(slot);
        if (when != kNever) times[slot] = when;
        std::pair<Nanos, uint32_t> first{kNever, kNoId};
        for (auto [s, t] : times) first = std::min(first, {t, s});
        REQUIRE(timers.earliest() == first.first);
        REQUIRE(timers.earliest_slot() == first.second);
    }
}

TEST_CASE("before its first sample a rail is taken for what its later bytes showed, not for its burst") {
    RateModel m;
    m.start(kGB, false);
    Nanos now = kSecond;
    m.busy(now);
    now += 100 * kMicrosecond;
    m.deliver(128 << 10, now, true, 0);  // the burst
    for (int i = 0; i < 4; ++i) {
        now += 2 * kMillisecond;
        m.deliver(64 << 10, now, true, 0);  // 33 MB/s
    }
    CHECK_FALSE(m.proven());
    CHECK(m.measured() < 50'000'000);
    CHECK(m.measured() > 25'000'000);
    // Faster ones lift it again, up to the guess that everybody starts with.
    for (int i = 0; i < 20; ++i) {
        now += kMillisecond / 8;
        m.deliver(64 << 10, now, true, 0);
    }
    CHECK(m.measured() > 200'000'000);
    CHECK(m.measured() <= kGB);
}

TEST_CASE("a first slice that was held up is not held against a rail for ever") {
    RateModel m;
    m.start(kGB, false);
    Nanos now = kSecond;
    m.busy(now);
    now += 100 * kMillisecond;
    m.deliver(64 << 10, now, false, 0);
    CHECK(m.rate(now) < 10'000'000);
    CHECK(m.rate(now + kSecond / 2) < 10'000'000);
    CHECK(m.rate(now + 10 * kSecond) == kGB);  // so slow a rail gets no work that could show otherwise
}

TEST_CASE("a short busy period raises no rate by its burst") {
    RateModel m;
    m.start(100'000'000, true);
    Nanos now = kSecond;
    for (int round = 0; round < 10; ++round) {
        m.busy(now);
        now += 100 * kMicrosecond;
        m.deliver(256 << 10, now, true, 0);
        for (int i = 0; i < 5; ++i) {
            now += 655'360;
            m.deliver(64 << 10, now, i < 4, 0);  // 100 MB/s
        }
        now += 20 * kMillisecond;
    }
    CHECK(m.measured() <= 105'000'000);
}

TEST_CASE("what was found slow stays slow for a second, however long ago the last good sample was") {
    RateModel m;
    m.start(100'000'000, true);
    Nanos now = 100 * kSecond;
    m.busy(now);
    now += kMillisecond;
    for (int i = 0; i < 40; ++i) m.deliver(256 << 10, now += 2'621'440, true, 0);
    m.deliver(1, now, false, 0);
    now += 50 * kSecond;
    for (int round = 0; round < 2; ++round) {
        m.busy(now);
        now += 50 * kMillisecond;
        if (m.deliver(256 << 10, now, false, 0) == RateModel::Verdict::low) m.believe_low();
    }
    CHECK(m.rate(now) < 10'000'000);
    CHECK(m.rate(now + kSecond / 2) < 10'000'000);
    CHECK(m.rate(now + 3 * kSecond) > 20'000'000);
}

TEST_CASE("a busy link that became too slow for a sample is found out all the same") {
    RateModel m;
    m.start(30'000'000, true);
    Nanos now = kSecond;
    m.busy(now);
    for (int i = 0; i < 40; ++i) m.deliver(64 << 10, now += 2'184'533, true, 0);
    CHECK(m.measured() > 29'000'000);
    for (int i = 0; i < 7; ++i) {  // a tenth
        if (m.deliver(64 << 10, now += 21'845'333, true, 0) == RateModel::Verdict::low) m.believe_low();
    }
    CHECK(m.measured() < 4'000'000);
}
