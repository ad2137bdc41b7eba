#include "proto/attempts.h"

#include <doctest/doctest.h>

#include <set>

using namespace tent;
using namespace tent::proto;

TEST_CASE("a revoked attempt is admitted no more, seen before or not") {
    AttemptTable table;
    CHECK(table.admits(1));
    CHECK(table.admits(1000));
    table.revoke(7);
    CHECK_FALSE(table.admits(7));
    CHECK(table.admits(6));
    CHECK(table.admits(8));
    table.revoke(7);
    CHECK(table.revoked_above_floor() == 1);
}

TEST_CASE("everything below the floor is revoked, and the floor never falls") {
    AttemptTable table;
    for (AttemptId a : {3, 9, 12}) table.revoke(a);
    table.raise_floor(10);
    CHECK(table.revoked_above_floor() == 1);
    for (AttemptId a = 0; a < 10; ++a) CHECK_FALSE(table.admits(a));
    CHECK(table.admits(10));
    CHECK(table.admits(11));
    CHECK_FALSE(table.admits(12));
    table.raise_floor(4);
    CHECK(table.floor() == 10);
    CHECK_FALSE(table.admits(5));
    table.revoke(2);
    CHECK(table.revoked_above_floor() == 1);
    table.raise_floor(UINT64_MAX);
    CHECK_FALSE(table.admits(UINT64_MAX - 1));
    CHECK(table.admits(UINT64_MAX));
}

TEST_CASE("more revokes than there is room for close the session, and nothing lands meanwhile") {
    AttemptTable table;
    AttemptId a = 1;
    while (!table.overflowed()) {
        table.revoke(a++);
        REQUIRE(a < 1000000);
    }
    CHECK_FALSE(table.admits(a - 1));  // the one refused
    CHECK_FALSE(table.admits(a + 100));
}

TEST_CASE("a floor makes room") {
    AttemptTable table;
    for (AttemptId a = 1; a < 100000; ++a) {
        table.revoke(a);
        if (a % 1000 == 0) table.raise_floor(a - 10);
    }
    CHECK_FALSE(table.overflowed());
}

TEST_CASE(
    "an initiator that sends its smallest unfinished attempt along: what is open and not revoked is "
    "admitted, all else is not") {
    uint64_t state = 99;
    auto random = [&state](uint64_t below) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        return (state >> 33) % below;
    };
    AttemptId next = 1;
    AttemptTable table;
    std::set<AttemptId> open, revoked;
    AttemptId highest = 0, sent_floor = 0;
    for (int i = 0; i < 20000; ++i) {
        if (random(2) == 0 || open.empty()) {
            highest = next++;
            open.insert(highest);
        } else {
            auto it = std::next(open.begin(), static_cast<std::ptrdiff_t>(random(open.size())));
            AttemptId a = *it;
            open.erase(it);
            if (random(3) == 0) {
                table.revoke(a);
                revoked.insert(a);
                sent_floor = open.empty() ? next : *open.begin();
                table.raise_floor(sent_floor);
            }
        }
        if (open.size() > 60) open.clear();
        AttemptId probe = highest > 200 ? highest - random(200) : 1 + random(highest);
        if (open.contains(probe)) CHECK(table.admits(probe));
        if (revoked.contains(probe) || probe < sent_floor) CHECK_FALSE(table.admits(probe));
    }
    CHECK_FALSE(table.overflowed());
}
