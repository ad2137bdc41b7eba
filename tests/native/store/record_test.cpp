// The directory's record: its bytes, and everything that is not one.
#include "store/record.h"

#include <random>

#include "support.h"

using namespace tent;
using namespace tent::test;

namespace {

Id128 run_from(uint8_t first) {
    Id128 v;
    for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<uint8_t>(first + i);
    return v;
}

Record sample(size_t replicas) {
    Record r;
    r.generation = 7;
    r.version = run_from(0x10);
    r.length = 1 << 20;
    r.check = 0x0123456789ABCDEF;
    r.replica_count = static_cast<uint8_t>(replicas);
    r.replicas[0] = {"node-a", run_from(0x20), 3, 4, 9, 0x1000040};
    if (replicas > 1) r.replicas[1] = {"b", run_from(0x30), 1, 0, 1, 64};
    return r;
}

Bytes bytes_of(const Record& r) {
    Bytes out;
    encode_record(r, out);
    return out;
}

// The columns of a batch of records.
struct Columns {
    explicit Columns(size_t n)
        : status(n),
          version(16 * n),
          which(n),
          replicas(n),
          node(n),
          segment(n),
          epoch(n),
          offset(n),
          length(n),
          check(n) {}
    RecordColumns raw() {
        return {status.size(), status.data(), node.data(),    segment.data(), epoch.data(),   offset.data(),
                length.data(), check.data(),  version.data(), which.data(),   replicas.data()};
    }
    void decode(const std::vector<ByteView>& records, const DecodeOptions& options) {
        decode_records(records, options, raw(), nodes);
    }
    PageStatus at(size_t i) const { return static_cast<PageStatus>(status[i]); }
    std::vector<uint8_t> status, version, which, replicas;
    std::vector<uint32_t> node, segment, epoch;
    std::vector<uint64_t> offset, length, check;
    std::vector<NodeRef> nodes;
};

}  // namespace

TEST_CASE("record: golden bytes, both ways") {
    CHECK(bytes_of(sample(1)) == golden("record"));
    CHECK(bytes_of(sample(2)) == golden("record_two_replicas"));
    Bytes bytes = golden("record_two_replicas");
    Record r;
    REQUIRE(decode_record(bytes, r) == PageStatus::HIT);
    CHECK(r.generation == 7);
    CHECK(r.version == run_from(0x10));
    CHECK(r.length == 1 << 20);
    CHECK(r.check == 0x0123456789ABCDEF);
    REQUIRE(r.replica_count == 2);
    CHECK(r.replicas[0].node == "node-a");
    CHECK(r.replicas[0].offset == 0x1000040);
    CHECK(r.replicas[0].epoch == 9);
    CHECK(r.replicas[1].node == "b");
    CHECK(r.replicas[1].segment == 1);
}

TEST_CASE("record: one of the next version is a miss by name") {
    Record r;
    CHECK(decode_record(golden("record_newer"), r) == PageStatus::VERSION);
}

TEST_CASE("record: no flipped bit and no truncation passes") {
    Bytes good = golden("record_two_replicas");
    Record r;
    for (size_t bit = 0; bit < good.size() * 8; ++bit) {
        Bytes bad = good;
        bad[bit / 8] ^= static_cast<uint8_t>(1 << (bit % 8));
        CHECK(decode_record(bad, r) != PageStatus::HIT);
    }
    for (size_t n = 0; n < good.size(); ++n) {
        Bytes cut(good.begin(), good.begin() + static_cast<ptrdiff_t>(n));
        CHECK(decode_record(cut, r) != PageStatus::HIT);
    }
    good.push_back(0);
    CHECK(decode_record(good, r) == PageStatus::BAD_RECORD);
}

TEST_CASE("record: a right sum does not excuse wrong contents") {
    Record r, out;
    r = sample(1);
    r.length = 0;
    CHECK(decode_record(bytes_of(r), out) == PageStatus::BAD_RECORD);
    r = sample(1);
    r.replicas[0].offset = UINT64_MAX - 10;
    CHECK(decode_record(bytes_of(r), out) == PageStatus::BAD_RECORD);
    r = sample(1);
    r.replicas[0].node = "";
    CHECK(decode_record(bytes_of(r), out) == PageStatus::BAD_RECORD);
    r = sample(1);
    r.replica_count = 0;
    CHECK(decode_record(bytes_of(r), out) == PageStatus::BAD_RECORD);
}

TEST_CASE("record: random bytes") {
    std::mt19937_64 random(7);
    Record r;
    for (int i = 0; i < 20000; ++i) {
        Bytes junk(random() % 160);
        for (uint8_t& b : junk) b = static_cast<uint8_t>(random());
        if (junk.size() > 4 && i % 2 == 0) {  // past the first checks
            junk[0] = 'T';
            junk[1] = kRecordVersion;
            junk[2] = 0;
        }
        CHECK(decode_record(junk, r) != PageStatus::HIT);
    }
}

TEST_CASE("records: a batch into columns") {
    Bytes one = bytes_of(sample(1)), two = bytes_of(sample(2)), junk = {1, 2, 3};
    Columns c(5);
    c.decode({one, ByteView{}, junk, golden("record_newer"), two}, {});
    CHECK(c.at(0) == PageStatus::HIT);
    CHECK(c.at(1) == PageStatus::ABSENT);
    CHECK(c.at(2) == PageStatus::BAD_RECORD);
    CHECK(c.at(3) == PageStatus::VERSION);
    CHECK(c.at(4) == PageStatus::HIT);
    CHECK(c.node[1] == kNoId);
    REQUIRE(c.nodes.size() == 2);  // of all replicas
    CHECK(c.nodes[c.node[0]].name == "node-a");
    CHECK(c.offset[0] == 0x1000040);
    CHECK(c.length[4] == 1 << 20);
    Columns prefers(1);
    DecodeOptions options;
    options.prefer = "b";
    prefers.decode({two}, options);
    CHECK(prefers.nodes.at(prefers.node[0]).name == "b");
    CHECK(prefers.offset[0] == 64);
}

TEST_CASE("records: another length than expected is a miss") {
    Bytes one = bytes_of(sample(1));
    uint64_t expect = (1 << 20) - 1;
    DecodeOptions options;
    options.expect = &expect;
    Columns c(1);
    c.decode({one}, options);
    CHECK(c.at(0) == PageStatus::LENGTH_MISMATCH);
}

TEST_SUITE("protects:generation") {
    TEST_CASE("invariant 1: a record of a cleared generation is a miss") {
        Bytes one = bytes_of(sample(1));
        DecodeOptions options;
        options.generation = 8;
        Columns c(1);
        c.decode({one}, options);
        CHECK(c.at(0) == PageStatus::CLEARED);
    }
}

TEST_SUITE("protects:incarnation") {
    TEST_CASE("invariant 5: another incarnation of the same node is not the same node") {
        CHECK(same_incarnation(run_from(1), run_from(1)));
        CHECK_FALSE(same_incarnation(run_from(1), run_from(2)));
    }
}
