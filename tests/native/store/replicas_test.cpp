// Records with several replicas: which is read, and how they come and go. And what a store is asked by
// others.
#include "store/hot_pages.h"
#include "store/lending.h"
#include "support.h"

using namespace tent;
using namespace tent::test;

namespace {

Id128 id(uint8_t v) {
    Id128 out;
    out.fill(v);
    return out;
}

Record of(std::initializer_list<const char*> nodes) {
    Record r;
    r.generation = 7;
    r.version = id(0x10);
    r.length = 1 << 20;
    r.check = 99;
    for (const char* name : nodes) {
        uint8_t n = r.replica_count++;
        r.replicas[n] = {name, id(static_cast<uint8_t>(name[0])), 1, n, 1, 64u + n};
    }
    return r;
}

Bytes bytes_of(const Record& r) {
    Bytes out;
    encode_record(r, out);
    return out;
}

std::string nodes_in(const Bytes& bytes) {
    Record r;
    REQUIRE(decode_record(bytes, r) == PageStatus::HIT);
    std::string out;
    for (size_t i = 0; i < r.replica_count; ++i) out += r.replicas[i].node;
    return out;
}

struct Rows {
    explicit Rows(size_t n)
        : status(n), version(16 * n), which(n), replicas(n), u32(3 * n), u64(3 * n), count(n) {}
    void decode(const std::vector<ByteView>& records, const DecodeOptions& options) {
        RecordColumns c{count,
                        status.data(),
                        u32.data(),
                        u32.data() + count,
                        u32.data() + 2 * count,
                        u64.data(),
                        u64.data() + count,
                        u64.data() + 2 * count,
                        version.data(),
                        which.data(),
                        replicas.data()};
        nodes.clear();
        decode_records(records, options, c, nodes);
    }
    std::string node(size_t i) const { return nodes.at(u32[i]).name; }
    std::vector<uint8_t> status, version, which, replicas;
    std::vector<uint32_t> u32;
    std::vector<uint64_t> u64;
    size_t count;
    std::vector<NodeRef> nodes;
};

std::vector<PageStatus> ask(Store& store, const proto::AdoptRequest& request) {
    std::vector<PageStatus> status(request.digests.size());
    store.want(request, status);
    return status;
}

}  // namespace

TEST_CASE("replicas: the pages of a batch spread over the nodes that have them, by what each takes") {
    Bytes both = bytes_of(of({"a", "b"}));
    std::vector<ByteView> records(12, both);
    Rows rows(12);
    rows.decode(records, {});
    size_t at_a = 0;
    for (size_t i = 0; i < 12; ++i) at_a += rows.node(i) == "a";
    CHECK(at_a == 6);
    NodeCost costs[] = {{{"a", id('a')}, 1'000'000}, {{"b", id('b')}, 3'000'000}};
    DecodeOptions options;
    options.costs = costs;
    rows.decode(records, options);
    at_a = 0;
    for (size_t i = 0; i < 12; ++i) at_a += rows.node(i) == "a";
    CHECK(at_a == 9);
    options.prefer = "b";
    rows.decode(records, options);
    for (size_t i = 0; i < 12; ++i) CHECK(rows.node(i) == "b");
}

TEST_CASE("replicas: one that was tried is not chosen again, and none is left in the end") {
    Bytes three = bytes_of(of({"a", "b", "c"}));
    Rows rows(1);
    std::string seen;
    uint8_t tried = 0;
    for (int i = 0; i < 3; ++i) {
        DecodeOptions options;
        options.tried = &tried;
        options.prefer = "a";
        rows.decode({three}, options);
        REQUIRE(rows.status[0] == static_cast<uint8_t>(PageStatus::HIT));
        CHECK(rows.replicas[0] == 3);
        seen += rows.node(0);
        tried = static_cast<uint8_t>(tried | 1 << rows.which[0]);
    }
    CHECK(seen.size() == 3);
    CHECK(seen[0] == 'a');
    CHECK(seen.find('b') != std::string::npos);
    CHECK(seen.find('c') != std::string::npos);
    DecodeOptions options;
    options.tried = &tried;
    rows.decode({three}, options);
    CHECK(rows.status[0] == static_cast<uint8_t>(PageStatus::OWNER_UNREACHABLE));
    CHECK(rows.u32[0] == kNoId);
}

TEST_CASE("invariant 1: a replica of another version never joins a record") {
    Bytes out;
    Record mine = of({"b"});
    REQUIRE(with_replica(of({"a"}), mine, out));
    CHECK(nodes_in(out) == "ab");
    for (int what = 0; what < 4; ++what) {
        Record other = of({"b"});
        if (what == 0) other.version = id(0x11);
        if (what == 1) other.length += 1;
        if (what == 2) other.check += 1;
        if (what == 3) other.generation += 1;
        Bytes untouched;
        CHECK_FALSE(with_replica(of({"a"}), other, untouched));
        CHECK(untouched.empty());
    }
}

TEST_CASE("replicas: a node has one, and a record room for eight") {
    Bytes out;
    Record moved = of({"a"});
    moved.replicas[0].offset = 4096;
    REQUIRE(with_replica(of({"a", "b"}), moved, out));
    CHECK(nodes_in(out) == "ba");
    Record r;
    REQUIRE(decode_record(out, r) == PageStatus::HIT);
    CHECK(r.replicas[1].offset == 4096);
    Record full = of({"a", "b", "c", "d", "e", "f", "g", "h"});
    CHECK_FALSE(with_replica(full, of({"i"}), out));
    Bytes same;
    CHECK(with_replica(full, of({"c"}), same));
    CHECK(nodes_in(same) == "abdefghc");
}

TEST_CASE("replicas: they leave, and the record with the last") {
    Record three = of({"a", "b", "c"});
    CHECK(nodes_in(without_replicas(three, 0b010)) == "ac");
    CHECK(nodes_in(without_replicas(three, 0b101)) == "b");
    CHECK(without_replicas(three, 0b111).empty());
    CHECK(shared_replicas(three, three) == 0b111);
    Record b = three;
    b.replica_count = 1;
    b.replicas[0] = three.replicas[1];
    CHECK(shared_replicas(three, b) == 0b010);
    b.replicas[0].epoch += 1;  // the same node, but its memory was reused: not that replica
    CHECK(shared_replicas(three, b) == 0);
}

TEST_CASE("copies: they are stored as the version that they are, and only whole") {
    Pool pool(64 << 10, 4);
    Bytes bytes = page(1, 5000);
    Id128 digest = id_of(1), version = id(0x77);
    uint64_t address = reinterpret_cast<uint64_t>(bytes.data()), length = bytes.size();
    uint64_t check = page_check(digest, bytes.data(), bytes.size());
    PageBatch b{1, 1, digest.data(), &address, &length};
    b.versions = version.data();
    uint64_t wrong = check + 1;
    b.checks = &wrong;
    PageStatus s{};
    pool.store->put(pool.space, 0, b, {&s, 1});
    CHECK(s == PageStatus::CHECK_FAILED);
    CHECK(pool.find(1) == PageStatus::ABSENT);
    b.checks = &check;
    pool.store->put(pool.space, 0, b, {&s, 1});
    CHECK(s == PageStatus::STORED);
    CHECK(pool.record(1).version == version);
    CHECK(pool.record(1).check == check);
}

TEST_CASE("copies: what is wanted waits, what is there is not wanted, who leaves wants nothing") {
    Pool pool(64 << 10, 4);
    REQUIRE(pool.put(1, page(1, 5000)) == PageStatus::STORED);
    proto::AdoptRequest request{pool.space, 3, 2, {id_of(1), id_of(2)}};
    CHECK(ask(*pool.store, request) == std::vector{PageStatus::PRESENT, PageStatus::PENDING});
    CHECK(pool.store->wait_wanted(0));
    auto wanted = pool.store->take_wanted(10);
    REQUIRE(wanted.size() == 1);
    CHECK(wanted[0].digest == id_of(2));
    CHECK(wanted[0].generation == 3);
    CHECK(wanted[0].copies == 2);
    CHECK(pool.store->take_wanted(10).empty());
    proto::AdoptRequest flood{pool.space, 0, 0, std::vector<Id128>(proto::kMaxItems)};
    auto next = [&, n = size_t{100}]() mutable {
        for (Id128& d : flood.digests) d = id_of(n++);
        return ask(*pool.store, flood)[0];
    };
    for (int i = 0; i < 16; ++i) CHECK(next() == PageStatus::PENDING);
    CHECK(next() == PageStatus::REFUSED);  // a bound
    pool.store->ask_to_drain();
    CHECK(pool.store->asked_to_drain());
    CHECK(ask(*pool.store, request) == std::vector{PageStatus::PRESENT, PageStatus::REFUSED});
    pool.store->stop_waiting();
    CHECK_FALSE(pool.store->wait_wanted(kSecond));
}

TEST_CASE("a node that leaves lends nothing and takes no commits") {
    Pool pool(64 << 10, 8);
    WriterId writer{id(1), id(2)};
    proto::Lent lent = pool.store->lend(writer, {4096, 4096});
    REQUIRE(lent.code == static_cast<uint8_t>(PageStatus::STORED));
    pool.store->ask_to_drain();
    proto::CommitRequest commit{lent.loan, lent.epoch, pool.space, 0, {{id_of(1), lent.offset + 64, 100, 1}}};
    CHECK(pool.store->commit_lent(writer, commit) == std::vector{PageStatus::REFUSED});
    CHECK(pool.store->lend(writer, {4096, 4096}).code == static_cast<uint8_t>(PageStatus::NO_SPACE));
    CHECK(pool.find(1) == PageStatus::ABSENT);
}

TEST_CASE("a listing has every page once, whatever the size of its pieces") {
    Pool pool(64 << 10, 8);
    for (uint64_t n = 0; n < 40; ++n) REQUIRE(pool.put(n, page(n, 1000 + n)) == PageStatus::STORED);
    Id128 gone[] = {id_of(3), id_of(17)};
    PageStatus status[2];
    pool.store->remove(gone, status);
    for (size_t most : {1u, 7u, 1024u}) {
        std::vector<Id128> seen;
        uint64_t cursor = 0;
        do {
            proto::PageList piece = pool.store->list(cursor, most);
            CHECK(piece.items.size() <= most);
            CHECK(piece.segment == 3);
            for (const proto::PageItem& item : piece.items) seen.push_back(item.digest);
            cursor = piece.next;
        } while (cursor != 0);
        std::sort(seen.begin(), seen.end());
        CHECK(std::adjacent_find(seen.begin(), seen.end()) == seen.end());
        CHECK(seen.size() == 38);
    }
    CHECK(pool.store->list(~0ull, 10).items.empty());
    proto::SpaceList spaces = pool.store->spaces();
    REQUIRE(spaces.items.size() == 1);
    CHECK(spaces.items[0].space == pool.space);
    CHECK(spaces.items[0].pages == 38);
}

TEST_CASE("hot pages: the read that makes a page hot is told, once") {
    HotPages hot(3);
    Id128 two[] = {id_of(1), id_of(2)};
    CHECK(hot.touch(two).empty());
    CHECK(hot.touch({two, 1}).empty());
    CHECK(hot.touch({two, 1}) == std::vector<uint32_t>{0});
    CHECK(hot.touch({two, 1}).empty());
    CHECK(hot.touch({two + 1, 1}).empty());
    CHECK(hot.touch({two, 2}) == std::vector<uint32_t>{1});
}

TEST_CASE("hot pages: one that is read once takes no place from one that is read often, and counts fade") {
    HotPages hot(4);
    Id128 often = id_of(1), rare = id_of(1);
    rare[15] = static_cast<uint8_t>(rare[15] + 1);  // the same place
    for (int i = 0; i < 3; ++i) CHECK(hot.touch({&often, 1}).empty());
    CHECK(hot.touch({&rare, 1}).empty());
    CHECK(hot.touch({&often, 1}).empty());
    CHECK(hot.touch({&often, 1}).size() == 1);
    for (int i = 0; i < 3; ++i) hot.touch({&often, 1});
    std::vector<Id128> others;
    for (uint64_t n = 0; n < 4 * 65536; ++n) others.push_back(id_of(1000 + n));
    hot.touch(others);
    CHECK(hot.touch({&often, 1}).empty());  // it would have been the fourth
}

TEST_CASE("copies: a page that many ask for is fetched once") {
    Pool pool(64 << 10, 4);
    proto::AdoptRequest request{pool.space, 3, 2, {id_of(1), id_of(1), id_of(2)}};
    CHECK(ask(*pool.store, request) == std::vector(3, PageStatus::PENDING));
    request.copies = 5;
    ask(*pool.store, request);
    auto wanted = pool.store->take_wanted(10);
    REQUIRE(wanted.size() == 2);
    CHECK(wanted[0].copies == 5);  // whoever wants the most decides
    CHECK(ask(*pool.store, request) == std::vector(3, PageStatus::PENDING));
    CHECK(pool.store->take_wanted(10).empty());  // asked for while it was being fetched
    ask(*pool.store, request);                   // it could not be had then
    CHECK(pool.store->take_wanted(10).size() == 2);
}
