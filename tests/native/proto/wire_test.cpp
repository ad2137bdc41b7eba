#include "proto/wire.h"

#include <doctest/doctest.h>

#include <set>

#include "golden.h"
#include "proto/verbs_messages.h"

using namespace tent;
using namespace tent::proto;
using tent::test::Exact;
using tent::test::golden;

namespace {

const std::vector<Piece> kPieces = {{7, 3, 0x1122334455667788, 5}, {8, 0, 4096, 3}};

struct Frame {
    Header header;
    Bytes body, payload;
};

const Id128 kTowards{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 77, 0, 2};
const QueuePairEnd kEnd{{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, 0x123456, 0xabcdef, 3, 16, 9};
const std::vector<MemoryKey> kKeys = {{7, Rights::read, 1 << 27, 1 << 20, 0x7f0000001000, 0x8001},
                                      {8, Rights::read_write, 0, 4096, 0x7f0000003000, 0x8002}};

Bytes bytes(std::string_view s) {
    return {s.begin(), s.end()};
}

Bytes whole(const Frame& f) {
    std::array<uint8_t, kHeaderBytes> h;
    encode(f.header, h);
    Bytes out(h.begin(), h.end());
    out.insert(out.end(), f.body.begin(), f.body.end());
    out.insert(out.end(), f.payload.begin(), f.payload.end());
    return out;
}

Frame make(FrameType type, uint8_t flags, uint16_t code, uint64_t attempt, uint64_t aux, Bytes body = {},
           Bytes payload = {}) {
    Frame f;
    f.header = {static_cast<uint32_t>(body.size()), type, flags, code, attempt, payload.size(), aux};
    f.body = std::move(body);
    f.payload = std::move(payload);
    return f;
}

std::vector<SegmentInfo> table() {
    SegmentInfo pages{7, SegmentKind::memfd, Rights::read_write, 1 << 30, 64 << 20, 0, "pages"};
    SegmentInfo region{9, SegmentKind::region, Rights::read, 12345, 0, 0x7f0000001000, ""};
    return {pages, region};
}

std::vector<std::pair<std::string, Frame>> every_frame() {
    Bytes pieces, pull, attempts, segments;
    encode_pieces(kPieces, pieces);
    encode_pull(kPieces, std::vector<uint64_t>{0x7f0000001000, 0x7f0000003000}, pull);
    encode_attempts(std::vector<AttemptId>{41, 44, 1ull << 63}, attempts);
    encode_segments(table(), segments);
    Bytes sixteen, open, opened, lanes, keys;
    encode(OpenQueuePair{kEnd, kTowards}, open);
    encode(OpenedQueuePair{kEnd, 1, 0x7f0000001000, 0x77}, opened);
    encode_attempts(std::vector<AttemptId>{3, 4}, lanes);
    encode(kKeys, keys);
    for (uint8_t i = 0; i < 16; ++i) sixteen.push_back(i);
    using T = FrameType;
    auto code = [](Code c) { return static_cast<uint16_t>(c); };
    return {
        {"write", make(T::write, 0, 0, 41, 17, pieces, bytes("tent pag"))},
        {"write_ack", make(T::write_ack, 0, code(Code::stale_epoch), 41, 1, bytes("extent was reused"))},
        {"read", make(T::read, 2, 0, 42, 0, pieces)},
        {"data", make(T::data, 0, 0, 42, 4096, {}, sixteen)},
        {"read_fail", make(T::read_fail, 0, code(Code::out_of_range), 42, ~0ull, bytes("past the end"))},
        {"revoke", make(T::revoke, 0, 0, 5, 40, attempts)},
        {"revoked", make(T::revoked, 0, 0, 5, 0)},
        {"token", make(T::token, 0, 0, 1234567, 99)},
        {"echo", make(T::echo, 0, 0, 7654321, 99)},
        {"notify", make(T::notify, 0, 0, 3, 0, bytes("layer 7 is there"))},
        {"notify_ack", make(T::notify_ack, 0, 0, 3, 0)},
        {"segments", make(T::segments, 0, 0, 6, 0)},
        {"segment_table", make(T::segment_table, 0, 0, 6, 0, segments)},
        {"segment_gone", make(T::segment_gone, 0, 0, 0, 7)},
        {"call", make(T::call, 0, 0, 8, 3, bytes("request"))},
        {"reply", make(T::reply, 0, code(Code::no_memory), 8, 0, bytes("no room"))},
        {"map", make(T::map, 1, 0, 9, 7ull << 32 | 2)},
        {"mapped", make(T::mapped, 0, 0, 9, 0, {1})},
        {"bye", make(T::bye, 0, code(Code::closed), 0, 0, bytes("closing"))},
        {"pull", make(T::pull, 0, 0, 43, 17, pull)},
        {"credit", make(T::credit, 0, 0, 2, 262144)},
        {"qp_open", make(T::qp_open, 0, 0, 3, 0, open)},
        {"qp_opened", make(T::qp_opened, 0, 0, 3, 0, opened)},
        {"qp_close", make(T::qp_close, 0, 0, 5, 0, lanes)},
        {"ask_keys", make(T::ask_keys, 2, 0, 6, 3, pieces)},
        {"keys", make(T::keys, 0, 0, 6, 0, keys)},
    };
}

bool decode_header(ByteView b, Header& h) {
    Exact copy(b.first(kHeaderBytes));
    return decode(copy.view().first<kHeaderBytes>(), h);
}

}  // namespace

TEST_CASE("every frame has golden bytes and decodes to what was encoded") {
    std::set<FrameType> seen;
    for (const auto& [name, frame] : every_frame()) {
        CAPTURE(name);
        Bytes expected = golden(name);
        CHECK(whole(frame) == expected);
        Header h;
        REQUIRE(decode_header(expected, h));
        CHECK(h.body == frame.header.body);
        CHECK(h.type == frame.header.type);
        CHECK(h.flags == frame.header.flags);
        CHECK(h.code == frame.header.code);
        CHECK(h.attempt == frame.header.attempt);
        CHECK(h.payload == frame.header.payload);
        CHECK(h.aux == frame.header.aux);
        seen.insert(h.type);
    }
    CHECK(seen.size() == 26);  // a new frame needs a golden file
}

TEST_CASE("bodies decode to what was encoded") {
    Bytes body;
    encode_pieces(kPieces, body);
    std::vector<Piece> pieces;
    uint64_t total = 0;
    REQUIRE(decode_pieces(body, pieces, total));
    CHECK(total == 8);
    REQUIRE(pieces.size() == 2);
    CHECK(pieces[0].segment == 7);
    CHECK(pieces[0].epoch == 3);
    CHECK(pieces[0].offset == 0x1122334455667788);
    CHECK(pieces[1].length == 3);

    body.clear();
    std::vector<uint64_t> addresses;
    encode_pull(kPieces, std::vector<uint64_t>{4096, 8192}, body);
    REQUIRE(decode_pull(body, pieces, addresses, total));
    CHECK(addresses == std::vector<uint64_t>{4096, 8192});
    CHECK(total == 8);

    body.clear();
    encode_attempts(std::vector<AttemptId>{9, 1, ~0ull}, body);
    std::vector<AttemptId> attempts;
    REQUIRE(decode_attempts(body, attempts));
    CHECK(attempts == std::vector<AttemptId>{9, 1, ~0ull});
    CHECK(decode_attempts({}, attempts));
    CHECK(attempts.empty());

    body.clear();
    encode_segments(table(), body);
    std::vector<SegmentInfo> segments;
    REQUIRE(decode_segments(body, segments));
    REQUIRE(segments.size() == 2);
    CHECK(segments[0].name == "pages");
    CHECK(segments[0].rights == Rights::read_write);
    CHECK(segments[0].extent == 64 << 20);
    CHECK(segments[1].kind == SegmentKind::region);
    CHECK(segments[1].address == 0x7f0000001000);
    CHECK(segments[1].length == 12345);
}

TEST_CASE("a hostile header is refused") {
    auto refused = [](auto&& change) {
        Frame f = make(FrameType::write, 0, 0, 1, 1, Bytes(24), Bytes(8));
        change(f.header);
        Header h;
        return !decode_header(whole(f), h);
    };
    CHECK_FALSE(refused([](Header&) {}));
    CHECK(refused([](Header& h) { h.type = static_cast<FrameType>(0); }));
    CHECK(refused([](Header& h) { h.type = static_cast<FrameType>(22); }));
    CHECK(refused([](Header& h) { h.type = static_cast<FrameType>(255); }));
    CHECK(refused([](Header& h) { h.payload = kMaxPayload + 1; }));
    CHECK_FALSE(refused([](Header& h) { h.payload = kMaxPayload; }));
    CHECK(refused([](Header& h) { h.body = kMaxPieces * kPieceBytes + 1; }));
    CHECK(refused([](Header& h) { h.code = 1; }));  // a request carries no code

    for (const auto& [name, frame] : every_frame()) {
        CAPTURE(name);
        Frame f = frame;
        Header h;
        f.header.body = kMaxBody + 1;
        CHECK_FALSE(decode_header(whole(f), h));
        f.header.body = UINT32_MAX;
        CHECK_FALSE(decode_header(whole(f), h));
        f = frame;
        f.header.payload = 1;
        bool bulk = f.header.type == FrameType::write || f.header.type == FrameType::data;
        CHECK(decode_header(whole(f), h) == bulk);
    }
}

TEST_CASE("hostile pieces are refused") {
    std::vector<Piece> out;
    uint64_t total = 0;
    auto refused = [&](std::vector<Piece> pieces) {
        Bytes body;
        encode_pieces(pieces, body);
        Exact copy(body);
        return !decode_pieces(copy.view(), out, total);
    };
    CHECK(refused({}));
    CHECK(refused({{1, 1, 0, 0}}));
    CHECK(refused({{1, 1, 0, kMaxPayload + 1}}));
    CHECK(refused({{1, 1, 0, ~0ull}}));
    CHECK(refused({{1, 1, ~0ull, 1}}));  // offset + length wraps
    CHECK(refused({{1, 1, 0, kMaxPayload}, {1, 1, 0, 1}}));
    CHECK_FALSE(refused({{1, 1, 0, kMaxPayload - 1}, {1, 1, 0, 1}}));
    CHECK(refused(std::vector<Piece>(kMaxPieces + 1, Piece{1, 1, 0, 1})));
    CHECK_FALSE(refused(std::vector<Piece>(kMaxPieces, Piece{1, 1, 0, 1})));

    std::vector<uint64_t> addresses;
    Bytes body;
    encode_pull(kPieces, std::vector<uint64_t>{4096, 0}, body);  // a null source
    CHECK_FALSE(decode_pull(body, out, addresses, total));
    body.clear();
    encode_pull(kPieces, std::vector<uint64_t>{4096, ~0ull - 1}, body);  // a source that wraps
    CHECK_FALSE(decode_pull(body, out, addresses, total));
    CHECK_FALSE(decode_pull({}, out, addresses, total));
}

TEST_CASE("hostile segment tables are refused") {
    std::vector<SegmentInfo> out;
    auto refused = [&](auto&& change) {
        auto segments = table();
        change(segments[1]);
        Bytes body;
        encode_segments(segments, body);
        Exact copy(body);
        return !decode_segments(copy.view(), out);
    };
    CHECK_FALSE(refused([](SegmentInfo&) {}));
    CHECK(refused([](SegmentInfo& s) { s.kind = static_cast<SegmentKind>(0); }));
    CHECK(refused([](SegmentInfo& s) { s.kind = static_cast<SegmentKind>(6); }));
    CHECK(refused([](SegmentInfo& s) { s.rights = static_cast<Rights>(4); }));
    CHECK(refused([](SegmentInfo& s) { s.length = 0; }));
    CHECK(refused([](SegmentInfo& s) { s.address = ~0ull; }));
    CHECK(refused([](SegmentInfo& s) {
        s.extent = 1;
        s.length = kMaxExtents + 1;
    }));
    CHECK_FALSE(refused([](SegmentInfo& s) { s.name = std::string(kMaxName, 'n'); }));

    // A count that promises more than there is allocates nothing.
    Bytes body;
    Writer(body).u32(UINT32_MAX);
    CHECK_FALSE(decode_segments(body, out));
    // A name longer than allowed, or than what is left.
    for (uint16_t length : {uint16_t{256}, uint16_t{65535}, uint16_t{10}}) {
        body.clear();
        encode_segments(std::vector<SegmentInfo>{{1, SegmentKind::memfd, Rights::read, 1, 0, 0, ""}}, body);
        body[body.size() - 2] = static_cast<uint8_t>(length);
        body[body.size() - 1] = static_cast<uint8_t>(length >> 8);
        Exact copy(body);
        CHECK_FALSE(decode_segments(copy.view(), out));
    }
}

TEST_CASE("a body cut at any byte, or followed by more, is refused") {
    std::vector<Piece> pieces;
    std::vector<uint64_t> addresses;
    std::vector<AttemptId> attempts;
    std::vector<SegmentInfo> segments;
    uint64_t total = 0;
    Bytes pull, table_body, revoke;
    encode_pull(kPieces, std::vector<uint64_t>{4096, 8192}, pull);
    encode_segments(table(), table_body);
    encode_attempts(std::vector<AttemptId>{1, 2}, revoke);
    for (size_t n = 0; n < pull.size(); ++n) {
        Exact cut(ByteView(pull).first(n));
        // Counts come from the size, so a cut between entries is another, shorter body: it must hold its own.
        if (n == 0 || n % (kPieceBytes + 8) != 0)
            CHECK_FALSE(decode_pull(cut.view(), pieces, addresses, total));
        if (n == 0 || n % kPieceBytes != 0) CHECK_FALSE(decode_pieces(cut.view(), pieces, total));
    }
    for (size_t n = 0; n < table_body.size(); ++n) {
        Exact cut(ByteView(table_body).first(n));
        CHECK_FALSE(decode_segments(cut.view(), segments));
    }
    for (size_t n = 0; n < revoke.size(); ++n) {
        Exact cut(ByteView(revoke).first(n));
        CHECK(decode_attempts(cut.view(), attempts) == (n % 8 == 0));
    }
    table_body.push_back(0);
    CHECK_FALSE(decode_segments(table_body, segments));
    pull.push_back(0);
    CHECK_FALSE(decode_pull(pull, pieces, addresses, total));
}
