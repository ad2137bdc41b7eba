// Extents lent to writers in other processes, through the messages that they send.
#include "store/lending.h"

#include "store/store.h"
#include "support.h"

using namespace tent;
using namespace tent::test;
using proto::Method;

namespace {

struct RemoteWriter {
    Pool& pool;
    WriterId id;

    template <class Request, class Reply>
    Code call(Method method, const Request& request, Reply& reply) {
        Bytes body;
        proto::encode(request, body);
        auto answer = serve_call(*pool.store, id, static_cast<uint16_t>(method), body, 0);
        if (!answer.ok()) return answer.status().code();
        return proto::decode(*answer, reply);
    }
    proto::Lent lend(uint64_t largest = 1000) {
        proto::Lent lent;
        REQUIRE(call(Method::lend, proto::LendRequest{1 << 20, largest}, lent) == Code::ok);
        return lent;
    }
    PageStatus commit(const proto::Lent& lent, uint64_t n, uint64_t offset, const Bytes& bytes,
                      uint64_t generation = 0) {
        proto::CommitRequest request;
        request.loan = lent.loan;
        request.epoch = lent.epoch;
        request.space = pool.space;
        request.generation = generation;
        request.items.push_back(
            {id_of(n), offset, bytes.size(), page_check(id_of(n), bytes.data(), bytes.size())});
        proto::Statuses reply;
        REQUIRE(call(Method::commit, request, reply) == Code::ok);
        REQUIRE(reply.values.size() == 1);
        return static_cast<PageStatus>(reply.values[0]);
    }
    void give_back(uint64_t loan) {
        Bytes body;
        proto::encode(proto::GiveBack{loan}, body);
        CHECK(serve_call(*pool.store, id, static_cast<uint16_t>(Method::give_back), body, 0).ok());
    }
};

}  // namespace

TEST_CASE("a writer lays pages into a loan; they are visible once committed") {
    Pool pool(1 << 20, 8);
    RemoteWriter writer{pool, {id_of(50), id_of(60)}};
    proto::Lent lent = writer.lend();
    REQUIRE(lent.code == static_cast<uint8_t>(PageStatus::STORED));
    Bytes first = page(1, 5000), second = page(2, 7000), out(5000);
    uint64_t at = lent.offset + kSlotHeader;
    std::memcpy(pool.base + at, first.data(), first.size());
    CHECK(pool.find(1) == PageStatus::ABSENT);
    CHECK(writer.commit(lent, 1, at, first) == PageStatus::STORED);
    CHECK(pool.get(1, out) == PageStatus::HIT);
    CHECK(out == first);
    uint64_t next = lent.offset + slot_bytes(5000) + kSlotHeader;
    std::memcpy(pool.base + next, second.data(), second.size());
    CHECK(writer.commit(lent, 2, next, second) == PageStatus::STORED);
    CHECK(writer.commit(lent, 1, next + slot_bytes(7000), first) == PageStatus::PRESENT);
    auto queued = pool.store->take_unpublished(10);
    CHECK(queued.size() == 2);  // the owner publishes what was committed to it
    writer.give_back(lent.loan);
    CHECK(writer.commit(lent, 3, next + 2 * slot_bytes(7000), first) == PageStatus::REFUSED);
    CHECK(pool.store->stats().lent_extents == 0);
    CHECK(pool.store->rebuild() == 2);
}

TEST_CASE("invariant 6: a commit outside the loan, or over a page that is there, is refused") {
    Pool pool(1 << 20, 8);
    RemoteWriter writer{pool, {id_of(50), id_of(60)}}, stranger{pool, {id_of(51), id_of(61)}};
    proto::Lent lent = writer.lend();
    Bytes bytes = page(1, 5000);
    uint64_t at = lent.offset + kSlotHeader;
    for (uint64_t bad : {lent.offset, at + 1, lent.offset + lent.length - 64, lent.offset + lent.length,
                         uint64_t{1} << 40}) {
        CHECK(writer.commit(lent, 1, bad, bytes) == PageStatus::REFUSED);
    }
    CHECK(stranger.commit(lent, 1, at, bytes) == PageStatus::REFUSED);
    CHECK(writer.commit(lent, 1, at, bytes) == PageStatus::STORED);
    CHECK(writer.commit(lent, 2, at, bytes) == PageStatus::REFUSED);
}

TEST_SUITE("protects:epoch") {
    TEST_CASE("invariant 1: a commit under another epoch is refused") {
        Pool pool(1 << 20, 8);
        RemoteWriter writer{pool, {id_of(50), id_of(60)}};
        proto::Lent lent = writer.lend();
        lent.epoch += 1;
        CHECK(writer.commit(lent, 1, lent.offset + kSlotHeader, page(1, 500)) == PageStatus::REFUSED);
    }
}

TEST_SUITE("protects:generation") {
    TEST_CASE("invariant 1: a page computed before a clear is not committed after it") {
        Pool pool(1 << 20, 8);
        RemoteWriter writer{pool, {id_of(50), id_of(60)}};
        proto::Lent lent = writer.lend();
        pool.store->clear(pool.space, 2);
        CHECK(writer.commit(lent, 1, lent.offset + kSlotHeader, page(1, 500), 1) == PageStatus::CLEARED);
    }
}

TEST_CASE("a silent writer's extent waits until the writer is proven gone") {
    Pool pool(1 << 20, 8, 2 << 20);
    RemoteWriter writer{pool, {id_of(50), id_of(60)}}, other{pool, {id_of(51), id_of(61)}};
    proto::Lent lent = writer.lend();
    Bytes bytes = page(1, 5000);
    std::memcpy(pool.base + lent.offset + kSlotHeader, bytes.data(), bytes.size());
    CHECK(writer.commit(lent, 1, lent.offset + kSlotHeader, bytes) == PageStatus::STORED);
    pool.store->writer_lost(writer.id);
    CHECK(pool.store->stats().quarantined_extents == 1);
    CHECK_FALSE(pool.reclaim());
    CHECK(pool.epochs[lent.extent] == lent.epoch);
    CHECK(pool.find(1) == PageStatus::HIT);  // what was committed is whole
    CHECK(writer.commit(lent, 2, lent.offset + 2 * slot_bytes(5000), bytes) == PageStatus::REFUSED);
    pool.store->writer_gone(other.id);
    CHECK(pool.store->stats().quarantined_extents == 1);
    pool.store->writer_gone(writer.id);
    CHECK(pool.store->stats().quarantined_extents == 0);
    CHECK(pool.reclaim());
}

TEST_CASE("loans are bounded: per writer, and half of the store in all") {
    Pool pool(1 << 20, 8, 2 << 20);
    RemoteWriter a{pool, {id_of(50), id_of(60)}}, b{pool, {id_of(51), id_of(61)}},
        c{pool, {id_of(52), id_of(62)}};
    auto code = [](const proto::Lent& l) { return static_cast<PageStatus>(l.code); };
    CHECK(code(a.lend()) == PageStatus::STORED);
    CHECK(code(a.lend()) == PageStatus::STORED);
    CHECK(code(a.lend()) == PageStatus::QUOTA);
    pool.store->writer_lost(a.id);
    CHECK(code(a.lend()) == PageStatus::QUOTA);  // quarantine counts
    CHECK(code(b.lend()) == PageStatus::STORED);
    CHECK(code(b.lend()) == PageStatus::STORED);
    CHECK(code(c.lend()) == PageStatus::NO_SPACE);
    CHECK(code(c.lend(2 << 20)) == PageStatus::TOO_LARGE);
    CHECK(pool.put(1, page(1, 5000)) == PageStatus::STORED);
}

TEST_CASE("calls that are no calls") {
    Pool pool(1 << 20, 8);
    Bytes junk = {1, 0, 9, 9, 9};
    for (uint16_t method = 0; method < 70; ++method) {
        auto answer = serve_call(*pool.store, WriterId{id_of(1), {}}, method, junk, 0);
        CHECK_FALSE(answer.ok());
    }
    Bytes newer = {2, 0};
    CHECK(serve_call(*pool.store, WriterId{id_of(1), {}}, 1, newer, 0).status().code() ==
          Code::version_mismatch);
    CHECK(serve_call(*pool.store, WriterId{id_of(1), {}}, 60, junk, 0).status().code() == Code::unsupported);
}

TEST_CASE("leases, hits, removals and figures for peers") {
    Pool pool(1 << 20, 4);
    pool.put(1, page(1, 5000));
    RemoteWriter peer{pool, {id_of(50), id_of(60)}};
    proto::PinRequest pin;
    pin.milliseconds = 1000;
    pin.digests = {id_of(1), id_of(2)};
    proto::Statuses status;
    REQUIRE(peer.call(Method::pin, pin, status) == Code::ok);
    CHECK(status.values == std::vector<uint8_t>{0, 16});
    proto::StoreStat stat;
    REQUIRE(peer.call(Method::stat, proto::StatRequest{}, stat) == Code::ok);
    CHECK(stat.pages == 1);
    CHECK(stat.capacity == 4 << 20);
    proto::RemoveRequest remove;
    remove.digests = {id_of(1)};
    REQUIRE(peer.call(Method::remove, remove, status) == Code::ok);
    CHECK(pool.find(1) == PageStatus::ABSENT);
}
