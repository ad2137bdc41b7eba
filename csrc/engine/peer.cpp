#include "engine/peer.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/log.h"
#include "engine/engine.h"

namespace tent::engine {

using proto::FrameType;
using proto::Header;
using transport::Channel;
using transport::FrameStream;

namespace {

constexpr Nanos kRedial = 50 * kMillisecond;
constexpr Nanos kRedialSlow = kSecond;
constexpr uint8_t kMemoryTier = 0, kNetworkTier = 1;

bool exited(int pidfd) {
    if (pidfd < 0) return false;
    pollfd p{pidfd, POLLIN, 0};
    return poll(&p, 1, 0) > 0;
}

// Proves that we may read the peer's memory, and that `pid` is the process that wrote the descriptor.
bool can_read_memory(pid_t pid, uint64_t address, const Id128& expected) {
    Id128 got{};
    iovec local{got.data(), got.size()}, remote{reinterpret_cast<void*>(address), got.size()};
    ssize_t n = process_vm_readv(pid, &local, 1, &remote, 1, 0);
    return n == static_cast<ssize_t>(got.size()) && got == expected;
}

}  // namespace

void Call::finish(Status s, ByteView bytes) {
    status = std::move(s);
    reply.assign(bytes.begin(), bytes.end());
    done.store(true, std::memory_order_release);
}

Peer::Peer(Engine& engine, uint32_t index, Descriptor descriptor)
    : engine_(engine),
      index_(index),
      descriptor_(std::move(descriptor)),
      session_(engine.random_id()),
      lease_(engine.settings().lease, boottime_now()) {}

Peer::~Peer() = default;

proto::HandshakeConfig Peer::handshake(void* self, proto::Purpose purpose, uint32_t rail) {
    auto* p = static_cast<Peer*>(self);
    proto::HandshakeConfig c = p->engine_.handshake_config();
    c.expect_name = p->descriptor_.name;
    c.expect_incarnation = p->descriptor_.incarnation;
    c.purpose = purpose;
    c.session = p->session_;
    c.link = rail;
    return c;
}

bool Peer::same_host() const {
    return engine_.settings().shm && !descriptor_.unix_name.empty() && descriptor_.host == engine_.host();
}

void Peer::start(Nanos now) {
    dial_control(now);
}

// ---- the control connection

void Peer::dial_control(Nanos now) {
    next_control_dial_ = now + kRedial;
    by_unix_ = same_host() && !unix_failed_;
    size_t ways = by_unix_ ? 1 : descriptor_.rails.size();
    if (ways == 0)
        return die({Code::peer_unreachable, "node '" + descriptor_.name + "' listens nowhere that we reach"});
    Result<transport::Dialled> d{Code::peer_unreachable, ""};
    std::string where = "unix socket";
    if (by_unix_) {
        d = transport::dial_unix(descriptor_.unix_name);
    } else {
        const RailAddress& rail = descriptor_.rails[control_route_++ % ways];
        where = rail.address.text();
        d = transport::dial_tcp(rail.address, "", {});
    }
    if (!d.ok()) {
        why_ = {Code::peer_unreachable, "node '" + descriptor_.name + "': " + d.status().message()};
        // One kernel, but not one network namespace (containers): its abstract socket is out of our sight.
        if (by_unix_ && !was_alive_ && engine_.settings().tcp && !descriptor_.rails.empty()) {
            log(LogLevel::info, "peer '" + descriptor_.name + "': " + d.status().message() +
                                    ": another network namespace, or gone; trying TCP");
            unix_failed_ = true;
            return dial_control(now);
        }
        if (by_unix_ || ++refused_in_a_row_ >= 2 * ways) die(why_);
        return;
    }
    control_ = std::make_unique<FrameStream>(
        engine_.poller(), std::move(d->fd), d->connecting, proto::Handshake::Role::initiator,
        handshake(this, proto::Purpose::control, 0), this, transport::StreamLimits{});
    control_->name = descriptor_.name + " (" + where + ")";
    control_->flush();
}

void Peer::on_open(FrameStream& stream) {
    refused_in_a_row_ = 0;
    lease_ = proto::WriterLease(engine_.settings().lease, boottime_now());
    if (!was_alive_ && by_unix_ && !pidfd_owner_) {
        ucred cred{};
        socklen_t size = sizeof cred;
        bool known = getsockopt(stream.fd(), SOL_SOCKET, SO_PEERCRED, &cred, &size) == 0 && cred.pid > 0;
        if (!known) {
            log(LogLevel::info,
                "peer '" + descriptor_.name +
                    "': its process is in a pid namespace that ours does not see; going over TCP");
        } else {
            pidfd_owner_ = UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, cred.pid, 0)));
            pidfd_ = pidfd_owner_.get();
            bool pull = engine_.settings().pull &&
                        can_read_memory(cred.pid, descriptor_.probe_address, descriptor_.incarnation);
            if (!pull && engine_.settings().pull) {
                log(LogLevel::info,
                    "peer '" + descriptor_.name +
                        "': process_vm_readv is not permitted; its private memory goes over TCP");
            }
            shm_ = std::make_unique<transport::shm::ShmChannel>(*this, engine_, engine_.copier(), cred.pid,
                                                                pidfd_, pull);
        }
    }
    state_ = PeerState::alive;
    if (!was_alive_) {
        was_alive_ = true;
        open_shm();
    }
    // What was under way on the old control connection is asked again: revokes are idempotent, notifications
    // numbered.
    for (auto& [id, list] : revoking_) to_revoke_.insert(to_revoke_.end(), list.begin(), list.end());
    revoking_.clear();
    for (const auto& [id, bytes] : notifications_) {
        Header h;
        h.type = FrameType::notify;
        h.attempt = id;
        control_->send(h, bytes);
    }
    request_segments();
    control_->flush();
}

void Peer::open_shm() {
    if (!shm_) return;
    Status s = shm_->open();
    if (!s.ok()) {
        log(LogLevel::warning, "peer '" + descriptor_.name + "': no shared memory: " + s.message());
        shm_.reset();
        return;
    }
    shm_->set_segments(&segments_);
    sched::LinkSpec spec;
    spec.peer = index_;
    spec.local = engine_.memory_rail();
    spec.remote = engine_.memory_rail();
    spec.tier = kMemoryTier;
    spec.max_attempts = static_cast<uint32_t>(2 * (engine_.copier().threads() + 1));
    spec.name = descriptor_.name + "/shm";
    shm_link_ = engine_.add_link(spec, this);
    Link l;
    l.id = shm_link_;
    l.is_shm = true;
    l.local = l.remote = engine_.memory_rail();
    l.name = spec.name;
    links_.push_back(std::move(l));
}

void Peer::request_segments() {
    segment_request_ = next_request_++;
    Header h;
    h.type = FrameType::segments;
    h.attempt = segment_request_;
    send_control(h, {}, {});
}

void Peer::send_control(const Header& h, ByteView body, std::vector<int> descriptors) {
    if (control_ && !control_->closed()) control_->send(h, body, {}, descriptors);
}

void Peer::on_payload(FrameStream& stream, const Header&, ByteView, std::vector<transport::LocalPiece>&) {
    stream.close({Code::protocol, stream.name + ": payload on a control connection"});
}

void Peer::on_frame(FrameStream& stream, const Header& h, ByteView body) {
    switch (h.type) {
        case FrameType::token: {
            lease_.received(h.aux, boottime_now());
            Header echo;
            echo.type = FrameType::echo;
            echo.aux = h.aux;
            echo.attempt = static_cast<uint64_t>(engine_.loop_lag());
            stream.send(echo);
            return;
        }
        case FrameType::revoked:
            return on_revoked(h.attempt);
        case FrameType::segment_table: {
            std::vector<proto::SegmentInfo> table;
            if (!proto::decode_segments(body, table)) {
                stream.close({Code::protocol, stream.name + ": a malformed segment table"});
                return;
            }
            segments_ = std::move(table);
            has_segments_ = true;
            if (h.attempt == segment_request_) segment_request_ = 0;
            engine_.peer_changed(*this);
            return;
        }
        case FrameType::segment_gone: {
            auto gone = static_cast<SegmentId>(h.aux);
            std::erase_if(segments_, [&](const auto& s) { return s.id == gone; });
            if (shm_) shm_->segment_gone(gone);
            return;
        }
        case FrameType::mapped:
            return on_mapped(stream, h, body);
        case FrameType::write_ack: {
            std::string text(reinterpret_cast<const char*>(body.data()),
                             std::min(body.size(), proto::kMaxMessage));
            auto piece = static_cast<uint32_t>(std::min<uint64_t>(h.aux, kNoId));
            if (shm_) shm_->on_pull_ended(h.attempt, code_from_wire(h.code), piece, std::move(text));
            return;
        }
        case FrameType::reply: {
            auto it = calls_.find(h.attempt);
            if (it == calls_.end()) return;
            Code code = code_from_wire(h.code);
            std::string text;
            if (code != Code::ok)
                text.assign(reinterpret_cast<const char*>(body.data()),
                            std::min(body.size(), proto::kMaxMessage));
            it->second->finish({code, text}, code == Code::ok ? body : ByteView{});
            calls_.erase(it);
            engine_.wake_followers();
            return;
        }
        case FrameType::notify_ack:
            notifications_.erase(h.attempt);
            return;
        case FrameType::bye:
            die({Code::peer_dead, "node '" + descriptor_.name + "' closed: " +
                                      std::string(reinterpret_cast<const char*>(body.data()),
                                                  std::min(body.size(), proto::kMaxMessage))});
            // The owner's session has ended before it said so: it receives nothing of ours any more. Only its
            // copying threads may still be inside a pull, and it says whether any is.
            fence(h.aux == 0);
            return;
        default:
            stream.close({Code::protocol, stream.name + ": an unexpected frame on a control connection"});
    }
}

void Peer::on_mapped(FrameStream& stream, const Header& h, ByteView body) {
    std::vector<UniqueFd> fds;
    for (uint64_t i = 0; i < std::min<uint64_t>(h.aux, 8); ++i) fds.push_back(stream.take_descriptor());
    if (shm_) shm_->on_mapped(h.attempt, code_from_wire(h.code), body, std::move(fds));
}

void Peer::on_closed(FrameStream& stream, const Status& why) {
    if (&stream != control_.get()) return;
    dead_streams_.push_back(std::move(control_));
    if (state_ == PeerState::dead) return;
    Code c = why.code();
    bool final = c == Code::auth_failed || c == Code::cluster_mismatch || c == Code::version_mismatch ||
                 c == Code::stale_incarnation || c == Code::name_in_use;
    if (final) return die({c, "node '" + descriptor_.name + "': " + why.message()});
    if (exited(pidfd_))
        return die({Code::peer_dead, "the process of node '" + descriptor_.name + "' is gone"});
    why_ = {Code::peer_unreachable, "node '" + descriptor_.name + "': " + why.message()};
    // Refused or reset on every rail, twice: nobody listens there any more.
    size_t ways = by_unix_ ? 1 : std::max<size_t>(1, descriptor_.rails.size());
    if (++refused_in_a_row_ > 2 * ways) return die(why_);
    next_control_dial_ = monotonic_now() + (refused_in_a_row_ > 1 ? kRedial : 0);
    engine_.wake_at(next_control_dial_);
}

void Peer::die(const Status& why) {
    if (state_ == PeerState::dead) return;
    state_ = PeerState::dead;
    why_ = why;
    if (control_) {
        auto stream = std::move(control_);
        stream->close(why);
        dead_streams_.push_back(std::move(stream));
    }
    for (auto& [id, call] : calls_) call->finish(why, {});
    calls_.clear();
    engine_.wake_followers();
    for (Link& l : links_) {
        if (l.id != kNoId) engine_.link_down(l.id);
        for (auto* ch : {&l.channel, &l.probe}) {
            if (!*ch) continue;
            (*ch)->close(why);
            retired_.push_back(std::move(*ch));
        }
    }
    if (shm_) shm_->close(why);
    engine_.peer_died(*this);
    // A process that is gone takes nothing more; of any other the lease has to run out first (tick).
    if (exited(pidfd_)) fence(true);
}

void Peer::close(const Status& why) {
    if (control_ && !control_->closed()) {
        send_revokes();
        Header h;
        h.type = FrameType::bye;
        // Copies into memory that was lent to us may still be under way: then it is ours until this process
        // ends.
        h.aux = shm_ && !shm_->quiet() ? 1 : 0;
        control_->send(h, as_bytes(why.message()));
        control_->flush();
    }
    die(why);
}

void Peer::tick(Nanos now, Nanos lease_now) {
    dead_streams_.clear();
    std::erase_if(retired_, [](const auto& c) { return c->quiet(); });
    if (state_ == PeerState::dead) {
        if (lease_now >= lease_.fenced_at() || exited(pidfd_)) fence(true);
        return;
    }
    if (was_alive_ && lease_now >= lease_.fenced_at()) {
        die({Code::peer_unreachable, "node '" + descriptor_.name + "' has been silent for its whole lease"});
        fence(true);
        return;
    }
    if (control_ && !control_->open() && now - control_->born() > engine_.settings().connect_timeout) {
        control_->close({Code::peer_unreachable, control_->name + ": no answer to the handshake in time"});
    }
    // The rail that carries the control connection may be lost without a word. Tokens come four times a
    // lease: another rail is tried before it runs out, so that one link's fault does not end the session.
    if (control_ && control_->open() && !by_unix_ && descriptor_.rails.size() > 1 &&
        now - control_->last_received() > engine_.settings().lease / 2) {
        control_->close({Code::link_failed, control_->name + ": silent for half a lease"});
    }
    if (!control_ && state_ != PeerState::dead && now >= next_control_dial_) dial_control(now);
    if (want_tcp_ && state_ == PeerState::alive) dial_links(now);
}

void Peer::flush() {
    send_revokes();
    if (control_ && control_->dirty()) control_->flush();
    for (Link& l : links_) {
        if (l.channel) l.channel->flush();
        if (l.probe) l.probe->flush();
    }
}

bool Peer::quiet() const {
    bool channels = std::all_of(retired_.begin(), retired_.end(), [](const auto& c) { return c->quiet(); });
    return attempts_.empty() && channels && (!shm_ || shm_->quiet());
}

// ---- links

bool Peer::any_link_up() const {
    return std::any_of(links_.begin(), links_.end(),
                       [](const Link& l) { return l.channel && l.channel->up(); });
}

// Same-index pairs of rails: local i with remote i modulo their number.
void Peer::make_links() {
    links_made_ = true;
    if (!engine_.settings().tcp) return;
    const auto& local = engine_.rails();
    size_t n = std::max(local.size(), descriptor_.rails.size());
    if (local.empty() || descriptor_.rails.empty()) return;
    for (size_t i = 0; i < n; ++i) {
        const auto& from = local[i % local.size()];
        const RailAddress& to = descriptor_.rails[i % descriptor_.rails.size()];
        Link l;
        l.local = from.rail;
        l.remote = engine_.remote_rail(descriptor_.name, to.address.text());
        l.name = descriptor_.name + "/" + from.name + "-" + to.name;
        l.route.to = to.address;
        l.route.from = from.loopback ? "" : from.address.host;
        l.route.options = engine_.socket_options();
        links_.push_back(std::move(l));
    }
}

void Peer::dial(Link& l, Nanos now) {
    auto channel =
        std::make_unique<transport::tcp::TcpChannel>(engine_.poller(), l.route, l.local, &Peer::handshake,
                                                     this, *this, static_cast<transport::Sink&>(engine_));
    l.dial_backoff = std::clamp(l.dial_backoff * 2, kRedial, kRedialSlow);
    l.next_dial = now + l.dial_backoff;
    engine_.wake_at(l.next_dial);
    Status s = channel->dial();
    if (s.ok()) (l.id == kNoId ? l.channel : l.probe) = std::move(channel);
}

void Peer::dial_links(Nanos now) {
    if (!links_made_) make_links();
    for (Link& l : links_) {
        if (l.is_shm) continue;
        for (auto* ch : {&l.channel, &l.probe}) {
            if (!*ch || (*ch)->up() || now - (*ch)->dialled_at() <= engine_.settings().connect_timeout)
                continue;
            Status why{Code::link_failed, "no answer in time"};
            (*ch)->close(why);
            channel_down(ch->get(), why);  // it is not told by a close of our own, and is to be dialled again
        }
        if (l.id == kNoId && !l.channel && now >= l.next_dial) dial(l, now);
    }
}

bool Peer::exposes(SegmentId segment) const {
    return std::any_of(segments_.begin(), segments_.end(), [&](const auto& s) { return s.id == segment; });
}

std::optional<uint8_t> Peer::tier_for(const Transfer& t, Status& hopeless) {
    if (state_ == PeerState::dead) {
        hopeless = why_;
        return std::nullopt;
    }
    bool by_shm = shm_ != nullptr;
    for (size_t i = 0; i < t.segment_.size(); ++i) {
        auto it = std::find_if(segments_.begin(), segments_.end(),
                               [&](const auto& s) { return s.id == t.segment_[i]; });
        if (it == segments_.end()) continue;  // refused by the owner, by name
        by_shm = by_shm && shm_->reaches(*it, t.op_);
    }
    if (by_shm) return kMemoryTier;
    if (!engine_.settings().tcp) {
        hopeless = {Code::unsupported, "shared memory does not reach that segment and tcp.enabled is false"};
        return std::nullopt;
    }
    want_tcp_ = true;
    dial_links(monotonic_now());
    bool up =
        std::any_of(links_.begin(), links_.end(), [](const Link& l) { return !l.is_shm && l.id != kNoId; });
    return up ? std::optional(kNetworkTier) : std::nullopt;
}

Peer::Link* Peer::link_of(LinkId id) {
    for (Link& l : links_) {
        if (l.id == id) return &l;
    }
    return nullptr;
}

Channel* Peer::channel_of(LinkId id) {
    Link* l = link_of(id);
    if (l == nullptr) return nullptr;
    if (l->is_shm) return shm_.get();
    return l->channel.get();
}

bool Peer::owns(const Channel* channel) const {
    if (shm_.get() == channel) return true;
    return std::any_of(links_.begin(), links_.end(),
                       [&](const Link& l) { return l.channel.get() == channel || l.probe.get() == channel; });
}

void Peer::channel_up(Channel* channel) {
    for (Link& l : links_) {
        if (l.channel.get() == channel && l.id == kNoId) {
            sched::LinkSpec spec;
            spec.peer = index_;
            spec.local = l.local;
            spec.remote = l.remote;
            spec.tier = kNetworkTier;
            spec.name = l.name;
            l.id = engine_.add_link(spec, this);
            l.dial_backoff = 0;
            engine_.peer_changed(*this);
            return;
        }
        if (l.probe.get() == channel) {
            if (l.channel) retired_.push_back(std::move(l.channel));
            l.channel = std::move(l.probe);
            l.dial_backoff = 0;
            engine_.link_probe(l.id, true);
            return;
        }
    }
}

void Peer::channel_down(Channel* channel, const Status& why) {
    for (Link& l : links_) {
        if (l.channel.get() == channel) {
            log(LogLevel::info, "link " + l.name + " is down: " + why.message());
            retired_.push_back(std::move(l.channel));
            if (l.id != kNoId) engine_.link_down(l.id);
            return;
        }
        if (l.probe.get() == channel) {
            retired_.push_back(std::move(l.probe));
            engine_.link_probe(l.id, false);
            return;
        }
    }
}

void Peer::probe(LinkId id) {
    Link* l = link_of(id);
    if (l == nullptr || l->probe) return;
    if (l->is_shm) return engine_.link_probe(id, shm_ != nullptr && state_ == PeerState::alive);
    if (state_ != PeerState::alive) return engine_.link_probe(id, false);
    dial(*l, monotonic_now());
    if (!l->probe) engine_.link_probe(id, false);
}

// ---- attempts

Status Peer::post(AttemptId id, AttemptRecord record, std::span<const proto::Piece> remote,
                  std::span<const transport::LocalPiece> local, uint64_t bytes, Priority priority) {
    Channel* channel = channel_of(record.link);
    if (channel == nullptr) return {Code::link_failed, "the link is not connected"};
    transport::Attempt a;
    a.id = id;
    a.op = record.transfer->op_;
    a.priority = priority;
    a.remote = remote;
    a.local = local;
    a.bytes = bytes;
    record.channel = channel;
    attempts_[id] = std::move(record);
    Status s = channel->post(a);
    if (!s.ok()) attempts_.erase(id);
    return s;
}

void Peer::revoke(AttemptId id) {
    auto it = attempts_.find(id);
    if (it != attempts_.end()) it->second.channel->revoke(id);
}

void Peer::revoke_at_owner(Channel*, AttemptId attempt) {
    to_revoke_.push_back(attempt);
}
void Peer::forget_at_owner(AttemptId attempt) {
    to_forget_.push_back(attempt);
}

void Peer::send_revokes() {
    if (to_revoke_.empty() && to_forget_.empty()) return;
    if (!control_ || !control_->open()) return;  // asked again when there is one, or fenced by the lease
    AttemptId floor = attempts_.empty() ? 0 : attempts_.begin()->first;
    if (!to_forget_.empty()) {
        Bytes body;
        proto::encode_attempts(to_forget_, body);
        Header h;
        h.type = FrameType::revoke;
        h.aux = std::min(floor, to_forget_.front());
        control_->send(h, body);
        to_forget_.clear();
    }
    if (to_revoke_.empty()) return;
    Bytes body;
    proto::encode_attempts(to_revoke_, body);
    Header h;
    h.type = FrameType::revoke;
    h.attempt = next_request_++;
    h.aux = floor;
    control_->send(h, body);
    revoking_[h.attempt] = std::move(to_revoke_);
    to_revoke_.clear();
}

void Peer::on_revoked(uint64_t request) {
    auto it = revoking_.find(request);
    if (it == revoking_.end()) return;
    std::vector<AttemptId> list = std::move(it->second);
    revoking_.erase(it);
    for (AttemptId id : list) fenced(id);
}

// Its own answer may have ended the attempt before the revoke's came, and its channel with it: so the channel
// is looked up, not remembered.
void Peer::fenced(AttemptId id) {
    auto it = attempts_.find(id);
    if (it != attempts_.end()) it->second.channel->fenced(id);
}

void Peer::fence(bool pulls_too) {
    std::vector<AttemptId> all = std::move(to_revoke_);
    to_revoke_.clear();
    for (auto& [id, list] : revoking_) all.insert(all.end(), list.begin(), list.end());
    revoking_.clear();
    for (AttemptId id : all) {
        auto it = attempts_.find(id);
        bool pull = it != attempts_.end() && it->second.channel == shm_.get();
        if (pull && !pulls_too) {
            to_revoke_.push_back(id);
        } else {
            fenced(id);
        }
    }
}

void Peer::call(uint16_t method, ByteView request, std::shared_ptr<Call> c) {
    if (state_ != PeerState::alive || !control_)
        return c->finish(why_.ok() ? Status(Code::peer_unreachable, "not connected") : why_, {});
    Header h;
    h.type = FrameType::call;
    h.attempt = next_request_++;
    h.aux = method;
    calls_[h.attempt] = std::move(c);
    control_->send(h, request);
    control_->flush();
}

void Peer::notify(Bytes payload) {
    Header h;
    h.type = FrameType::notify;
    h.attempt = next_request_++;
    send_control(h, payload, {});
    notifications_[h.attempt] = std::move(payload);
}

bool Peer::touches(const uint8_t* address, uint64_t length) const {
    for (const Link& l : links_) {
        if ((l.channel && l.channel->touches(address, length)) ||
            (l.probe && l.probe->touches(address, length)))
            return true;
    }
    for (const auto& c : retired_) {
        if (c->touches(address, length)) return true;
    }
    return shm_ && shm_->touches(address, length);
}

}  // namespace tent::engine
