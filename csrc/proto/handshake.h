// Mutual authentication of one connection: both sides prove that they know the cluster's secret, name
// themselves and whom they expect, before anything is read or written for the peer. Pure: bytes in, bytes
// out.
//
//   initiator -> HELLO   version range, cluster id, who I am, whom I expect, purpose, session id, nonce Ni
//   owner     -> REPLY   version chosen, who I am, nonce No, HMAC(secret, "owner" | transcript so far)
//   initiator -> PROOF   HMAC(secret, "initiator" | transcript so far)
//   owner     -> ACCEPT  (either side: REJECT code + message, at any point)
//
// A message is "TENT", u16 bytes that follow, u8 kind, fields; at most kMaxHandshake bytes in all. HELLO and
// REPLY end with an extension block: u16 bytes, then entries of u8 kind, u8 length, that many bytes. What is
// not known is skipped, so that a later version's HELLO can be answered. Kind 1, four bytes: what its sender
// can do beyond version 1; what both can do may be used on this connection. Who can do no more sends no
// entry. The transcript is every byte sent so far by either side. Roles and both nonces are under the HMAC,
// so neither replay nor reflection works. With an empty secret the HMAC is keyed with zero bytes: integrity
// of the exchange only (the engine then listens on loopback and unix sockets alone). A REJECT proves nothing
// about who sent it: it ends this connection and no more.
#pragma once

#include <string>

#include "base/bytes.h"
#include "base/digest.h"
#include "base/status.h"

namespace tent::proto {

constexpr size_t kMaxHandshake = 2048;

// Bits of what an end can do beyond version 1.
constexpr uint32_t kCredits = 1;  // understands `credit` frames
constexpr uint32_t kVerbs = 2;    // has an RDMA device, and understands qp_open and what follows it

enum class Purpose : uint8_t { control = 1, data = 2, interactive = 3, probe = 4 };

struct Identity {
    std::string cluster;  // cluster id
    std::string name;     // node name, <= 255
    Id128 incarnation{};
    std::string host;  // host identity: equal means same host, <= 255
};

struct HandshakeConfig {
    Identity self;
    std::string secret;
    // Initiator only:
    std::string expect_name;     // empty: anybody of the cluster
    Id128 expect_incarnation{};  // zeros: any
    Purpose purpose = Purpose::control;
    Id128 session{};    // chosen by the initiator with its control connection; the others name it
    uint32_t link = 0;  // data: index of the local rail, for the owner's logs and per-rail queues
    Id128 nonce{};      // fresh random bits, given by the caller (purity)
    uint16_t version_min = 1, version_max = 1;
    uint32_t capabilities = 0;
};

struct HandshakeResult {
    Identity peer;
    Purpose purpose{};
    Id128 session{};
    uint32_t link = 0;
    uint16_t version = 0;
    uint32_t capabilities = 0;  // of both ends
};

class Handshake {
  public:
    enum class Role : uint8_t { initiator, owner };
    Handshake(Role role, HandshakeConfig config);

    // Can this configuration be put on the wire (lengths, version range, nonce drawn)? The engine asks once
    // when it starts; a Handshake made from one that cannot fails at its first feed().
    static Status check(const HandshakeConfig& config);

    // Feeds received bytes; `consumed` <= in.size() (bytes after the handshake belong to frames and are
    // left). Not ok: the connection is to be closed after sending what take_output() holds (a REJECT, or
    // nothing where the peer does not speak TENT). The status says why: auth_failed (secrets differ, replay),
    // cluster_mismatch, version_mismatch, stale_incarnation (the expected name, another incarnation),
    // peer_unreachable (the address leads to another node), protocol (not TENT, or malformed); or what the
    // peer's REJECT said. It stays so: a failed handshake answers every later feed() alike.
    Status feed(ByteView in, size_t& consumed);
    // Bytes to send now (empty when none). The initiator has some right after construction.
    Bytes take_output();
    bool finished() const;                  // both proofs verified
    const HandshakeResult& result() const;  // valid when finished

  private:
    Role role_;
    HandshakeConfig config_;
    HandshakeResult result_;
    Bytes out_, in_, transcript_;
    bool waiting_for_first_ = true;  // HELLO or REPLY; then PROOF or ACCEPT
    bool finished_ = false;
    Status failed_;

    void send(const Bytes& body, size_t untranscribed = 0);
    void send_hello();
    void send_reply();
    Status step(ByteView message, ByteView body);
    Status on_hello(ByteView message, Reader r);
    Status on_reply(ByteView message, Reader r);
    Status on_proof(Reader r);
    Status on_reject(Reader r);
    Status fail(Code code, const std::string& why);  // and tell the peer
    Status fail_silently(Code code, const std::string& why);
    Sha256 proof(const char* role) const;
};

}  // namespace tent::proto
