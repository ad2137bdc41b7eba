// What stays in a full pool, how long pages may stay, and how much of it a tenant may have.
#include "store/ghosts.h"
#include "store/store.h"
#include "support.h"

using namespace tent;
using namespace tent::test;

namespace {

constexpr size_t kSize = 4000;
constexpr uint64_t kExtent = 64 << 10;  // 16 pages
constexpr size_t kExtents = 16;         // enough for two logs

Nanos test_time = 1;

Nanos test_clock() {
    return test_time;
}

struct Limited : Pool {
    explicit Limited(Nanos ttl, uint64_t quota = 0, size_t extents = kExtents) : Pool(kExtent, extents) {
        test_time = 1;
        config.clock = &test_clock;
        config.ttl = ttl;
        config.tenant_quota = quota;
        store = *Store::create(config);
    }
    PageStatus put_for(const Id128& in, uint64_t n, Nanos stay = -1) {
        Bytes content = page(n, kSize);
        Id128 digest = id_of(n);
        uint64_t address = reinterpret_cast<uint64_t>(content.data()), length = content.size();
        PageBatch b{1, 1, digest.data(), &address, &length, nullptr, nullptr};
        b.ttl = stay;
        PageStatus s{};
        store->put(in, 0, b, {&s, 1});
        if (s == PageStatus::NO_SPACE && reclaim(kExtent)) return put_for(in, n, stay);
        return s;
    }
    PageStatus put_one(uint64_t n) { return put_for(space, n); }
};

size_t found(Pool& pool, uint64_t first, uint64_t end) {
    size_t hits = 0;
    for (uint64_t n = first; n < end; ++n) hits += pool.find(n) == PageStatus::HIT;
    return hits;
}

}  // namespace

TEST_CASE("pages that are read again and again outlive many times the pool of pages that nobody reads") {
    Limited pool(0);
    Bytes out(kSize);
    for (uint64_t n = 0; n < 40; ++n) REQUIRE(pool.put_one(n) == PageStatus::STORED);
    for (uint64_t n = 1000; n < 3000; ++n) {  // eight times the pool
        REQUIRE(pool.put_one(n) == PageStatus::STORED);
        if (n % 50 == 0) {
            for (uint64_t hot = 0; hot < 40; ++hot) CHECK(pool.get(hot, out) == PageStatus::HIT);
        }
    }
    CHECK(out == page(39, kSize));
    StoreStats s = pool.store->stats();
    CHECK(s.moved > 0);
    CHECK(s.moved_bytes * 2 <= s.stored_bytes + 2 * kExtent);
}

TEST_CASE("hits that readers report keep pages as hits of this node do") {
    Limited pool(0);
    std::vector<Id128> hot;
    for (uint64_t n = 0; n < 40; ++n) {
        REQUIRE(pool.put_one(n) == PageStatus::STORED);
        hot.push_back(id_of(n));
    }
    for (uint64_t n = 1000; n < 2000; ++n) {
        REQUIRE(pool.put_one(n) == PageStatus::STORED);
        if (n % 50 == 0) pool.store->note_hits(hot);
    }
    CHECK(found(pool, 0, 40) == 40);
}

TEST_CASE("a page that comes back soon after it left stays longer than one that nobody has seen") {
    Limited pool(0);
    uint64_t n = 0;
    while (pool.store->stats().evicted == 0) REQUIRE(pool.put_one(n++) == PageStatus::STORED);
    uint64_t gone = 0;
    while (pool.find(gone) == PageStatus::HIT) ++gone;
    REQUIRE(pool.reclaim(kExtent));  // as upkeep does: there is room for a new extent of either log
    REQUIRE(pool.put_one(gone) == PageStatus::STORED);
    CHECK(pool.store->stats().ghost_hits == 1);
    CHECK(pool.store->stats().newcomer_share > 0);
    uint64_t beside = n;  // came when it came back
    for (; n < 1000; ++n) REQUIRE(pool.put_one(n) == PageStatus::STORED);
    CHECK(pool.find(gone) == PageStatus::HIT);
    CHECK(pool.find(beside) == PageStatus::ABSENT);
}

TEST_CASE("pins and leases hold through many reclaims") {
    Limited pool(0);
    Id128 ids[2] = {id_of(3), id_of(20)};
    for (uint64_t n = 0; n < 40; ++n) pool.put_one(n);
    PageStatus s[2];
    pool.store->pin({ids, 1}, true, {s, 1});
    pool.store->lease({ids + 1, 1}, 1000, {s + 1, 1});
    uint64_t offset = pool.record(3).replicas[0].offset, leased = pool.record(20).replicas[0].offset;
    for (uint64_t n = 100; n < 1500; ++n) REQUIRE(pool.put_one(n) == PageStatus::STORED);
    CHECK(pool.record(3).replicas[0].offset == offset);
    CHECK(pool.record(20).replicas[0].offset == leased);
}

TEST_CASE("room in holes is won before any page that is there goes") {
    Limited pool(0);
    uint64_t n = 0;
    while (pool.store->free_extents() > 1) REQUIRE(pool.put_one(n++) == PageStatus::STORED);
    // Half of the pages of every extent are removed; nobody read any.
    size_t left = 0;
    for (uint64_t i = 0; i < n; ++i) {
        Id128 id = id_of(i);
        PageStatus s{};
        if (i % 2 == 0) pool.store->remove({&id, 1}, {&s, 1});
        left += i % 2;
    }
    for (int i = 0; i < 8; ++i) REQUIRE(pool.reclaim(kExtent));
    CHECK(pool.store->stats().evicted == 0);
    CHECK(found(pool, 0, n) == left);
    Bytes out(kSize);
    CHECK(pool.get(1, out) == PageStatus::HIT);
    CHECK(out == page(1, kSize));
}

TEST_CASE("ghosts are forgotten in time, the newcomers sooner") {
    Ghosts ghosts;
    CHECK(ghosts.find(id_of(0)) == Ghosts::Kind::none);
    ghosts.note(id_of(0), false, 100);
    ghosts.note(id_of(1), true, 100);
    CHECK(ghosts.find(id_of(0)) == Ghosts::Kind::newcomer);
    CHECK(ghosts.find(id_of(1)) == Ghosts::Kind::keeper);
    for (uint64_t n = 10; n < 80; ++n) {
        ghosts.note(id_of(n), false, 100);
        ghosts.note(id_of(1000 + n), true, 100);
    }
    CHECK(ghosts.find(id_of(0)) == Ghosts::Kind::none);
    CHECK(ghosts.find(id_of(1)) == Ghosts::Kind::keeper);
    ghosts.forget(id_of(1));
    CHECK(ghosts.find(id_of(1)) == Ghosts::Kind::none);
}

TEST_CASE("a page whose time is over is a miss at once, and leaves the directory") {
    Limited pool(1000);
    REQUIRE(pool.put_one(1) == PageStatus::STORED);
    REQUIRE(pool.put_for(pool.space, 2, 5000) == PageStatus::STORED);
    REQUIRE(pool.put_for(pool.space, 3, 0) == PageStatus::STORED);
    Id128 ids[3] = {id_of(1), id_of(2), id_of(3)};
    CHECK(pool.store->confirm(ids).empty());
    test_time += 999;
    Bytes out(kSize);
    CHECK(pool.get(1, out) == PageStatus::HIT);
    CHECK(pool.store->take_unpublish(10).empty());
    test_time += 1;
    CHECK(pool.get(1, out) == PageStatus::ABSENT);
    CHECK(pool.find(1) == PageStatus::ABSENT);
    auto gone = pool.store->take_unpublish(10);
    REQUIRE(gone.size() == 1);
    CHECK(gone[0].digest == id_of(1));
    CHECK(pool.find(2) == PageStatus::HIT);
    test_time += 4000;
    CHECK(pool.find(2) == PageStatus::ABSENT);
    CHECK(pool.find(3) == PageStatus::HIT);
    CHECK(pool.put_one(2) == PageStatus::STORED);  // it may come back before anybody has cleared it away
    CHECK(pool.store->take_unpublish(10).size() == 1);
    CHECK(pool.store->stats().expired == 1);
    CHECK(pool.find(2) == PageStatus::HIT);
}

TEST_CASE("a page that is moved keeps its time") {
    Limited pool(1000);
    uint64_t n = 0;
    REQUIRE(pool.put_one(n++) == PageStatus::STORED);
    uint64_t offset = pool.record(0).replicas[0].offset;
    Bytes out(kSize);
    CHECK(pool.get(0, out) == PageStatus::HIT);
    test_time += 500;
    while (pool.record(0).replicas[0].offset == offset) REQUIRE(pool.put_one(n++) == PageStatus::STORED);
    test_time += 500;
    CHECK(pool.find(0) == PageStatus::ABSENT);
    CHECK(pool.find(n - 1) == PageStatus::HIT);
    pool.store->take_unpublish(10);
    CHECK(pool.store->stats().expired == 1);
}

TEST_CASE("a tenant beyond its quota loses its own pages, those not read first; others lose none") {
    Limited pool(0, 10 * kSize);
    Id128 mine = id_of(10'000), spaces[2] = {id_of(20'000), id_of(30'000)};
    pool.store->assign(spaces[0], mine);
    for (uint64_t n = 500; n < 600; ++n) REQUIRE(pool.put_one(n) == PageStatus::STORED);
    for (uint64_t n = 0; n < 10; ++n) REQUIRE(pool.put_for(spaces[0], n) == PageStatus::STORED);
    CHECK(pool.store->tenant_bytes(mine) == 10 * kSize);
    pool.store->assign(spaces[1], mine);
    Bytes out(kSize);
    CHECK(pool.get(0, out) == PageStatus::HIT);
    for (uint64_t n = 10; n < 15; ++n) REQUIRE(pool.put_for(spaces[n % 2], n) == PageStatus::STORED);
    CHECK(pool.store->tenant_bytes(mine) == 10 * kSize);
    CHECK(pool.find(0) == PageStatus::HIT);
    CHECK(found(pool, 1, 6) == 0);
    CHECK(found(pool, 6, 15) == 9);
    CHECK(found(pool, 500, 600) == 100);
    // Far more than the pool holds, beside pages that nobody reads: its own holes are its room.
    for (uint64_t n = 1000; n < 2000; ++n) REQUIRE(pool.put_for(spaces[0], n) == PageStatus::STORED);
    CHECK(found(pool, 500, 600) == 100);
    CHECK(pool.store->stats().quota_evicted == 1005);
}

TEST_CASE("a tenant whose pages are all kept is told QUOTA, and so is a page larger than its quota") {
    Limited pool(0, 3 * kSize);
    Id128 space = id_of(20'000);
    pool.store->assign(space, id_of(10'000));
    Id128 ids[3] = {id_of(0), id_of(1), id_of(2)};
    for (uint64_t n = 0; n < 3; ++n) REQUIRE(pool.put_for(space, n) == PageStatus::STORED);
    PageStatus s[3];
    pool.store->pin({ids, 2}, true, {s, 2});
    pool.store->lease({ids + 2, 1}, 1000, {s, 1});
    CHECK(pool.put_for(space, 3) == PageStatus::QUOTA);
    CHECK(pool.put_one(3) == PageStatus::STORED);  // another's
    test_time = 1000;
    CHECK(pool.put_for(space, 4) == PageStatus::STORED);
    CHECK(pool.find(2) == PageStatus::ABSENT);
    pool.store->pin({ids, 2}, false, {s, 2});
    CHECK(pool.store->stats().quota_refused == 1);
    Limited small(0, kSize - 1);
    small.store->assign(space, id_of(10'000));
    CHECK(small.put_for(space, 0) == PageStatus::QUOTA);
}

TEST_CASE("a tenant is learned after pages of it came") {
    Limited pool(0, 5 * kSize);
    Id128 space = id_of(20'000), tenant = id_of(10'000);
    for (uint64_t n = 0; n < 8; ++n) REQUIRE(pool.put_for(space, n) == PageStatus::STORED);
    pool.store->assign(space, tenant);
    CHECK(pool.store->tenant_bytes(tenant) == 8 * kSize);
    REQUIRE(pool.put_for(space, 8) == PageStatus::STORED);
    CHECK(pool.store->tenant_bytes(tenant) == 5 * kSize);
    CHECK(found(pool, 0, 4) == 0);
    CHECK(found(pool, 4, 9) == 5);
}
