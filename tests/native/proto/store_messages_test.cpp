#include "proto/store_messages.h"

#include <doctest/doctest.h>

#include "golden.h"
#include "proto/wire.h"

using namespace tent;
using namespace tent::proto;
using tent::test::Exact;
using tent::test::golden;

namespace {

Id128 id(uint8_t v) {
    Id128 i;
    i.fill(v);
    return i;
}

Id128 counting() {
    Id128 i;
    for (uint8_t n = 0; n < 16; ++n) i[n] = n;
    return i;
}

std::vector<Id128> digests() {
    return {id(0xa0), counting()};
}

template <class M>
Bytes bytes_of(const M& m) {
    Bytes out;
    encode(m, out);
    return out;
}

// encode() gives the golden bytes; decode() of them gives a message that encodes alike; every cut, every
// addition and every other version is refused for what it is.
template <class M>
M check_message(const std::string& name, const M& m) {
    CAPTURE(name);
    Bytes expected = golden(name);
    CHECK(bytes_of(m) == expected);
    M back;
    {
        Exact copy(expected);
        REQUIRE(decode(copy.view(), back) == Code::ok);
    }
    CHECK(bytes_of(back) == expected);
    for (size_t n = 0; n < expected.size(); ++n) {
        Exact cut(ByteView(expected).first(n));
        M other;
        CHECK(decode(cut.view(), other) == Code::protocol);
    }
    Bytes more = expected;
    more.push_back(0);
    M other;
    CHECK(decode(more, other) == Code::protocol);
    Bytes newer = expected;
    newer[0] = 2;
    CHECK(decode(newer, other) == Code::version_mismatch);
    CHECK(decode(ByteView(newer).first(2), other) == Code::version_mismatch);
    return back;
}

}  // namespace

TEST_CASE("every store message has golden bytes") {
    Lent lent = check_message("lent", Lent{1, 77, 5, 6, 7, 64 << 20, 32 << 20});
    CHECK(lent.code == 1);
    CHECK(lent.loan == 77);
    CHECK(lent.segment == 5);
    CHECK(lent.extent == 6);
    CHECK(lent.epoch == 7);
    CHECK(lent.offset == 64 << 20);
    CHECK(lent.length == 32 << 20);

    CommitRequest request{77, 7, id(0x5a), 9, {}};
    request.items = {{id(0xa0), 64, 1000, 0x1122334455667788}, {counting(), 1152, 7, 3}};
    CommitRequest commit = check_message("commit", request);
    CHECK(commit.epoch == 7);
    CHECK(commit.space == id(0x5a));
    CHECK(commit.generation == 9);
    REQUIRE(commit.items.size() == 2);
    CHECK(commit.items[0].check == 0x1122334455667788);
    CHECK(commit.items[1].digest == counting());
    CHECK(commit.items[1].offset == 1152);

    LendRequest lend = check_message("lend", LendRequest{64 << 20, 1 << 20});
    CHECK(lend.largest == 1 << 20);
    CHECK(check_message("give_back", GiveBack{77}).loan == 77);
    CHECK(check_message("pin", PinRequest{1500, digests()}).milliseconds == 1500);
    CHECK(check_message("digests", DigestList{digests()}).digests == digests());
    CHECK(check_message("remove", RemoveRequest{id(0x5a), digests()}).space == id(0x5a));
    (void)check_message("stat", StatRequest{});
    CHECK(check_message("adopt", AdoptRequest{id(0x5a), 9, 2, digests()}).copies == 2);
    CHECK(check_message("keep", KeepRequest{1, digests()}).digests == digests());
    CHECK(check_message("list", ListRequest{4711, 512}).most == 512);
    PageList pages{4712, 5, {{id(0xa0), id(0x5a), 9, 64, 1000, 0x1122334455667788, 7, 3, 1}}};
    pages = check_message("page_list", pages);
    REQUIRE(pages.items.size() == 1);
    CHECK(pages.items[0].check == 0x1122334455667788);
    CHECK(pages.items[0].pins == 1);
    CHECK(check_message("space_list", SpaceList{{{id(0x5a), 9, 12, 12345}}}).items[0].bytes == 12345);
    CHECK(check_message("store_stat", StoreStat{1 << 30, 12345, 64 << 20, 12, 2}).pinned == 2);
    Staged staged{{{0, 3, 9, 0x1000040, 12345, 0xFEDCBA9876543210, id(0x77)}, {3, 0, 0, 0, 0, 0, {}}}};
    CHECK(check_message("staged", staged).items[0].epoch == 9);
    CHECK(check_message("disk_stat", DiskStat{1ull << 40, 12345, 12, 2, 1}).off == 1);
    CHECK(check_message("scrub", ScrubRequest{ScrubWish::keep_bad}).wish == ScrubWish::keep_bad);
    CHECK(check_message("disk_scrub", DiskScrub{3, 1000, 1 << 30, 2, 1, 7, 1}).unread == 7);
    CHECK(check_message("statuses", Statuses{{0, 16, 1}}).values == std::vector<uint8_t>{0, 16, 1});
}

TEST_CASE("hostile counts and ranges are refused, and allocate nothing") {
    DigestList list;
    for (uint32_t count : {3u, 4097u, 0x10000000u, UINT32_MAX}) {
        Bytes body;
        Writer w(body);
        w.u16(1);
        w.u32(count);
        w.raw(Bytes(32, 1));
        CHECK(decode(body, list) == Code::protocol);
        CHECK(list.digests.empty());
    }
    list.digests.assign(kMaxItems, id(1));
    CHECK(decode(bytes_of(list), list) == Code::ok);
    CHECK(list.digests.size() == kMaxItems);
    CHECK(decode(bytes_of(DigestList{std::vector<Id128>(kMaxItems + 1)}), list) == Code::protocol);
    CHECK(decode(bytes_of(DigestList{}), list) == Code::ok);
    CHECK(list.digests.empty());

    CommitRequest commit;
    commit.items = {{id(1), UINT64_MAX, 1, 0}};
    CHECK(decode(bytes_of(commit), commit) == Code::protocol);
    commit.items.assign(kMaxItems, {id(1), 0, 1, 0});
    CHECK(bytes_of(commit).size() <= kMaxBody);
    Lent lent;
    lent.offset = lent.length = 1ull << 63;
    CHECK(decode(bytes_of(lent), lent) == Code::protocol);

    PageList pages;
    pages.items.assign(kMaxListed, {});
    CHECK(bytes_of(pages).size() <= kMaxBody);
    CHECK(decode(bytes_of(pages), pages) == Code::ok);
    pages.items.assign(kMaxListed + 1, {});
    CHECK(decode(bytes_of(pages), pages) == Code::protocol);
    pages.items.assign(1, {});
    pages.items[0].offset = pages.items[0].length = 1ull << 63;
    CHECK(decode(bytes_of(pages), pages) == Code::protocol);
    ListRequest request{0, kMaxListed + 1};
    CHECK(decode(bytes_of(request), request) == Code::protocol);
    KeepRequest keep{2, {}};
    CHECK(decode(bytes_of(keep), keep) == Code::protocol);
}

TEST_CASE("unknown methods are no methods") {
    CHECK(method_from_wire(1) == Method::lend);
    CHECK(method_from_wire(9) == Method::stale);
    CHECK_FALSE(method_from_wire(0));
    CHECK(method_from_wire(20) == Method::scrub_disk);
    CHECK_FALSE(method_from_wire(21));
    CHECK_FALSE(method_from_wire(~0ull));
    CHECK_FALSE(method_from_wire(257));
}
