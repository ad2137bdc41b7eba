// Getting room: what goes, what stays, and what readers of the old bytes see.
#include <random>
#include <set>
#include <thread>

#include "store/store.h"
#include "support.h"

using namespace tent;
using namespace tent::test;

namespace {

constexpr size_t kPage = 100'000;  // ten to an extent of 1 MiB

// Fills the pool with pages first, first + 1, ... until there is no room. Returns the number after the last.
uint64_t fill(Pool& pool, uint64_t first) {
    while (pool.put(first, page(first, kPage)) == PageStatus::STORED) ++first;
    return first;
}

}  // namespace

TEST_CASE("the oldest extent that nobody read goes first") {
    Pool pool(1 << 20, 4);
    uint64_t end = fill(pool, 0);
    CHECK(end == 30);  // one extent is kept back for moving pages
    Bytes out(kPage);
    for (uint64_t n = 0; n < 10; ++n) {  // the oldest extent is read
        CHECK(pool.get(n, out) == PageStatus::HIT);
    }
    CHECK(pool.reclaim());
    CHECK(pool.find(3) == PageStatus::HIT);
    CHECK(pool.find(13) == PageStatus::ABSENT);
    CHECK(fill(pool, end) == 40);
}

TEST_CASE("pages that were read are moved, whole, as the same version") {
    Pool pool(1 << 20, 4);
    fill(pool, 0);
    Bytes out(kPage);
    for (uint64_t n : {1, 2, 11, 12, 21}) CHECK(pool.get(n, out) == PageStatus::HIT);
    Id128 version = pool.record(1).version;
    uint64_t offset = pool.record(1).replicas[0].offset;
    Id128 id = id_of(1);
    pool.store->confirm({&id, 1});
    std::set<uint64_t> moved;
    for (int i = 0; i < 2; ++i) {
        Reclaim r = pool.store->begin_reclaim(0, 1 << 20);
        REQUIRE(r.extent != kNoId);
        for (const Moved& m : r.moved) {
            Record before, after;
            REQUIRE(decode_record(m.before, before) == PageStatus::HIT);
            REQUIRE(decode_record(m.after, after) == PageStatus::HIT);
            CHECK(before.replicas[0].offset == offset);
            CHECK(after.replicas[0].offset != offset);
            moved.insert(1);
        }
        pool.store->finish_reclaim(r.extent);
    }
    CHECK(moved.size() == 1);  // only page 1 had been published
    CHECK(pool.record(1).version == version);
    CHECK(pool.record(1).replicas[0].offset != offset);
    for (uint64_t n : {1, 2, 11, 12, 21}) {
        CHECK(pool.get(n, out) == PageStatus::HIT);
        CHECK(out == page(n, kPage));
    }
    CHECK(pool.find(5) == PageStatus::ABSENT);
}

TEST_CASE("moving keeps to its budget, the most read first") {
    Pool pool(1 << 20, 4);
    fill(pool, 0);
    Bytes out(kPage);
    for (uint64_t n = 0; n < 30; ++n) pool.get(n, out);
    pool.get(4, out);
    pool.get(4, out);
    pool.get(7, out);
    for (uint64_t n = 10; n < 30; ++n) {
        for (int i = 0; i < 3; ++i) pool.get(n, out);
    }
    Reclaim r = pool.store->begin_reclaim(0, 2 * kPage);
    REQUIRE(r.extent == 0);
    pool.store->finish_reclaim(r.extent);
    for (uint64_t n = 0; n < 10; ++n) {
        CHECK(pool.find(n) == (n == 4 || n == 7 ? PageStatus::HIT : PageStatus::ABSENT));
    }
}

TEST_CASE("pins and read leases keep pages where they are") {
    Pool pool(1 << 20, 4);
    fill(pool, 0);
    Id128 ids[3] = {id_of(0), id_of(10), id_of(99)};
    PageStatus s[3];
    pool.store->pin({ids, 1}, true, {s, 1});
    CHECK(s[0] == PageStatus::HIT);
    pool.store->lease({ids + 1, 2}, 1000, {s + 1, 2});
    CHECK(s[1] == PageStatus::HIT);
    CHECK(s[2] == PageStatus::ABSENT);
    CHECK_FALSE(pool.reclaim(0, 999));  // pinned, leased, and the third is still being filled
    CHECK(pool.reclaim(0, 1000));
    CHECK(pool.find(10) == PageStatus::ABSENT);
    CHECK(pool.find(0) == PageStatus::HIT);
    pool.store->pin({ids, 1}, false, {s, 1});
    fill(pool, 100);
    CHECK(pool.reclaim());
    CHECK(pool.find(0) == PageStatus::ABSENT);
}

TEST_SUITE("protects:epoch") {
    TEST_CASE("invariant 1: the epoch has risen before a byte of reused memory changes") {
        Pool pool(1 << 20, 4);
        uint64_t end = fill(pool, 0);
        Record r = pool.record(0);
        Bytes before(pool.base + r.replicas[0].offset, pool.base + r.replicas[0].offset + kPage);
        Reclaim reclaim = pool.store->begin_reclaim(0, 0);
        REQUIRE(reclaim.extent == r.replicas[0].extent);
        // A one-sided reader with the old record: bytes and epoch, as long as nothing was reused, agree.
        CHECK(std::memcmp(before.data(), pool.base + r.replicas[0].offset, kPage) == 0);
        CHECK(pool.epochs[reclaim.extent] == r.replicas[0].epoch);
        pool.store->finish_reclaim(reclaim.extent);
        CHECK(pool.epochs[reclaim.extent] != r.replicas[0].epoch);
        fill(pool, end);
        bool changed = std::memcmp(before.data(), pool.base + r.replicas[0].offset, kPage) != 0;
        bool told = pool.epochs[reclaim.extent] != r.replicas[0].epoch;
        CHECK(changed);
        CHECK(told);
    }

    TEST_CASE("invariant 1: a slot from before the reuse cannot be committed into what came after") {
        Pool pool(1 << 20, 4);
        Slot slot;
        uint64_t length = kPage;
        PageStatus s{};
        pool.store->reserve({&length, 1}, {&slot, 1}, {&s, 1});
        pool.store->abort({&slot, 1});
        uint64_t end = fill(pool, 0);
        CHECK(pool.reclaim());
        fill(pool, end);
        Commit late{slot, id_of(777), 1};
        pool.store->commit(pool.space, 0, {&late, 1}, {&s, 1});
        CHECK(s == PageStatus::STALE_EPOCH);
        CHECK(pool.find(777) == PageStatus::ABSENT);
    }
}

TEST_CASE("an extent with an open slot or a running copy is not reused") {
    Pool pool(1 << 20, 4);
    Slot slot;
    uint64_t length = kPage;
    PageStatus s{};
    pool.store->reserve({&length, 1}, {&slot, 1}, {&s, 1});
    fill(pool, 0);
    CHECK(pool.reclaim());
    CHECK(pool.reclaim() == false);  // what is left: the open slot's extent, and the one being filled
    Bytes bytes = page(500, kPage);
    std::memcpy(pool.store->address(slot), bytes.data(), kPage);
    Commit commit{slot, id_of(500), page_check(id_of(500), bytes.data(), kPage)};
    pool.store->commit(pool.space, 0, {&commit, 1}, {&s, 1});
    CHECK(s == PageStatus::STORED);
    Bytes out(kPage);
    CHECK(pool.get(500, out) == PageStatus::HIT);
    CHECK(out == bytes);
}

TEST_CASE("a copy that runs while its extent is reclaimed delays the reuse, not the caller") {
    Pool pool(1 << 20, 4);
    uint64_t end = fill(pool, 0);
    Bytes out(kPage);
    uint32_t extent = pool.record(0).replicas[0].extent;
    uint32_t epoch = pool.epochs[extent];
    bool tried = false;
    pool.store->set_executor([&](size_t count, const std::function<void(size_t)>& work) {
        for (size_t i = 0; i < count; ++i) {
            work(i);
            if (tried) continue;
            tried = true;  // in the middle of get(): nothing of this extent may go
            Reclaim r = pool.store->begin_reclaim(0, 0);
            CHECK(r.extent != extent);
        }
    });
    Bytes big(kPage);
    Id128 ids[1] = {id_of(0)};
    uint64_t address = reinterpret_cast<uint64_t>(big.data()), length = kPage;
    // Two units of work are needed for the executor to be asked: two pages.
    Bytes second(kPage);
    uint64_t addresses[2] = {address, reinterpret_cast<uint64_t>(second.data())},
             lengths[2] = {length, length};
    Id128 two[2] = {ids[0], id_of(1)};
    PageStatus s[2];
    PageBatch b{2, 1, two[0].data(), addresses, lengths, nullptr, nullptr};
    pool.store->get(b, true, s);
    CHECK(tried);
    CHECK(s[0] == PageStatus::HIT);
    CHECK(big == page(0, kPage));
    CHECK(pool.epochs[extent] == epoch);
    CHECK(end == 30);
}

TEST_CASE("headers, index and slack take at most 2 % of the memory, from pages of 16 KiB on") {
    for (size_t size : {16 << 10, 64 << 10, 256 << 10, 1 << 20, 2 << 20}) {
        // As PageStore lays extents out: a little more than 64 MiB, so that powers of two fit with their
        // headers.
        uint64_t extent = (64 << 20) + (64 << 10) * 4;
        Pool pool(extent, 2);
        Bytes bytes(size);
        uint64_t n = 0;
        for (;; ++n) {
            std::memcpy(bytes.data(), &n, sizeof n);
            if (pool.put(n, bytes) != PageStatus::STORED) break;
        }
        StoreStats s = pool.store->stats();
        double overhead = 1.0 - static_cast<double>(n * size) /
                                    static_cast<double>(pool.bytes + s.overhead_bytes - n * kSlotHeader);
        INFO("pages of " << size << ": " << overhead);
        CHECK(overhead <= 0.02);
    }
}

TEST_CASE("rebuilding from headers finds what was committed and nothing else") {
    Pool pool(1 << 20, 4);
    uint64_t end = fill(pool, 0);
    CHECK(pool.reclaim());
    end = fill(pool, end);
    PageStatus s{};
    Id128 gone = id_of(end - 2);
    pool.store->remove({&gone, 1}, {&s, 1});
    std::set<uint64_t> there;
    for (uint64_t n = 0; n < end; ++n) {
        if (pool.find(n) == PageStatus::HIT) there.insert(n);
    }
    Slot open;
    uint64_t length = 5000;
    pool.store->reserve({&length, 1}, {&open, 1}, {&s, 1});
    CHECK(pool.store->rebuild() == there.size());
    Bytes out(kPage);
    for (uint64_t n = 0; n < end; ++n) {
        CHECK(pool.get(n, out) == (there.contains(n) ? PageStatus::HIT : PageStatus::ABSENT));
        if (there.contains(n)) CHECK(out == page(n, kPage));
    }
    // A store that knows nothing, over the same memory and with fresh epochs.
    StoreConfig config = pool.config;
    config.epochs = nullptr;
    auto fresh = *Store::create(config);
    CHECK(fresh->rebuild() == there.size());
}

TEST_CASE("many threads: puts of different bytes under one key, gets, removals and reclaims; no wrong page") {
    Pool pool(256 << 10, 8);
    std::atomic<uint64_t> hits{0}, wrong{0}, stored{0};
    std::atomic<bool> stop{false};
    auto client = [&](unsigned seed) {
        std::mt19937 random(seed);
        Bytes out(20'000);
        for (int i = 0; i < 1500; ++i) {
            uint64_t n = random() % 150;
            unsigned what = random() % 10;
            if (what < 4) {
                PageStatus s = pool.put(n, page(n, 20'000, seed));
                stored += s == PageStatus::STORED;
                if (s == PageStatus::NO_SPACE) pool.reclaim(64 << 10);
            } else if (what < 9) {
                if (pool.get(n, out) != PageStatus::HIT) continue;
                ++hits;
                bool known = false;
                for (unsigned flavour = 0; flavour < 4 && !known; ++flavour)
                    known = out == page(n, 20'000, flavour);
                wrong += !known;
            } else {
                Id128 id = id_of(n);
                PageStatus s{};
                pool.store->remove({&id, 1}, {&s, 1});
            }
        }
    };
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < 4; ++t) threads.emplace_back(client, t);
    for (std::thread& t : threads) t.join();
    CHECK(wrong == 0);
    CHECK(hits > 0);
    CHECK(stored > 100);
    CHECK(pool.store->stats().reclaimed_extents > 0);
}
