#include "proto/lease.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <vector>

using namespace tent;
using namespace tent::proto;

namespace {
constexpr Nanos kLease = 3 * kSecond;
}

TEST_CASE("only the echo of a token renews, and only to its issue time plus the lease") {
    OwnerLease owner(kLease, 1000);
    CHECK(owner.expires() == 1000 + kLease);
    uint64_t first = owner.issue(2000), second = owner.issue(3000);
    CHECK(second > first);
    CHECK(owner.expires() == 1000 + kLease);  // issuing renews nothing
    CHECK(owner.echoed(first, 500000));       // a late echo counts from the issue
    CHECK(owner.expires() == 2000 + kLease);
    CHECK(owner.echoed(second, 600000));
    CHECK(owner.expires() == 3000 + kLease);
}

TEST_CASE("an old, repeated or invented token renews nothing") {
    OwnerLease owner(kLease, 0);
    uint64_t first = owner.issue(10), second = owner.issue(20);
    CHECK(owner.echoed(second, 30));
    CHECK_FALSE(owner.echoed(second, 40));
    CHECK_FALSE(owner.echoed(first, 40));
    CHECK_FALSE(owner.echoed(second + 1, 40));
    CHECK_FALSE(owner.echoed(0, 40));
    CHECK_FALSE(owner.echoed(UINT64_MAX, 40));
    CHECK(owner.expires() == 20 + kLease);
}

TEST_CASE("a lease that ran out stays out") {
    OwnerLease owner(kLease, 0);
    uint64_t token = owner.issue(0);
    CHECK(owner.valid(kLease - 1));
    CHECK_FALSE(owner.valid(kLease));
    CHECK_FALSE(owner.echoed(token, kLease));
    CHECK_FALSE(owner.valid(0));  // even by a clock that went back
    uint64_t later = owner.issue(kLease);
    CHECK_FALSE(owner.echoed(later, kLease));
    CHECK_FALSE(owner.valid(kLease + 1));
}

TEST_CASE("an echo that arrives after the end does not revive the lease") {
    OwnerLease owner(kLease, 0);
    uint64_t token = owner.issue(kLease - 1);
    CHECK_FALSE(owner.echoed(token, kLease));
    CHECK_FALSE(owner.valid(kLease));
}

TEST_CASE("a token forgotten is one that could renew nothing at the default pace") {
    OwnerLease owner(kLease, 0);
    std::vector<uint64_t> tokens;
    Nanos now = 0;
    for (int i = 0; i < 250; ++i) tokens.push_back(owner.issue(now += 10 * kMillisecond));
    CHECK(owner.echoed(tokens.front(), now));
    // Memory is bounded all the same.
    for (int i = 0; i < 100000; ++i) owner.issue(now);
    CHECK_FALSE(owner.echoed(tokens.back(), now));
}

TEST_CASE("a lease without end") {
    OwnerLease owner(kNever, 5);
    CHECK(owner.valid(kNever - 1));
    WriterLease writer(kNever, 5);
    CHECK(writer.fenced_at() == kNever);
}

TEST_CASE("the writer counts from the receipt of its last token") {
    WriterLease writer(kLease, 1000);
    Nanos slack = kLease / 256 + 10 * kMillisecond;
    CHECK(writer.last_token() == 0);
    CHECK(writer.fenced_at() == 1000 + kLease + slack);
    writer.received(5, 2000);
    CHECK(writer.last_token() == 5);
    CHECK(writer.fenced_at() == 2000 + kLease + slack);
    writer.received(4, 9000);  // overtaken
    writer.received(5, 9000);  // repeated
    CHECK(writer.last_token() == 5);
    CHECK(writer.fenced_at() == 2000 + kLease + slack);
}

// The property that matters: however tokens and echoes are delayed or lost, and whatever offset and drift the
// clocks have (up to 1/256), the owner takes nothing any more at the time from which the writer reports
// failure.
TEST_CASE("the owner has always stopped when the writer reports") {
    uint64_t state = 12345;
    auto random = [&state](uint64_t below) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        return static_cast<Nanos>((state >> 33) % below);
    };
    for (int round = 0; round < 500; ++round) {
        // True time t; the owner's clock reads t, the writer's t * (1 + drift/1024) + offset.
        Nanos drift = random(7) - 3, offset = random(1000) * kSecond;
        auto writer_clock = [&](Nanos t) { return t + t / 1024 * drift + offset; };
        Nanos t = random(50) * kMillisecond;
        OwnerLease owner(kLease, t);
        t += random(100) * kMillisecond;
        WriterLease writer(kLease, writer_clock(t));
        for (int i = 0; i < 30; ++i) {
            uint64_t token = owner.issue(t);
            t += random(400) * kMillisecond;
            if (random(4) == 0) continue;  // the token is lost
            writer.received(token, writer_clock(t));
            Nanos at = t + random(3000) * kMillisecond;
            if (random(4) != 0) (void)owner.echoed(token, at);
            t = std::max(t, at - random(2000) * kMillisecond);
        }
        Nanos fenced = t;
        while (writer_clock(fenced) < writer.fenced_at()) fenced += kMillisecond;
        CHECK_FALSE(owner.valid(fenced));
    }
}
