// The handshake against a peer that sends anything: without the secret it never finishes; with it, whatever
// else it says, it finishes only as a member of the cluster who means this node.
#include <algorithm>
#include <cstdlib>

#include "base/digest.h"
#include "proto/handshake.h"

using namespace tent;
using namespace tent::proto;
using Role = Handshake::Role;

namespace {

constexpr std::string_view kSecret = "the fuzzer's messages are not made with this";

void demand(bool holds) {
    if (!holds) std::abort();
}

Id128 id(uint8_t v) {
    Id128 i;
    i.fill(v);
    return i;
}

HandshakeConfig initiator() {
    HandshakeConfig c;
    c.self = {"prod", "prefill-0", id(0x11), "host-a"};
    c.secret = kSecret;
    c.expect_name = "decode-1";
    c.expect_incarnation = id(0x22);
    c.session = id(0x33);
    c.nonce = id(0x44);
    return c;
}

HandshakeConfig owner() {
    HandshakeConfig c;
    c.self = {"prod", "decode-1", id(0x22), "host-b"};
    c.secret = kSecret;
    c.nonce = id(0x55);
    return c;
}

// Feeds all of it in pieces of `step` bytes.
Status feed(Handshake& h, ByteView in, size_t step) {
    Status last;
    while (!in.empty()) {
        size_t consumed = 0, n = std::min(step, in.size());
        last = h.feed(in.first(n), consumed);
        demand(consumed <= n);
        if (!last.ok()) {
            demand(last.code() != Code::ok);
            for (char c : last.message()) demand(static_cast<unsigned char>(c) >= 0x20);
            break;
        }
        if (consumed < n) {
            demand(h.finished());
            break;
        }
        in = in.subspan(n);
    }
    demand(h.take_output().size() <= 2 * kMaxHandshake);
    return last;
}

Bytes framed(ByteView body, size_t extra) {
    Bytes out;
    Writer w(out);
    w.raw(as_bytes("TENT"));
    w.u16(static_cast<uint16_t>(body.size() + extra));
    w.raw(body);
    return out;
}

Sha256 mac(std::string_view role, std::initializer_list<ByteView> transcript) {
    Bytes data;
    Writer w(data);
    w.raw(as_bytes(role));
    for (ByteView part : transcript) w.raw(part);
    return hmac_sha256(as_bytes(kSecret), data);
}

// The input as what a member of the cluster might put into a REPLY.
void authentic_reply(ByteView body) {
    Handshake h(Role::initiator, initiator());
    Bytes hello = h.take_output();
    Bytes reply = framed(body, 32);
    Sha256 proof = mac("owner", {hello, reply});
    reply.insert(reply.end(), proof.begin(), proof.end());
    (void)feed(h, reply, reply.size());
    demand(!h.finished());
    (void)feed(h, framed(Bytes{4}, 0), 7);
    if (!h.finished()) return;
    demand(h.result().peer.name == "decode-1" && h.result().peer.incarnation == id(0x22));
    demand(h.result().peer.cluster == "prod" && h.result().version == 1);
}

// The input as what a member of the cluster might put into a HELLO.
void authentic_hello(ByteView body) {
    Handshake h(Role::owner, owner());
    Bytes hello = framed(body, 0), reply;
    size_t consumed = 0;
    if (!h.feed(hello, consumed).ok()) return;
    reply = h.take_output();
    Sha256 proof = mac("initiator", {hello, reply});
    Bytes message(1, 3);
    message.insert(message.end(), proof.begin(), proof.end());
    (void)feed(h, framed(message, 0), 5);
    demand(h.finished() == !reply.empty());
    if (h.finished()) demand(h.result().peer.cluster == "prod" && h.result().version == 1);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    ByteView in(data, size);
    for (size_t step : {size + 1, size_t{1} + size % 13}) {
        Handshake o(Role::owner, owner()), i(Role::initiator, initiator());
        (void)i.take_output();
        (void)feed(o, in, step);
        (void)feed(i, in, step);
        (void)feed(i, framed(Bytes{4}, 0), step);  // an ACCEPT must not help
        demand(!o.finished() && !i.finished());
    }
    if (size > kMaxHandshake) return 0;
    authentic_reply(in);
    authentic_hello(in);
    // Golden messages come with their framing.
    if (size > 6) authentic_hello(in.subspan(6));
    if (size > 38) authentic_reply(in.subspan(6, size - 38));
    return 0;
}
