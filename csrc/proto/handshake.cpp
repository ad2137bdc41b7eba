#include "proto/handshake.h"

#include <algorithm>

#include "proto/wire.h"

namespace tent::proto {
namespace {

constexpr std::string_view kMagic = "TENT";
constexpr size_t kFraming = 6;  // magic, u16 length

enum Kind : uint8_t { kHello = 1, kReply = 2, kProof = 3, kAccept = 4, kReject = 5 };

// Names go into logs and metrics: no control characters.
bool good_name(std::string_view s) {
    return s.size() <= kMaxName && std::none_of(s.begin(), s.end(), [](char c) {
               auto u = static_cast<unsigned char>(c);
               return u < 0x20 || u == 0x7f;
           });
}

bool good(const Identity& who) {
    return good_name(who.cluster) && good_name(who.name) && good_name(who.host);
}

void put(Writer& w, const Identity& who) {
    w.str(who.cluster);
    w.str(who.name);
    w.id(who.incarnation);
    w.str(who.host);
}

Identity get_identity(Reader& r) {
    Identity who;
    who.cluster = r.str(kMaxName);
    who.name = r.str(kMaxName);
    who.incarnation = r.id();
    who.host = r.str(kMaxName);
    if (!good(who)) r.fail();
    return who;
}

constexpr uint8_t kCapabilities = 1;

void put_extensions(Writer& w, uint32_t capabilities) {
    if (capabilities == 0) return w.u16(0);
    w.u16(6);
    w.u8(kCapabilities);
    w.u8(4);
    w.u32(capabilities);
}

// What the peer can do. What a later version wrote there is skipped, whatever it looks like.
uint32_t get_extensions(Reader& r) {
    Reader entries(r.raw(r.u16()));
    uint32_t capabilities = 0;
    while (entries.ok() && entries.left() > 0) {
        uint8_t kind = entries.u8();
        Reader value(entries.raw(entries.u8()));
        if (entries.ok() && kind == kCapabilities && value.left() == 4) capabilities = value.u32();
    }
    return capabilities;
}

std::string range_text(uint16_t low, uint16_t high) {
    return low == high ? std::to_string(low) : std::to_string(low) + " to " + std::to_string(high);
}

std::string printable(std::string text) {
    for (char& c : text) {
        auto u = static_cast<unsigned char>(c);
        if (u < 0x20 || u == 0x7f) c = '?';
    }
    return text;
}

}  // namespace

Status Handshake::check(const HandshakeConfig& c) {
    if (!good(c.self) || !good_name(c.expect_name))
        return {Code::invalid_argument,
                "cluster id, node name and host identity take at most 255 bytes without control characters"};
    if (c.version_min == 0 || c.version_min > c.version_max)
        return {Code::invalid_argument, "the version range of a handshake is empty"};
    if (c.nonce == Id128{}) return {Code::invalid_argument, "a handshake needs a fresh random nonce"};
    return {};
}

Handshake::Handshake(Role role, HandshakeConfig config) : role_(role), config_(std::move(config)) {
    failed_ = check(config_);
    if (failed_.ok() && role_ == Role::initiator) send_hello();
}

Status Handshake::feed(ByteView in, size_t& consumed) {
    consumed = 0;
    while (failed_.ok() && !finished_) {
        size_t want = kFraming;
        if (in_.size() >= kFraming) want += Reader(ByteView(in_).subspan(kMagic.size())).u16();
        size_t take = std::min(want - in_.size(), in.size() - consumed);
        ByteView more = in.subspan(consumed, take);
        in_.insert(in_.end(), more.begin(), more.end());
        consumed += take;
        if (in_.empty()) return {};
        if (size_t n = std::min(in_.size(), kMagic.size()); std::memcmp(in_.data(), kMagic.data(), n) != 0)
            return fail_silently(Code::protocol,
                                 "the peer does not speak TENT: is the port another service's?");
        if (in_.size() < want) return {};
        if (want == kFraming) {
            size_t length = Reader(ByteView(in_).subspan(kMagic.size())).u16();
            if (length == 0 || length > kMaxHandshake - kFraming)
                return fail(Code::protocol, "a handshake message of a size that TENT never sends");
            continue;
        }
        Bytes message;
        message.swap(in_);
        failed_ = step(message, ByteView(message).subspan(kFraming));
    }
    return failed_;
}

Bytes Handshake::take_output() {
    Bytes out;
    out.swap(out_);
    return out;
}

bool Handshake::finished() const {
    return finished_;
}

const HandshakeResult& Handshake::result() const {
    return result_;
}

Status Handshake::step(ByteView message, ByteView body) {
    Reader r(body);
    uint8_t kind = r.u8();
    if (kind == kReject) return on_reject(r);
    bool owner = role_ == Role::owner;
    uint8_t expected = waiting_for_first_ ? (owner ? kHello : kReply) : (owner ? kProof : kAccept);
    if (kind != expected)
        return fail(Code::protocol, "a handshake message out of turn (a reflected one, perhaps)");
    if (kind == kHello) return on_hello(message, r);
    if (kind == kReply) return on_reply(message, r);
    if (kind == kProof) return on_proof(r);
    if (!r.done()) return fail(Code::protocol, "a malformed ACCEPT");
    finished_ = true;
    return {};
}

// Appends to the transcript all but the last `untranscribed` bytes: a proof cannot cover itself.
void Handshake::send(const Bytes& body, size_t untranscribed) {
    Bytes message;
    Writer w(message);
    w.raw(as_bytes(kMagic));
    w.u16(static_cast<uint16_t>(body.size()));
    w.raw(body);
    out_.insert(out_.end(), message.begin(), message.end());
    transcript_.insert(transcript_.end(), message.begin(),
                       message.end() - static_cast<std::ptrdiff_t>(untranscribed));
}

Sha256 Handshake::proof(const char* role) const {
    Bytes data;
    Writer w(data);
    w.raw(as_bytes(role));
    w.raw(transcript_);
    return hmac_sha256(as_bytes(config_.secret), data);
}

void Handshake::send_hello() {
    Bytes body;
    Writer w(body);
    w.u8(kHello);
    w.u16(config_.version_min);
    w.u16(config_.version_max);
    put(w, config_.self);
    w.str(config_.expect_name);
    w.id(config_.expect_incarnation);
    w.u8(static_cast<uint8_t>(config_.purpose));
    w.id(config_.session);
    w.u32(config_.link);
    w.id(config_.nonce);
    put_extensions(w, config_.capabilities);
    send(body);
    result_.purpose = config_.purpose;
    result_.session = config_.session;
    result_.link = config_.link;
}

Status Handshake::on_hello(ByteView message, Reader r) {
    uint16_t low = r.u16(), high = r.u16();
    uint16_t version = std::min(high, config_.version_max);
    // Before the rest, which another version may have laid out otherwise.
    if (!r.ok() || low == 0 || low > high) return fail(Code::protocol, "a malformed HELLO");
    if (version < std::max(low, config_.version_min))
        return fail(Code::version_mismatch,
                    "the peer speaks wire protocol version " + range_text(low, high) + ", this node " +
                        range_text(config_.version_min, config_.version_max) + ": upgrade the older one");
    result_.version = version;
    result_.peer = get_identity(r);
    std::string expect_name = r.str(kMaxName);
    Id128 expect_incarnation = r.id();
    uint8_t purpose = r.u8();
    result_.session = r.id();
    result_.link = r.u32();
    Id128 nonce = r.id();
    result_.capabilities = config_.capabilities & get_extensions(r);
    if (!r.done() || purpose < static_cast<uint8_t>(Purpose::control) ||
        purpose > static_cast<uint8_t>(Purpose::probe) || nonce == Id128{} || nonce == config_.nonce)
        return fail(Code::protocol, "a malformed HELLO");
    result_.purpose = static_cast<Purpose>(purpose);
    if (result_.peer.cluster != config_.self.cluster)
        return fail(Code::cluster_mismatch, "the peer belongs to cluster '" + result_.peer.cluster +
                                                "' and this node does not: set the same cluster.id on both");
    if (!expect_name.empty() && expect_name != config_.self.name)
        return fail(Code::peer_unreachable,
                    "this address leads to node '" + config_.self.name +
                        "', not to the one expected: its descriptor is out of date, or "
                        "its advertised address means another host here");
    if (expect_incarnation != Id128{} && expect_incarnation != config_.self.incarnation)
        return fail(Code::stale_incarnation,
                    "node '" + config_.self.name + "' has restarted since: fetch its descriptor again");
    transcript_.assign(message.begin(), message.end());
    send_reply();
    waiting_for_first_ = false;
    return {};
}

void Handshake::send_reply() {
    Bytes body;
    Writer w(body);
    w.u8(kReply);
    w.u16(result_.version);
    put(w, config_.self);
    w.id(config_.nonce);
    put_extensions(w, result_.capabilities);
    // The proof covers the message's own framing, so the length is written for the whole first.
    Sha256 room{};
    w.raw(room);
    send(body, room.size());
    Sha256 mac = proof("owner");
    std::copy(mac.begin(), mac.end(), out_.end() - static_cast<std::ptrdiff_t>(mac.size()));
    transcript_.insert(transcript_.end(), mac.begin(), mac.end());
}

Status Handshake::on_reply(ByteView message, Reader r) {
    result_.version = r.u16();
    result_.peer = get_identity(r);
    Id128 nonce = r.id();
    result_.capabilities = config_.capabilities & get_extensions(r);
    ByteView mac = r.raw(Sha256{}.size());
    if (!r.done()) return fail(Code::protocol, "a malformed REPLY");
    ByteView covered = message.first(message.size() - mac.size());
    transcript_.insert(transcript_.end(), covered.begin(), covered.end());
    if (!constant_time_equal(proof("owner"), mac))
        return fail(Code::auth_failed,
                    "the secrets differ: set the same cluster.secret (or cluster.secret_file) on both nodes");
    const Identity& peer = result_.peer;
    if (result_.version < config_.version_min || result_.version > config_.version_max)
        return fail(Code::version_mismatch, "the owner chose wire protocol version " +
                                                std::to_string(result_.version) + ", which was not offered");
    if (peer.cluster != config_.self.cluster)
        return fail(Code::cluster_mismatch, "node '" + peer.name + "' belongs to cluster '" + peer.cluster +
                                                "': set the same cluster.id on both");
    if (!config_.expect_name.empty() && peer.name != config_.expect_name)
        return fail(Code::peer_unreachable,
                    "the address leads to node '" + peer.name + "', not to '" + config_.expect_name + "'");
    if (config_.expect_incarnation != Id128{} && peer.incarnation != config_.expect_incarnation)
        return fail(Code::stale_incarnation,
                    "node '" + peer.name + "' has restarted since: fetch its descriptor again");
    // A node may dial itself on purpose only: otherwise somebody relays our own messages back to us.
    if (config_.expect_incarnation == Id128{} && peer.incarnation == config_.self.incarnation &&
        peer.incarnation != Id128{})
        return fail(Code::auth_failed, "the address leads back to this node itself");
    if (nonce == config_.nonce || nonce == Id128{})
        return fail(Code::auth_failed, "the owner's nonce is not a fresh one");
    transcript_.insert(transcript_.end(), mac.begin(), mac.end());
    Bytes body;
    Writer w(body);
    w.u8(kProof);
    w.raw(proof("initiator"));
    send(body);
    waiting_for_first_ = false;
    return {};
}

Status Handshake::on_proof(Reader r) {
    ByteView mac = r.raw(Sha256{}.size());
    if (!r.done()) return fail(Code::protocol, "a malformed PROOF");
    if (!constant_time_equal(proof("initiator"), mac))
        return fail(Code::auth_failed,
                    "the secrets differ: set the same cluster.secret (or cluster.secret_file) on both nodes");
    send({kAccept});
    finished_ = true;
    return {};
}

Status Handshake::on_reject(Reader r) {
    Code code = code_from_wire(r.u16());
    std::string message = r.str(kMaxMessage);
    if (!r.done() || code == Code::ok) return fail_silently(Code::protocol, "a malformed REJECT");
    return fail_silently(code, "refused by the peer: " + printable(std::move(message)));
}

Status Handshake::fail(Code code, const std::string& why) {
    Bytes body;
    Writer w(body);
    w.u8(kReject);
    w.u16(static_cast<uint16_t>(code));
    w.str(std::string_view(why).substr(0, kMaxMessage));
    send(body);
    return fail_silently(code, why);
}

Status Handshake::fail_silently(Code code, const std::string& why) {
    failed_ = {code, why};
    return failed_;
}

}  // namespace tent::proto
