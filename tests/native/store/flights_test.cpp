// Several threads that want one page: one fetches, the others get copies, whatever their memory looks like.
#include "store/flights.h"

#include <doctest/doctest.h>

#include "support.h"

using namespace tent;
using namespace tent::store;
using namespace tent::test;

namespace {

constexpr size_t kBytes = 100'000;

// A reader's page in `parts` pieces, and its ticket.
struct Want {
    Want(const std::shared_ptr<Flights>& flights, size_t parts, uint8_t priority = 0, uint8_t version = 7)
        : memory(kBytes + parts), version_id{version} {
        for (size_t i = 0; i < parts; ++i) {
            lengths.push_back(i + 1 < parts ? kBytes / parts : kBytes - (parts - 1) * (kBytes / parts));
            // A byte between two parts, so that they do not lie in one piece.
            addresses.push_back(reinterpret_cast<uint64_t>(memory.data()) + i * (kBytes / parts + 1));
        }
        Destinations d{1, parts, digest.data(), version_id.data(), addresses.data(), lengths.data()};
        uint8_t wanted = 1;
        ticket = Flights::join(flights, d, {&wanted, 1}, priority);
    }
    void fetch(const Bytes& page) {
        size_t at = 0;
        for (size_t i = 0; i < lengths.size(); ++i) {
            std::memcpy(reinterpret_cast<void*>(addresses[i]), page.data() + at, lengths[i]);
            at += lengths[i];
        }
    }
    Bytes got() const {
        Bytes out;
        for (size_t i = 0; i < lengths.size(); ++i) {
            auto* p = reinterpret_cast<const uint8_t*>(addresses[i]);
            out.insert(out.end(), p, p + lengths[i]);
        }
        return out;
    }
    PageStatus leave() {
        PageStatus s = PageStatus::INTERNAL;
        ticket->wait(0);
        ticket->leave({&s, 1});
        return s;
    }
    void land(PageStatus s, uint64_t check, bool verify = true) {
        ticket->land({&s, 1}, {&check, 1}, verify);
    }

    Bytes memory;
    Id128 digest = id_of(1), version_id;
    std::vector<uint64_t> addresses, lengths;
    std::unique_ptr<Flights::Ticket> ticket;
};

}  // namespace

TEST_CASE("flights: who asks while a page is fetched is handed a copy, from any parts into any") {
    Bytes contents = page(1, kBytes);
    uint64_t check = page_check(id_of(1), contents.data(), contents.size());
    for (size_t from : {1, 3}) {
        for (size_t to : {1, 3}) {
            auto flights = std::make_shared<Flights>(Executor{});
            Want leader(flights, from), first(flights, to), second(flights, to);
            CHECK_FALSE(leader.ticket->follows(0));
            REQUIRE(first.ticket->follows(0));
            CHECK(flights->following() == 2);
            leader.fetch(contents);
            leader.land(PageStatus::HIT, check);
            CHECK(flights->under_way() == 0);
            CHECK(first.leave() == PageStatus::HIT);
            CHECK(first.got() == contents);
            CHECK(second.leave() == PageStatus::HIT);
            CHECK(second.got() == contents);
        }
    }
}

TEST_SUITE_BEGIN("protects:check");

TEST_CASE("invariant 1: what a follower is handed is verified in its own memory") {
    auto flights = std::make_shared<Flights>(Executor{});
    Bytes contents = page(1, kBytes);
    uint64_t check = page_check(id_of(1), contents.data(), contents.size());
    Want leader(flights, 1), follower(flights, 3);
    contents[77] ^= 1;  // its caller wrote into its memory before the copy
    leader.fetch(contents);
    leader.land(PageStatus::HIT, check);
    CHECK(follower.leave() == PageStatus::PENDING);  // it fetches for itself
}

TEST_SUITE_END();

TEST_CASE("flights: each follower hears why its page did not come, unless that was the leader's own reason") {
    auto flights = std::make_shared<Flights>(Executor{});
    auto told = [&](PageStatus s) {
        Want leader(flights, 1), follower(flights, 1);
        leader.land(s, 0);
        return follower.leave();
    };
    CHECK(told(PageStatus::OWNER_UNREACHABLE) == PageStatus::OWNER_UNREACHABLE);
    CHECK(told(PageStatus::CHECK_FAILED) == PageStatus::CHECK_FAILED);
    CHECK(told(PageStatus::DEADLINE) == PageStatus::PENDING);
    CHECK(told(PageStatus::CANCELLED) == PageStatus::PENDING);
}

TEST_CASE("flights: another version, another length and less urgent fetches are not waited for") {
    auto flights = std::make_shared<Flights>(Executor{});
    Want leader(flights, 1, 2);
    CHECK_FALSE(Want(flights, 1, 0).ticket->follows(0));  // interactive beside bulk
    CHECK_FALSE(Want(flights, 1, 2, 8).ticket->follows(0));
    CHECK(Want(flights, 1, 2).ticket->follows(0));
}

TEST_CASE("flights: who has left is not written to, and a leader that vanishes leaves nobody waiting") {
    auto flights = std::make_shared<Flights>(Executor{});
    Bytes contents = page(1, kBytes);
    auto leader = std::make_unique<Want>(flights, 1);
    Want gone(flights, 1), stays(flights, 1);
    CHECK(gone.leave() == PageStatus::PENDING);
    leader->fetch(contents);
    leader.reset();
    CHECK(gone.got() == Bytes(kBytes));
    CHECK(stays.leave() == PageStatus::PENDING);
    CHECK(flights->under_way() == 0);
}
