// Mutual authentication of one connection: both sides prove that they know the cluster's secret, name
// themselves and whom they expect, before anything is read or written for the peer. Pure: bytes in, bytes
// out.
//
//   initiator -> HELLO   magic, version range, cluster id, who I am, whom I expect, purpose, session id,
//   nonce Ni owner     -> REPLY   version chosen, who I am, nonce No, HMAC(secret, "owner" | transcript so
//   far) initiator -> PROOF   HMAC(secret, "initiator" | transcript so far) owner     -> ACCEPT  (or REJECT
//   code + message, at any point)
//
// Roles and both nonces are under the HMAC, so neither replay nor reflection works. With an empty secret the
// HMAC is keyed with zero bytes: integrity of the exchange only (the engine then listens on loopback and unix
// sockets alone). Sizes are bounded: a message is <= kMaxHandshake bytes, framed by u16 length after a 4-byte
// magic.
#pragma once

#include <string>

#include "base/bytes.h"
#include "base/status.h"

namespace tent::proto {

constexpr size_t kMaxHandshake = 2048;

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
};

struct HandshakeResult {
    Identity peer;
    Purpose purpose{};
    Id128 session{};
    uint32_t link = 0;
    uint16_t version = 0;
};

class Handshake {
  public:
    enum class Role : uint8_t { initiator, owner };
    Handshake(Role role, HandshakeConfig config);

    // Feeds received bytes; `consumed` <= in.size() (bytes after the handshake belong to frames and are
    // left). Not ok: the connection is to be closed after sending what take_output() holds (a REJECT);
    // status() says why: auth_failed, cluster_mismatch, version_mismatch, stale_incarnation, protocol ...
    Status feed(ByteView in, size_t& consumed);
    // Bytes to send now (empty when none). The initiator has some right after construction.
    Bytes take_output();
    bool finished() const;                  // both proofs verified
    const HandshakeResult& result() const;  // valid when finished

  private:
    struct State;
    Role role_;
    HandshakeConfig config_;
    HandshakeResult result_;
    Bytes out_, in_, transcript_;
    Id128 peer_nonce_{};
    int step_ = 0;
    bool finished_ = false;
    Status step(ByteView message);
    Status fail(Code code, const std::string& why);
};

}  // namespace tent::proto
