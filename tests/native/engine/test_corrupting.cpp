// A rail that flips bytes under it is found by the checks of reads, named and taken down; no byte is wrong
// for it.
#include <cstring>

#include "base/digest.h"
#include "transport/fault/faults.h"
#include "world.h"

namespace tent::test {
namespace {

using transport::fault::Faults;

constexpr uint64_t kPage = 256 << 10, kPages = 32, kBytes = kPage * kPages;

std::shared_ptr<Faults> corrupting(const std::string& rail, uint32_t chance_ppm, uint32_t bytes = 3) {
    Fault f;
    f.kind = FaultKind::corrupt;
    f.rail = rail;
    f.chance_ppm = chance_ppm;
    f.bytes = bytes;
    auto made = Faults::create({17, {f}});
    REQUIRE(made.ok());
    return *made;
}

struct Pages {
    std::vector<uint64_t> at, offset, length, checks;
    explicit Pages(World& w) {
        for (uint64_t i = 0; i < kPages; ++i) {
            at.push_back(reinterpret_cast<uint64_t>(w.memory.data()) + i * kPage);
            offset.push_back(i * kPage);
            length.push_back(kPage);
            checks.push_back(page_check(Id128{}, w.theirs->base + i * kPage, kPage));
        }
    }
};

Result<std::shared_ptr<Transfer>> read(World& w, const Pages& p) {
    uint32_t id = w.theirs->id;
    Intent in;
    in.op = Op::read;
    in.peer = w.peer;
    in.local = p.at;
    in.segment = std::span(&id, 1);
    in.offset = p.offset;
    in.length = p.length;
    in.checks = p.checks;
    in.timeout = 20 * kSecond;
    return w.initiator->submit(in, true);
}

// Until both rails' links are up: without a second one there is nothing to compare with.
void bring_up(World& w) {
    while (w.initiator->links().size() < 2) {
        Status s = w.run(Op::read, {0}, {0}, {kPage});
        REQUIRE_MESSAGE(s.ok(), s.text());
    }
}

void read_right(World& w, uint64_t seed) {
    fill(w.their_memory(), kBytes, seed);
    std::memset(w.memory.data(), 0, kBytes);
    auto t = read(w, Pages(w));
    REQUIRE_MESSAGE(t.ok(), t.status().text());
    REQUIRE(w.initiator->wait(**t, 20 * kSecond));
    REQUIRE_MESSAGE((*t)->result().ok(), (*t)->result().text() << states(w));
    REQUIRE(std::memcmp(w.memory.data(), w.theirs->base, kBytes) == 0);
    REQUIRE(w.initiator->wait_released(**t, 20 * kSecond));
}

}  // namespace

TEST_SUITE("protects:check") {
    TEST_CASE("invariant 1: a corrupting rail is found, named and taken down, and no byte is wrong") {
        auto faults = corrupting("127.0.0.2", 1'000'000);
        World w(false, true, kBytes, {"127.0.0.1", "127.0.0.2"}, faults);
        bring_up(w);
        auto found = [&] {
            auto rows = w.initiator->links();
            return std::any_of(rows.begin(), rows.end(),
                               [](const auto& row) { return row.view.corrupting > 0; });
        };
        uint64_t seed = 0;
        do {
            REQUIRE(++seed < 200);
            read_right(w, seed);
        } while (!found());
        for (int i = 0; i < 5; ++i) read_right(w, ++seed);
        // Links that cross over to the rail are found out in their turn; those of the good one never.
        for (const auto& row : w.initiator->links()) {
            CAPTURE(row.name);
            bool bad = row.name.find("127.0.0.2") != std::string::npos;
            CHECK((bad || row.view.corrupting == 0));
            CHECK(row.view.posted ==
                  row.view.used + row.view.superseded + row.view.revoked + row.view.failed);
        }
        engine::Counters c = w.initiator->counters();
        CHECK(c.submitted == c.completed);
        CHECK(c.released == c.submitted);
        CHECK(c.check_failures == 0);
        CHECK(c.read_again >= 1);
    }

    TEST_CASE("invariant 1: a page that is bad at its owner is blamed on no link, and fails alone") {
        World w(false, true, kBytes, {"127.0.0.1", "127.0.0.2"});
        fill(w.their_memory(), kBytes, 5);
        Pages p(w);
        w.their_memory()[3 * kPage + 17] ^= 1;
        auto t = read(w, p);
        REQUIRE(t.ok());
        REQUIRE(w.initiator->wait(**t, 20 * kSecond));
        CHECK((*t)->result().code() == Code::check_failed);
        for (size_t i = 0; i < kPages; ++i)
            CHECK((*t)->state(i) == (i == 3 ? engine::RangeState::failed : engine::RangeState::ok));
        CHECK((*t)->prefix() == 3);
        for (const auto& row : w.initiator->links()) CHECK(row.view.corrupting == 0);
        CHECK(w.initiator->wait_released(**t, 20 * kSecond));
    }
}

// How many attempts there are, and so how many are spoilt, is the sprayer's to choose: on a busy machine
// slices are small. So each spoilt byte is held against the pages, not a number of transfers that come
// through.
TEST_CASE("the only rail spoils a slice now and then: what can be read again is right, and the rail stays") {
    auto faults = corrupting("*", 10'000, 1);
    World w(false, true, kBytes, {"127.0.0.1"}, faults);
    int mended = 0;
    for (uint64_t seed = 1; mended < 3; ++seed) {
        REQUIRE(seed < 500);
        fill(w.their_memory(), kBytes, seed);
        uint64_t before = faults->struck[0];
        auto t = read(w, Pages(w));
        REQUIRE(t.ok());
        REQUIRE(w.initiator->wait(**t, 20 * kSecond));
        uint64_t failed = 0;
        for (size_t i = 0; i < kPages; ++i) {
            bool same = std::memcmp(w.memory.data() + i * kPage, w.theirs->base + i * kPage, kPage) == 0;
            CHECK(same == ((*t)->state(i) == engine::RangeState::ok));
            failed += !same;
        }
        REQUIRE(w.initiator->wait_released(**t, 20 * kSecond));
        uint64_t struck = faults->struck[0] - before;
        CHECK(2 * failed <= struck);  // spoilt once, and once more when it was read again
        CHECK((*t)->result().ok() == (failed == 0));
        mended += failed == 0 && struck > 0;
    }
    CHECK(w.initiator->links().at(0).state != proto::kCorrupting);
}

TEST_CASE("cancelled while it is read again: released, and the memory is the caller's") {
    auto faults = corrupting("127.0.0.2", 1'000'000);
    for (uint64_t seed = 1; seed <= 10; ++seed) {
        World w(false, true, kBytes, {"127.0.0.1", "127.0.0.2"}, faults);
        for (int i = 0; i < 10; ++i) {
            fill(w.their_memory(), kBytes, seed + static_cast<uint64_t>(i));
            auto t = read(w, Pages(w));
            REQUIRE(t.ok());
            while (w.initiator->counters().read_again == 0 && !(*t)->done()) {
            }
            w.initiator->cancel(**t);
            REQUIRE(w.initiator->wait_released(**t, 20 * kSecond));
            std::memset(w.memory.data(), 9, kBytes);
            if (w.initiator->counters().read_again > 0) break;
        }
        engine::Counters c = w.initiator->counters();
        CHECK(c.submitted == c.completed + c.cancelled + c.failed);
        CHECK(c.released == c.submitted);
        CHECK(std::count(w.memory.begin(), w.memory.end(), 9) == static_cast<int64_t>(kBytes));
    }
}

}  // namespace tent::test
