#include "proto/handoff_messages.h"

#include <doctest/doctest.h>

#include "golden.h"
#include "proto/wire.h"

using namespace tent;
using namespace tent::proto;
using tent::test::Exact;
using tent::test::golden;

namespace {

Id128 counting() {
    Id128 i;
    for (uint8_t n = 0; n < 16; ++n) i[n] = n;
    return i;
}

template <class M>
Bytes bytes_of(const M& m) {
    Bytes out;
    encode(m, out);
    return out;
}

// encode() gives the golden bytes and decode() takes them; every cut, every addition and every other version
// is refused for what it is.
template <class M>
M check_message(const std::string& name, const M& m) {
    CAPTURE(name);
    Bytes expected = golden(name);
    CHECK(bytes_of(m) == expected);
    M back, other;
    {
        Exact copy(expected);
        REQUIRE(decode(copy.view(), back) == Code::ok);
    }
    CHECK(bytes_of(back) == expected);
    for (size_t n = 0; n < expected.size(); ++n) {
        Exact cut(ByteView(expected).first(n));
        CHECK(decode(cut.view(), other) == Code::protocol);
    }
    Bytes more = expected;
    more.push_back(0);
    CHECK(decode(more, other) == Code::protocol);
    Bytes newer = expected;
    newer[0] = 2;
    CHECK(decode(newer, other) == Code::version_mismatch);
    return back;
}

Opened opened() {
    return {12, Rights::read, 1, 1 << 30, 8200, 30000, 8192, {{4096, 0x1122334455667788}, {100, 9}}};
}

bool refused(Opened m) {
    Opened back;
    return decode(bytes_of(m), back) == Code::protocol;
}

}  // namespace

TEST_CASE("every message about an offer has golden bytes") {
    CHECK(check_message("open_offer", OpenRequest{counting(), 8192}).offer == counting());
    Opened back = check_message("offer_opened", opened());
    CHECK(back.segment == 12);
    CHECK(back.bytes == 1 << 30);
    CHECK(back.ranges == 8200);
    CHECK(back.lease_ms == 30000);
    CHECK(back.first == 8192);
    REQUIRE(back.items.size() == 2);
    CHECK(back.items[1].length == 100);
    ReleaseRequest release = check_message("release_offer", ReleaseRequest{counting(), OfferEnd::refused});
    CHECK(release.how == OfferEnd::refused);
    CHECK(check_message("offer_released", Released{OfferEnd::expired}).how == OfferEnd::expired);
}

TEST_CASE("an offer that does not add up is refused, and allocates nothing") {
    Opened m = opened();
    CHECK_FALSE(refused(m));
    m.items[0].length = 0;
    CHECK(refused(m));
    m = opened();
    m.bytes = 4195;  // one less than its ranges hold
    CHECK(refused(m));
    m = opened();
    m.items[1].length = UINT64_MAX - 4000;
    CHECK(refused(m));
    m = opened();
    m.ranges = 8193;  // of which two are listed from 8192 on
    CHECK(refused(m));
    m = opened();
    m.first = 9000;
    CHECK(refused(m));
    for (Rights rights : {Rights::none, Rights::read_write, static_cast<Rights>(4)}) {
        m = opened();
        m.rights = rights;
        CHECK(refused(m));
    }
    Bytes body = bytes_of(opened());
    body[body.size() - 33] = 0xff;  // the count's highest byte
    CHECK(decode(body, m) == Code::protocol);
    CHECK(m.items.empty());
    m = opened();
    m.ranges = kMaxOfferRanges;
    m.first = 0;
    m.items.assign(kMaxOffered, {1, 0});
    CHECK(bytes_of(m).size() <= kMaxBody);
    CHECK_FALSE(refused(m));
    m.items.push_back({1, 0});
    CHECK(refused(m));
}

TEST_CASE("an offer is released or refused by its peer, and by nobody else") {
    ReleaseRequest m;
    for (uint8_t how : {0, 3, 4, 5, 6, 255})
        CHECK(decode(bytes_of(ReleaseRequest{counting(), static_cast<OfferEnd>(how)}), m) == Code::protocol);
    OpenRequest open;
    CHECK(decode(bytes_of(OpenRequest{counting(), kMaxOfferRanges}), open) == Code::protocol);
    Released released;
    CHECK(decode(bytes_of(Released{static_cast<OfferEnd>(6)}), released) == Code::protocol);
}
