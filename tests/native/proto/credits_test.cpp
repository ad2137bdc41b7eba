// Writer credits: few writers have no limit, many share what the rail carries in a fixed time, and all hear
// of it.
#include "proto/credits.h"

#include <doctest/doctest.h>

#include <map>

using namespace tent;
using namespace tent::proto;

namespace {

// `writers` of them, in turn, `bytes` each, at `rate` together; what each was told last.
struct Owner {
    WriterCredits credits;
    std::map<uint64_t, uint64_t> told;
    Nanos now = kSecond;
    void take(uint64_t writers, uint64_t bytes, uint64_t rate, Nanos span) {
        for (Nanos until = now + span; now < until;) {
            for (uint64_t w = 0; w < writers; ++w) {
                now += static_cast<Nanos>(bytes * 1'000'000'000 / rate);
                if (!credits.received(w, bytes, now)) continue;
                for (const WriterCredit& c : credits.shares()) told[c.connection] = c.window;
            }
        }
    }
};

}  // namespace

TEST_CASE("few writers have no limit") {
    Owner o;
    o.take(WriterCredits::kFew, 1 << 20, 1'000'000'000, kSecond);
    CHECK(o.told.empty());
}

TEST_CASE("many writers share what the rail carries in a fixed time, and no less than keeps them going") {
    for (uint64_t rate : {10'000'000ull, 1'000'000'000ull, 20'000'000'000ull}) {
        for (uint64_t writers : {5ull, 31ull, 200ull}) {
            Owner o;
            o.take(writers, 64 << 10, rate, 2 * kSecond);
            REQUIRE(o.told.size() == writers);
            uint64_t queue = rate / 500;  // 2 ms
            uint64_t all = std::max(WriterCredits::kLeast, queue);
            for (const auto& [writer, window] : o.told) {
                CHECK(window >= WriterCredits::kLeastShare);
                if (all / writers > WriterCredits::kLeastShare) {
                    CHECK(window * writers <= all * 5 / 4);
                    CHECK(window * writers >= all / 2);
                }
            }
        }
    }
}

TEST_CASE("who stops writing leaves its share to the others, and the last few lose their limit") {
    Owner o;
    o.take(40, 64 << 10, 1'000'000'000, kSecond);
    uint64_t crowded = o.told.at(0);
    o.take(10, 64 << 10, 1'000'000'000, 3 * kSecond);
    CHECK(o.told.at(0) > crowded);
    o.take(2, 64 << 10, 1'000'000'000, 3 * kSecond);
    CHECK(o.told.at(0) == 0);
    CHECK(o.told.at(1) == 0);
}

TEST_CASE("a connection that closed counts no longer") {
    Owner o;
    o.take(6, 64 << 10, 1'000'000'000, 100 * kMillisecond);
    REQUIRE(o.told.at(0) != 0);
    for (uint64_t w = 2; w < 6; ++w) o.credits.drop(w);
    o.take(2, 64 << 10, 1'000'000'000, 100 * kMillisecond);
    CHECK(o.told.at(0) == 0);
}
