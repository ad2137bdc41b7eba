// Putting, getting, keeping and dropping pages on one node.
#include "store/store.h"

#include <thread>

#include "support.h"

using namespace tent;
using namespace tent::test;

TEST_CASE("slot header: golden bytes") {
    SlotHeader h;
    h.epoch = 5;
    for (size_t i = 0; i < 16; ++i) {
        h.digest[i] = static_cast<uint8_t>(0x40 + i);
        h.version[i] = static_cast<uint8_t>(0x50 + i);
    }
    h.length = 12345;
    h.check = 0xFEDCBA9876543210;
    const std::pair<const char*, uint32_t> marks[] = {
        {"slot_committed", kMarkCommitted}, {"slot_open", kMarkOpen}, {"slot_dropped", kMarkDropped}};
    for (auto [name, mark] : marks) {
        alignas(64) uint8_t at[64] = {};
        h.mark = mark;
        write_header(at, h);
        CHECK(Bytes(at, at + 64) == golden(name));
        CHECK(read_header(at).mark == mark);
    }
}

TEST_CASE("put and get pages of any length") {
    Pool pool(4 << 20, 4);
    uint64_t n = 0;
    for (size_t size : {1, 63, 64, 65, 4096, 65535, 65536, 65537, 300'000, 1 << 20}) {
        Bytes in = page(n, size), out(size);
        CHECK(pool.put(n, in) == PageStatus::STORED);
        CHECK(pool.get(n, out) == PageStatus::HIT);
        CHECK(in == out);
        ++n;
    }
    Bytes out(10);
    CHECK(pool.get(n + 1, out) == PageStatus::ABSENT);
    CHECK(pool.get(4, out) == PageStatus::LENGTH_MISMATCH);
    CHECK(pool.find(4) == PageStatus::HIT);
}

TEST_CASE("a page is the concatenation of its parts, however it is cut") {
    Pool pool(4 << 20, 4);
    Bytes whole = page(1, 333'333);
    std::vector<uint64_t> cuts = {0, 1, 100, 70'000, 70'000, 140'001, 333'333};  // one part is empty
    std::vector<uint64_t> addresses, lengths, back_addresses;
    Bytes back(whole.size());
    for (size_t i = 0; i + 1 < cuts.size(); ++i) {
        addresses.push_back(reinterpret_cast<uint64_t>(whole.data() + cuts[i]));
        lengths.push_back(cuts[i + 1] - cuts[i]);
        back_addresses.push_back(reinterpret_cast<uint64_t>(back.data() + cuts[i]));
    }
    Id128 digest = id_of(1);
    PageStatus s{};
    PageBatch in{1, lengths.size(), digest.data(), addresses.data(), lengths.data(), nullptr, nullptr};
    pool.store->put(pool.space, 0, in, {&s, 1});
    REQUIRE(s == PageStatus::STORED);
    CHECK(pool.record(1).check == page_check(digest, whole.data(), whole.size()));
    PageBatch out{1, lengths.size(), digest.data(), back_addresses.data(), lengths.data(), nullptr, nullptr};
    for (bool check : {true, false}) {
        std::fill(back.begin(), back.end(), uint8_t{0});
        pool.store->get(out, check, {&s, 1});
        CHECK(s == PageStatus::HIT);
        CHECK(back == whole);
    }
}

TEST_CASE("copies may be spread over threads") {
    Pool pool(8 << 20, 4);
    pool.store->set_executor([](size_t count, const std::function<void(size_t)>& work) {
        std::atomic<size_t> next{0};
        auto loop = [&] {
            for (size_t i; (i = next++) < count;) work(i);
        };
        std::thread other(loop);
        loop();
        other.join();
    });
    Bytes in = page(1, 3'000'001), out(in.size());
    CHECK(pool.put(1, in) == PageStatus::STORED);
    CHECK(pool.get(1, out) == PageStatus::HIT);
    CHECK(in == out);
    CHECK(pool.record(1).check == page_check(id_of(1), in.data(), in.size()));
}

TEST_CASE("the first publisher of a page wins") {
    Pool pool(4 << 20, 4);
    Bytes first = page(1, 5000, 1), second = page(1, 5000, 2), out(5000);
    CHECK(pool.put(1, first) == PageStatus::STORED);
    CHECK(pool.put(1, second) == PageStatus::PRESENT);
    CHECK(pool.get(1, out) == PageStatus::HIT);
    CHECK(out == first);
}

TEST_CASE("two reservations of one page: the first commit wins, the other's room is free again") {
    Pool pool(4 << 20, 4);
    uint64_t lengths[2] = {5000, 5000};
    Slot slots[2];
    PageStatus s[2];
    pool.store->reserve(lengths, slots, s);
    for (int i = 0; i < 2; ++i) std::memset(pool.store->address(slots[i]), 'a' + i, 5000);
    Bytes a(5000, 'a');
    uint64_t check = page_check(id_of(1), a.data(), a.size());
    Commit commits[2] = {{slots[0], id_of(1), check}, {slots[1], id_of(1), check}};
    pool.store->commit(pool.space, 0, commits, s);
    CHECK(s[0] == PageStatus::STORED);
    CHECK(s[1] == PageStatus::PRESENT);
    Bytes out(5000);
    CHECK(pool.get(1, out) == PageStatus::HIT);
    CHECK(out == a);
    Slot again;
    uint64_t length = 5000;
    pool.store->reserve({&length, 1}, {&again, 1}, {s, 1});
    CHECK(again.offset == slots[1].offset);
    pool.store->abort({&again, 1});
}

TEST_CASE("larger than an extent") {
    Pool pool(1 << 20, 4);
    CHECK(pool.put(1, page(1, (1 << 20) - 63)) == PageStatus::TOO_LARGE);
    CHECK(pool.put(2, page(2, (1 << 20) - 64)) == PageStatus::STORED);
    uint64_t lengths[1] = {UINT64_MAX};
    Slot slot;
    PageStatus s{};
    pool.store->reserve(lengths, {&slot, 1}, {&s, 1});
    CHECK(s == PageStatus::TOO_LARGE);
}

TEST_SUITE("protects:commit") {
    TEST_CASE("invariant 4: a page is not visible before its last byte is in place") {
        Pool pool(4 << 20, 4);
        Bytes in = page(1, 1 << 20), out(in.size());
        size_t seen = 0, looked = 0;
        // Looks in the middle of the copy: before the second half of it runs.
        pool.store->set_executor([&](size_t count, const std::function<void(size_t)>& work) {
            for (size_t i = 0; i < count; ++i) {
                if (i == count / 2) {
                    ++looked;
                    seen += pool.find(1) == PageStatus::HIT;
                }
                work(i);
            }
        });
        CHECK(pool.put(1, in) == PageStatus::STORED);
        CHECK(looked == 1);
        CHECK(seen == 0);
        pool.store->set_executor({});
        CHECK(pool.get(1, out) == PageStatus::HIT);
        CHECK(in == out);
    }
}

TEST_SUITE("protects:token") {
    TEST_CASE("invariant 4: a source that changes in mid-put is never published") {
        Pool pool(4 << 20, 4);
        Bytes in = page(1, 1 << 20);
        uint64_t token = 7;
        pool.store->set_executor([&](size_t count, const std::function<void(size_t)>& work) {
            for (size_t i = 0; i < count; ++i) {
                if (i == count / 2) {  // the block gets another owner, who starts to write
                    __atomic_store_n(&token, 8, __ATOMIC_RELEASE);
                    std::memset(in.data(), 0xEE, in.size());
                }
                work(i);
            }
        });
        CHECK(pool.put(1, in, &token) == PageStatus::UNSTABLE);
        CHECK(pool.find(1) == PageStatus::ABSENT);
        pool.store->set_executor({});
        CHECK(pool.put(1, in, &token) == PageStatus::STORED);
    }
}

TEST_SUITE("protects:token") {
    TEST_CASE("invariant 4: a queued put whose source changed before it began is not published") {
        Pool pool(4 << 20, 4);
        Bytes in = page(1, 5000);
        Id128 digest = id_of(1);
        uint64_t token = 8, handed_in = 7, token_address = reinterpret_cast<uint64_t>(&token);
        uint64_t address = reinterpret_cast<uint64_t>(in.data()), length = in.size();
        PageBatch b{1, 1, digest.data(), &address, &length, &token_address, &handed_in};
        PageStatus s{};
        pool.store->put(pool.space, 0, b, {&s, 1});
        CHECK(s == PageStatus::UNSTABLE);
    }
}

TEST_SUITE("protects:check") {
    TEST_CASE("invariant 1: a page whose bytes rotted is a miss, and forgotten") {
        Pool pool(4 << 20, 4);
        Bytes in = page(1, 200'000), out(in.size());
        CHECK(pool.put(1, in) == PageStatus::STORED);
        pool.base[pool.record(1).replicas[0].offset + 150'000] ^= 1;
        CHECK(pool.get(1, out) == PageStatus::CHECK_FAILED);
        CHECK(pool.get(1, out) == PageStatus::ABSENT);
    }
}

TEST_SUITE("protects:generation") {
    TEST_CASE("invariant 1: what was cleared is gone, and stays so for late committers") {
        Pool pool(4 << 20, 4);
        Bytes in = page(1, 5000), out(in.size());
        CHECK(pool.put(1, in, nullptr, 3) == PageStatus::STORED);
        pool.store->clear(pool.space, 4);
        CHECK(pool.get(1, out) != PageStatus::HIT);
        CHECK(pool.find(1) != PageStatus::HIT);
        CHECK(pool.put(1, in, nullptr, 3) == PageStatus::CLEARED);
        CHECK(pool.put(1, in, nullptr, 4) == PageStatus::STORED);
        CHECK(pool.record(1).generation == 4);
        CHECK(pool.get(1, out) == PageStatus::HIT);
    }
}

TEST_CASE("removed pages are to be unpublished if they had been published") {
    Pool pool(4 << 20, 4);
    Id128 ids[2] = {id_of(1), id_of(2)};
    pool.put(1, page(1, 100));
    pool.put(2, page(2, 100));
    CHECK(pool.store->confirm({ids, 1}).empty());
    PageStatus s[2];
    pool.store->remove(ids, s);
    CHECK(s[0] == PageStatus::HIT);
    auto out = pool.store->take_unpublish(10);
    REQUIRE(out.size() == 1);
    CHECK(out[0].digest == ids[0]);
    CHECK_FALSE(out[0].record.empty());
    CHECK(pool.store->confirm({ids, 1}).size() == 1);  // published too late: it is gone
    pool.store->remove({ids, 1}, {s, 1});
    CHECK(s[0] == PageStatus::ABSENT);
}

TEST_CASE("the queue of pages to publish") {
    Pool pool(4 << 20, 4);
    std::vector<Id128> ids;
    for (uint64_t n = 0; n < 10; ++n) {
        pool.put(n, page(n, 100));
        ids.push_back(id_of(n));
    }
    pool.store->enqueue_all();
    CHECK(pool.store->take_unpublished(4).size() == 4);
    CHECK(pool.store->take_unpublished(100).size() == 6);
    CHECK(pool.store->take_unpublished(100).empty());
    PageStatus s{};
    pool.store->enqueue(ids);
    pool.store->remove({ids.data(), 1}, {&s, 1});
    CHECK(pool.store->take_unpublished(100).size() == 9);
}

TEST_CASE("sizes that make no sense are refused") {
    Pool pool(1 << 20, 2);
    StoreConfig c = pool.config;
    c.extent_bytes = 1000;
    CHECK(Store::create(c).status().code() == Code::invalid_argument);
    c = pool.config;
    c.bytes = 4096;
    CHECK(Store::create(c).status().code() == Code::invalid_argument);
    c = pool.config;
    c.base = nullptr;
    CHECK(Store::create(c).status().code() == Code::invalid_argument);
    c = pool.config;
    c.node = "";
    CHECK(Store::create(c).status().code() == Code::invalid_argument);
}

TEST_CASE("the index keeps what it was given, under many insertions and removals") {
    Pool pool(1 << 20, 16);
    Extents extents(pool.base, pool.bytes, 1 << 20, nullptr);
    Index index(extents, 3000);
    std::vector<bool> in(4000);
    uint64_t x = 1;
    size_t count = 0;
    for (int step = 0; step < 60'000; ++step) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        uint64_t n = (x >> 33) % in.size();
        EntryId id = index.find(id_of(n));
        CHECK((id != kNoEntry) == in[n]);
        if (in[n]) {
            index.erase(id);
            in[n] = false;
            --count;
        } else {
            Entry e;
            e.digest = id_of(n);
            e.length = n;
            e.extent = n % 16;
            bool fits = index.insert(e) != kNoEntry;
            CHECK(fits == (count < 3000));
            if (fits) in[n] = true, ++count;
        }
        CHECK(index.size() == count);
    }
    uint64_t pages = 0;
    for (uint32_t i = 0; i < 16; ++i) pages += extents.at(i).live_pages;
    CHECK(pages == count);
}
