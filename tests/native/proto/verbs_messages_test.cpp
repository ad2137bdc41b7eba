#include "proto/verbs_messages.h"

#include <doctest/doctest.h>

#include "golden.h"
#include "proto/wire.h"

using namespace tent;
using namespace tent::proto;
using tent::test::Exact;
using tent::test::golden;

namespace {

Bytes body_of(const std::string& name) {
    Bytes frame = golden(name);
    return {frame.begin() + kHeaderBytes, frame.end()};
}

template <class M>
bool decodes(const Bytes& body, M& m) {
    Exact copy{ByteView(body)};
    return decode(copy.view(), m);
}

// Nothing shorter, nothing longer.
template <class M>
void only_whole(const Bytes& body) {
    M m;
    for (size_t n = 0; n < body.size(); ++n) {
        CAPTURE(n);
        CHECK_FALSE(decodes(Bytes(body.begin(), body.begin() + static_cast<std::ptrdiff_t>(n)), m));
    }
    Bytes longer = body;
    longer.push_back(0);
    CHECK_FALSE(decodes(longer, m));
}

}  // namespace

TEST_CASE("the ends of a queue pair decode to what was encoded, and only whole") {
    OpenQueuePair open;
    REQUIRE(decodes(body_of("qp_open"), open));
    CHECK(open.end.number == 0x123456);
    CHECK(open.end.psn == 0xabcdef);
    CHECK(open.end.mtu == 3);
    CHECK(open.end.reads == 16);
    CHECK(open.end.lid == 9);
    CHECK(open.towards[15] == 2);
    OpenedQueuePair opened;
    REQUIRE(decodes(body_of("qp_opened"), opened));
    CHECK(opened.domain == 1);
    CHECK(opened.probe_address == 0x7f0000001000);
    CHECK(opened.probe_key == 0x77);
    only_whole<OpenQueuePair>(body_of("qp_open"));
    only_whole<OpenedQueuePair>(body_of("qp_opened"));
}

TEST_CASE("an end that no queue pair can have is refused") {
    OpenQueuePair m;
    const Bytes good = body_of("qp_open");
    struct Wrong {
        size_t at;
        uint8_t value;
        const char* what;
    };
    for (const Wrong& w : {Wrong{19, 1, "a number of 25 bits"},
                           {23, 1, "a packet number of 25 bits"},
                           {24, 0, "no MTU"},
                           {24, 6, "an MTU of 8192"},
                           {25, 0, "no reads at all"}}) {
        CAPTURE(w.what);
        Bytes bad = good;
        bad[w.at] = w.value;
        CHECK_FALSE(decodes(bad, m));
    }
}

TEST_CASE("keys decode to what was encoded; those to nothing, or to memory that wraps, are refused") {
    std::vector<MemoryKey> keys;
    REQUIRE(decodes(body_of("keys"), keys));
    REQUIRE(keys.size() == 2);
    CHECK(keys[0].offset == 1 << 27);
    CHECK(keys[0].length == 1 << 20);
    CHECK(keys[1].rights == Rights::read_write);
    CHECK(keys[1].key == 0x8002);
    CHECK_FALSE(decodes({}, keys));
    auto refused = [&](auto change) {
        std::vector<MemoryKey> bad{keys[0]};
        change(bad[0]);
        Bytes body;
        encode(bad, body);
        std::vector<MemoryKey> out;
        return !decodes(body, out);
    };
    REQUIRE(decodes(body_of("keys"), keys));
    CHECK(refused([](MemoryKey& k) { k.rights = Rights::none; }));
    CHECK(refused([](MemoryKey& k) { k.rights = static_cast<Rights>(4); }));
    CHECK(refused([](MemoryKey& k) { k.length = 0; }));
    CHECK(refused([](MemoryKey& k) { k.address = 0; }));
    CHECK(refused([](MemoryKey& k) { k.address = UINT64_MAX - 5; }));
    CHECK(refused([](MemoryKey& k) { k.offset = UINT64_MAX - 5; }));
    CHECK_FALSE(refused([](MemoryKey&) {}));
    std::vector<MemoryKey> many(kMaxKeys + 1, keys[0]);
    Bytes body;
    encode(many, body);
    CHECK_FALSE(decodes(body, keys));
}
