#include "proto/handshake.h"

#include <doctest/doctest.h>

#include "golden.h"
#include "proto/wire.h"

using namespace tent;
using namespace tent::proto;
using tent::test::Exact;
using tent::test::golden;
using Role = Handshake::Role;

namespace {

Id128 id(uint8_t v) {
    Id128 i;
    i.fill(v);
    return i;
}

HandshakeConfig initiator() {
    HandshakeConfig c;
    c.self = {"prod", "prefill-0", id(0x11), "host-a"};
    c.secret = "correct horse battery staple";
    c.expect_name = "decode-1";
    c.expect_incarnation = id(0x22);
    c.purpose = Purpose::data;
    c.session = id(0x33);
    c.link = 4;
    c.nonce = id(0x44);
    return c;
}

HandshakeConfig owner() {
    HandshakeConfig c;
    c.self = {"prod", "decode-1", id(0x22), "host-b"};
    c.secret = "correct horse battery staple";
    c.nonce = id(0x55);
    return c;
}

Status feed(Handshake& h, ByteView in) {
    Exact copy(in);
    size_t consumed = 0;
    Status s = h.feed(copy.view(), consumed);
    CHECK(consumed <= in.size());
    return s;
}

struct Outcome {
    Status initiator, owner;
    bool both = false;
};

// Lets the two talk until neither has anything more to say.
Outcome talk(Handshake& a, Handshake& b) {
    Outcome out;
    for (int i = 0; i < 4; ++i) {
        if (Bytes m = a.take_output(); !m.empty()) out.owner = feed(b, m);
        if (Bytes m = b.take_output(); !m.empty()) out.initiator = feed(a, m);
    }
    out.both = a.finished() && b.finished();
    return out;
}

Outcome talk(const HandshakeConfig& a, const HandshakeConfig& b) {
    Handshake i(Role::initiator, a), o(Role::owner, b);
    return talk(i, o);
}

}  // namespace

TEST_CASE("a handshake has golden bytes and both ends learn who the other is") {
    Handshake a(Role::initiator, initiator()), b(Role::owner, owner());
    Bytes hello = a.take_output();
    CHECK(hello == golden("hello"));
    REQUIRE(feed(b, hello).ok());
    Bytes reply = b.take_output();
    CHECK(reply == golden("handshake_reply"));
    CHECK_FALSE(b.finished());
    REQUIRE(feed(a, reply).ok());
    Bytes proof = a.take_output();
    CHECK(proof == golden("proof"));
    CHECK_FALSE(a.finished());
    REQUIRE(feed(b, proof).ok());
    CHECK(b.finished());
    Bytes accept = b.take_output();
    CHECK(accept == golden("accept"));
    REQUIRE(feed(a, accept).ok());
    CHECK(a.finished());

    CHECK(a.result().peer.name == "decode-1");
    CHECK(a.result().peer.incarnation == id(0x22));
    CHECK(a.result().peer.host == "host-b");
    CHECK(a.result().version == 1);
    CHECK(b.result().peer.name == "prefill-0");
    CHECK(b.result().peer.cluster == "prod");
    CHECK(b.result().peer.host == "host-a");
    CHECK(b.result().purpose == Purpose::data);
    CHECK(b.result().session == id(0x33));
    CHECK(b.result().link == 4);
    CHECK(b.result().version == 1);
}

TEST_CASE("what both ends can do beyond version 1 is known to both, and nobody else is troubled with it") {
    HandshakeConfig can = owner();
    can.capabilities = kCredits;
    Handshake o(Role::owner, can);
    REQUIRE(feed(o, golden("hello_capable")).ok());  // it can do that, something more, and says other things
    CHECK(o.take_output() == golden("reply_capable"));
    CHECK(o.result().capabilities == kCredits);

    for (uint32_t ours : {0u, kCredits}) {
        for (uint32_t theirs : {0u, kCredits}) {
            HandshakeConfig a = initiator(), b = owner();
            a.capabilities = ours;
            b.capabilities = theirs;
            Handshake i(Role::initiator, a), p(Role::owner, b);
            REQUIRE(talk(i, p).both);
            CHECK(i.result().capabilities == (ours & theirs));
            CHECK(p.result().capabilities == (ours & theirs));
        }
    }
    // An end of version 1 answers as it always did.
    Handshake old(Role::owner, owner());
    REQUIRE(feed(old, golden("hello_capable")).ok());
    CHECK(old.result().capabilities == 0);
    // The proofs cover it: who changes it on its way is found out.
    Bytes forged = golden("reply_capable");
    HandshakeConfig a = initiator();
    a.capabilities = kCredits;
    Handshake i(Role::initiator, a);
    CHECK(feed(i, forged).code() == Code::auth_failed);
}

TEST_CASE("bytes after the handshake are left alone, and one byte at a time works") {
    Handshake a(Role::initiator, initiator()), b(Role::owner, owner());
    Bytes hello = a.take_output();
    for (uint8_t v : hello) REQUIRE(feed(b, ByteView(&v, 1)).ok());
    REQUIRE(feed(a, b.take_output()).ok());
    Bytes proof = a.take_output();
    size_t size = proof.size();
    proof.push_back(0xaa);
    proof.push_back(0xbb);
    size_t consumed = 0;
    REQUIRE(b.feed(proof, consumed).ok());
    CHECK(b.finished());
    CHECK(consumed == size);
    REQUIRE(b.feed(ByteView(proof).subspan(size), consumed).ok());
    CHECK(consumed == 0);
    Bytes accept = b.take_output();
    size_t half = accept.size() / 2;
    REQUIRE(feed(a, ByteView(accept).first(half)).ok());
    CHECK_FALSE(a.finished());
    REQUIRE(feed(a, ByteView(accept).subspan(half)).ok());
    CHECK(a.finished());
}

TEST_CASE("without a secret both ends still agree, and a secret on one side alone is refused") {
    HandshakeConfig a = initiator(), b = owner();
    a.secret = b.secret = "";
    CHECK(talk(a, b).both);
    a.secret = "something";
    Outcome out = talk(a, b);
    CHECK_FALSE(out.both);
    CHECK(out.initiator.code() == Code::auth_failed);
    CHECK(out.owner.code() == Code::auth_failed);
}

TEST_CASE("a wrong secret is refused by either side") {
    HandshakeConfig a = initiator(), b = owner();
    a.secret = "wrong";
    Outcome out = talk(a, b);
    CHECK_FALSE(out.both);
    CHECK(out.initiator.code() == Code::auth_failed);
    CHECK(out.owner.code() == Code::auth_failed);
    CHECK(out.initiator.message().find("cluster.secret") != std::string::npos);

    // An initiator that does not care and proves with a wrong secret anyway.
    Handshake o(Role::owner, owner());
    REQUIRE(feed(o, golden("hello")).ok());
    Bytes proof = golden("proof");
    proof.back() ^= 1;
    CHECK(feed(o, proof).code() == Code::auth_failed);
    CHECK_FALSE(o.finished());
}

TEST_CASE("another cluster, node or incarnation is refused by name") {
    HandshakeConfig a = initiator(), b = owner();
    b.self.cluster = "staging";
    Outcome out = talk(a, b);
    CHECK(out.owner.code() == Code::cluster_mismatch);
    CHECK(out.initiator.code() == Code::cluster_mismatch);

    b = owner();
    b.self.incarnation = id(0x23);
    out = talk(a, b);
    CHECK(out.owner.code() == Code::stale_incarnation);
    CHECK(out.initiator.code() == Code::stale_incarnation);

    b = owner();
    b.self.name = "decode-2";
    out = talk(a, b);
    CHECK(out.owner.code() == Code::peer_unreachable);
    CHECK(out.initiator.code() == Code::peer_unreachable);
    CHECK(out.initiator.message().find("decode-2") != std::string::npos);

    a.expect_name = "";
    a.expect_incarnation = {};
    CHECK(talk(a, b).both);
}

TEST_CASE("the initiator checks for itself that it reached whom it meant") {
    // An owner that ignores the expectation in the HELLO but knows the secret: its REPLY to a HELLO without
    // expectations, given to an initiator that has them, carries a MAC over another transcript.
    HandshakeConfig open = initiator();
    open.expect_name = "";
    open.expect_incarnation = {};
    Handshake asks(Role::initiator, open);
    Handshake answers(Role::owner, owner());
    REQUIRE(feed(answers, asks.take_output()).ok());
    Handshake expects(Role::initiator, initiator());
    CHECK(feed(expects, answers.take_output()).code() == Code::auth_failed);

    // The same bytes relayed back to where they came from: the secret is right, the node is ourselves.
    HandshakeConfig self = open;
    self.nonce = id(0x66);
    Handshake a(Role::initiator, open), b(Role::owner, self);
    REQUIRE(feed(b, a.take_output()).ok());
    CHECK(feed(a, b.take_output()).code() == Code::auth_failed);

    // On purpose it is allowed.
    HandshakeConfig on_purpose = open;
    on_purpose.expect_incarnation = on_purpose.self.incarnation;
    CHECK(talk(on_purpose, self).both);
}

TEST_CASE("a newer peer that overlaps is answered with version 1") {
    Handshake o(Role::owner, owner());
    REQUIRE(feed(o, golden("hello_newer")).ok());
    CHECK(o.result().version == 1);

    HandshakeConfig a = initiator(), b = owner();
    a.version_max = 2;
    Handshake i(Role::initiator, a), o2(Role::owner, b);
    CHECK(talk(i, o2).both);
    CHECK(i.result().version == 1);
    CHECK(o2.result().version == 1);
}

TEST_CASE("a peer of version 2 alone is refused by name, whatever its HELLO looks like") {
    Handshake o(Role::owner, owner());
    Status s = feed(o, golden("hello_only_newer"));
    CHECK(s.code() == Code::version_mismatch);
    CHECK(s.message().find("version 2") != std::string::npos);
    Handshake i(Role::initiator, initiator());
    Status told = feed(i, o.take_output());
    CHECK(told.code() == Code::version_mismatch);

    HandshakeConfig newer = owner();
    newer.version_min = newer.version_max = 2;
    Outcome out = talk(initiator(), newer);
    CHECK(out.initiator.code() == Code::version_mismatch);
    CHECK(out.owner.code() == Code::version_mismatch);
}

TEST_CASE("replayed messages prove nothing") {
    // A whole recorded exchange, played to an owner with a fresh nonce.
    HandshakeConfig fresh = owner();
    fresh.nonce = id(0x56);
    Handshake o(Role::owner, fresh);
    REQUIRE(feed(o, golden("hello")).ok());
    CHECK(feed(o, golden("proof")).code() == Code::auth_failed);
    CHECK_FALSE(o.finished());

    // A recorded REPLY, played to an initiator with a fresh nonce.
    HandshakeConfig again = initiator();
    again.nonce = id(0x45);
    Handshake i(Role::initiator, again);
    CHECK(feed(i, golden("handshake_reply")).code() == Code::auth_failed);
}

TEST_CASE("reflected messages are refused") {
    // To an initiator, its own HELLO.
    Handshake i(Role::initiator, initiator());
    CHECK(feed(i, i.take_output()).code() == Code::protocol);

    // To an owner, its own REPLY instead of a PROOF.
    Handshake o(Role::owner, owner());
    REQUIRE(feed(o, golden("hello")).ok());
    CHECK(feed(o, o.take_output()).code() == Code::protocol);

    // To an owner, its own MAC dressed as a PROOF.
    Handshake o2(Role::owner, owner());
    REQUIRE(feed(o2, golden("hello")).ok());
    Bytes reply = o2.take_output();
    Bytes forged = {'T', 'E', 'N', 'T', 33, 0, 3};
    forged.insert(forged.end(), reply.end() - 32, reply.end());
    CHECK(feed(o2, forged).code() == Code::auth_failed);

    // To an owner, its own nonce.
    HandshakeConfig copycat = initiator();
    copycat.nonce = owner().nonce;
    Handshake o3(Role::owner, owner());
    CHECK(feed(o3, Handshake(Role::initiator, copycat).take_output()).code() == Code::protocol);
}

TEST_CASE("an ACCEPT before the proof, or a HELLO twice, is refused") {
    Handshake i(Role::initiator, initiator());
    CHECK(feed(i, golden("accept")).code() == Code::protocol);
    CHECK_FALSE(i.finished());
    Handshake o(Role::owner, owner());
    CHECK(feed(o, golden("proof")).code() == Code::protocol);
    Handshake o2(Role::owner, owner());
    REQUIRE(feed(o2, golden("hello")).ok());
    CHECK(feed(o2, golden("hello")).code() == Code::protocol);
}

TEST_CASE("a message cut anywhere waits for the rest, with a byte changed anywhere it never succeeds") {
    for (const char* first : {"hello", "handshake_reply"}) {
        CAPTURE(first);
        Bytes good = golden(first);
        bool to_owner = std::string(first) == "hello";
        auto fresh = [&] {
            return to_owner ? Handshake(Role::owner, owner()) : Handshake(Role::initiator, initiator());
        };
        for (size_t n = 0; n < good.size(); ++n) {
            Handshake h = fresh();
            (void)h.take_output();
            CHECK(feed(h, ByteView(good).first(n)).ok());
            CHECK(h.take_output().empty());
        }
        for (size_t n = 0; n < good.size(); ++n) {
            CAPTURE(n);
            for (uint8_t flip : {0x01, 0x80, 0xff}) {
                Bytes bad = good;
                bad[n] = static_cast<uint8_t>(bad[n] ^ flip);
                Handshake h = fresh();
                (void)h.take_output();
                Status s = feed(h, bad);
                if (!to_owner) {
                    // A length made greater waits for more, which the engine's time-out ends.
                    if (n != 4 && n != 5) CHECK_FALSE(s.ok());
                    CHECK_FALSE(h.finished());
                    continue;
                }
                // An owner that takes a changed HELLO answers for another transcript: the proof of the true
                // one does not fit.
                Bytes out = h.take_output();
                if (s.ok() && !out.empty()) CHECK(feed(h, golden("proof")).code() == Code::auth_failed);
                CHECK_FALSE(h.finished());
            }
        }
    }
}

TEST_CASE("messages too large, empty or of other protocols are refused at once") {
    auto refused = [](Bytes in) {
        Handshake o(Role::owner, owner());
        return feed(o, in);
    };
    CHECK(refused({'T', 'E', 'N', 'T', 0xff, 0xff}).code() == Code::protocol);
    CHECK(refused({'T', 'E', 'N', 'T', 0, 0}).code() == Code::protocol);
    std::string http = "GET / HTTP/1.1\r\n\r\n";
    CHECK(refused({http.begin(), http.end()}).code() == Code::protocol);
    CHECK(refused({'G'}).code() == Code::protocol);  // without waiting for more
    CHECK(refused({0x16, 0x03, 0x01}).code() == Code::protocol);

    // Strangers get no answer at all.
    Handshake o(Role::owner, owner());
    (void)feed(o, as_bytes(http));
    CHECK(o.take_output().empty());
    // A failed handshake stays failed.
    CHECK(feed(o, golden("hello")).code() == Code::protocol);
    CHECK(o.take_output().empty());
}

TEST_CASE("HELLO fields are checked") {
    auto refused = [](auto&& change) {
        HandshakeConfig c = initiator();
        change(c);
        Handshake i(Role::initiator, c), o(Role::owner, owner());
        return feed(o, i.take_output()).code();
    };
    CHECK(refused([](HandshakeConfig&) {}) == Code::ok);
    CHECK(refused([](HandshakeConfig& c) { c.purpose = static_cast<Purpose>(0); }) == Code::protocol);
    CHECK(refused([](HandshakeConfig& c) { c.purpose = static_cast<Purpose>(9); }) == Code::protocol);
}

TEST_CASE("a REJECT is taken for what it says, printable and bounded") {
    Handshake i(Role::initiator, initiator());
    Status s = feed(i, golden("reject"));
    CHECK(s.code() == Code::cluster_mismatch);
    CHECK(s.message().find("wrong cluster") != std::string::npos);

    auto told = [](uint16_t code, std::string_view text) {
        Bytes body, message;
        Writer b(body), m(message);
        b.u8(5);
        b.u16(code);
        b.str(text);
        m.raw(as_bytes("TENT"));
        m.u16(static_cast<uint16_t>(body.size()));
        m.raw(body);
        Handshake h(Role::initiator, initiator());
        return feed(h, message);
    };
    CHECK(told(0, "fine").code() == Code::protocol);       // a refusal without a reason
    CHECK(told(60000, "later").code() == Code::internal);  // a code from a later version
    CHECK(told(9, "a\nb\x1b[2J").message().find('\n') == std::string::npos);
    CHECK(told(9, std::string(kMaxMessage, 'x')).code() == Code::auth_failed);
    CHECK(told(9, std::string(kMaxMessage + 1, 'x')).code() == Code::protocol);
}

TEST_CASE("a configuration that cannot be sent says so") {
    HandshakeConfig c = initiator();
    CHECK(Handshake::check(c).ok());
    c.self.name = std::string(256, 'n');
    CHECK(Handshake::check(c).code() == Code::invalid_argument);
    Handshake h(Role::initiator, c);
    CHECK(h.take_output().empty());
    CHECK(feed(h, {}).code() == Code::invalid_argument);
    c = initiator();
    c.self.host = "a\nb";
    CHECK_FALSE(Handshake::check(c).ok());
    c = initiator();
    c.nonce = {};
    CHECK_FALSE(Handshake::check(c).ok());
    c = initiator();
    c.version_min = 2;
    CHECK_FALSE(Handshake::check(c).ok());

    // The longest names there may be still fit.
    c = initiator();
    c.self.cluster = c.self.name = c.self.host = std::string(255, 'n');
    c.expect_name = std::string(255, 'o');
    HandshakeConfig o = owner();
    o.self.cluster = c.self.cluster;
    o.self.name = c.expect_name;
    CHECK(talk(c, o).both);
}
