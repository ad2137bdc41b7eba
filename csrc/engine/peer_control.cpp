// A session's control connection: dialling it, what is said over it, questions and notifications.
#include <algorithm>

#include "base/log.h"
#include "engine/engine.h"
#include "engine/peer.h"
#include "proto/store_messages.h"

namespace tent::engine {

using proto::FrameType;
using proto::Header;
using transport::FrameStream;

namespace {

constexpr Nanos kRedial = 50 * kMillisecond;
constexpr size_t kMostLoans = 65536;  // that an owner may make us remember

}  // namespace

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

void Peer::dial_control(Nanos now) {
    next_control_dial_ = now + kRedial;
    by_unix_ = same_host() && !unix_failed_;
    size_t ways = by_unix_ ? 1 : descriptor_.rails.size();
    if (ways == 0)
        return die({Code::peer_unreachable, "node '" + descriptor_.name + "' listens nowhere that we reach"});
    Result<transport::Dialled> d{Code::peer_unreachable, ""};
    engine_.make_room(
        now);  // without a control connection there is no progress: made whether there is or not
    if (by_unix_) {
        d = transport::dial_unix(descriptor_.unix_name);
    } else {
        control_to_ = descriptor_.rails[control_route_++ % ways].address;
        d = transport::dial_tcp(control_to_, {}, {});
        if (!d.ok() && d.status().code() == Code::no_memory && engine_.close_idlest(0))
            d = transport::dial_tcp(control_to_, {}, {});
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
    control_ = control_stream(std::move(*d), by_unix_ ? "unix socket" : control_to_.text());
    control_->flush();
}

std::unique_ptr<FrameStream> Peer::control_stream(transport::Dialled dialled, const std::string& where) {
    auto stream = std::make_unique<FrameStream>(
        engine_.poller(), std::move(dialled.fd), dialled.connecting, proto::Handshake::Role::initiator,
        handshake(this, proto::Purpose::control, 0), this, transport::StreamLimits{});
    stream->name = descriptor_.name + " (" + where + ")";
    return stream;
}

// Where the link that shares the control connection's rail is in doubt, another connection is made over one
// that is up, or over one that is in doubt, too, on another rail, where none is up: revokes, calls and lease
// tokens must not wait for the lost rail's time-outs. It takes over once it is open.
void Peer::keep_control_alive(Nanos now) {
    if (by_unix_ || state_ != PeerState::alive) return;
    const Link *healthy = nullptr, *hopeful = nullptr;
    bool doubtful = false, spare_lost = false;
    for (const Link& l : links_) {
        if (l.is_shm || l.is_rdma || l.id == kNoId) continue;
        sched::LinkState state = engine_.state_of(l.id);
        bool up = state == sched::LinkState::up, down = state == sched::LinkState::down;
        if (up && healthy == nullptr) healthy = &l;
        if (!down && hopeful == nullptr && !(l.route.to == control_to_)) hopeful = &l;
        doubtful = doubtful || (!up && l.route.to == control_to_);
        spare_lost = spare_lost || (down && l.route.to == spare_to_);
    }
    if (spare_ && (spare_lost || now - spare_->born() > engine_.settings().connect_timeout))
        spare_->close({Code::link_failed, spare_->name + ": its rail is lost, too"});
    const Link* over = healthy != nullptr ? healthy : hopeful;
    if (!control_ || !doubtful || over == nullptr || spare_) return;
    auto d = transport::dial_tcp(over->route.to, over->route.from, {});
    if (!d.ok()) return;
    spare_to_ = over->route.to;
    spare_ = control_stream(std::move(*d), spare_to_.text());
    spare_->flush();
}

// The spare control connection is open: it is the control connection from now on.
void Peer::promote_spare() {
    auto old = std::move(control_);
    control_ = std::move(spare_);
    control_to_ = spare_to_;
    if (!old) return;
    old->close({Code::link_failed, old->name + ": its rail is in doubt"});
    dead_streams_.push_back(std::move(old));
}

void Peer::on_open(FrameStream& stream) {
    if (&stream == spare_.get()) promote_spare();
    refused_in_a_row_ = 0;
    lease_ = proto::WriterLease(engine_.settings().lease, boottime_now());
    if (!was_alive_ && by_unix_ && !pidfd_owner_) make_shm(stream);
    state_ = PeerState::alive;
    meet_verbs();
    if (!was_alive_) {
        was_alive_ = true;
        open_shm();
    }
    // What was under way on the old control connection is asked again: revokes are idempotent, notifications
    // and calls numbered.
    repeat_revokes();
    for (const auto& [id, bytes] : notifications_) {
        Header h;
        h.type = FrameType::notify;
        h.attempt = id;
        control_->send(h, bytes);
    }
    for (auto it = calls_.begin(); it != calls_.end();) {
        if (it->second.call.use_count() == 1) {  // nobody waits for it any more
            it = calls_.erase(it);
        } else {
            send_call(it->first, it->second);
            ++it;
        }
    }
    request_segments();
    control_->flush();
}

void Peer::request_segments() {
    wake();
    segment_request_ = next_request_++;
    Header h;
    h.type = FrameType::segments;
    h.attempt = segment_request_;
    send_control(h, {}, {});
}

void Peer::send_control(const Header& h, ByteView body, std::vector<int> descriptors) {
    if (control_ && control_->open()) control_->send(h, body, {}, descriptors);
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
        case FrameType::credit:
            for (const Link& l : links_) {
                if (!l.is_shm && l.local == h.attempt && l.id != kNoId)
                    engine_.link_window(l.id, h.aux, proto::WriterCredits::kLife);
            }
            return;
        case FrameType::revoked:
            return revoked(h.attempt);
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
            if (rdma_) rdma_->segment_gone(gone);
            return;
        }
        case FrameType::qp_opened:
        case FrameType::keys: {
            bool sound =
                rdma_ && (h.type == FrameType::keys ? rdma_->on_keys(h, body) : rdma_->on_opened(h, body));
            if (!sound) stream.close({Code::protocol, stream.name + ": a malformed answer about RDMA"});
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
            if (code == Code::ok) note_loans(it->second, body);
            if (code != Code::ok)
                text.assign(reinterpret_cast<const char*>(body.data()),
                            std::min(body.size(), proto::kMaxMessage));
            it->second.call->finish({code, text}, code == Code::ok ? body : ByteView{});
            calls_.erase(it);
            engine_.wake_followers();
            return;
        }
        case FrameType::notify_ack:
            notifications_.erase(h.attempt);
            return;
        case FrameType::bye:
            if (code_from_wire(h.code) == Code::busy && h.aux == 0 && was_alive_ && !by_unix_ &&
                &stream == control_.get())
                return end_session({Code::closed, "its owner closed it for want of room, idle as it was"});
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
    if (&stream == spare_.get()) return dead_streams_.push_back(std::move(spare_));
    if (&stream != control_.get()) return;
    dead_streams_.push_back(std::move(control_));
    if (state_ == PeerState::dead) return;
    if (spare_) {  // under way already
        control_ = std::move(spare_);
        control_to_ = spare_to_;
        return;
    }
    Code c = why.code();
    bool final = c == Code::auth_failed || c == Code::cluster_mismatch || c == Code::version_mismatch ||
                 c == Code::stale_incarnation || c == Code::name_in_use;
    if (final) return die({c, "node '" + descriptor_.name + "': " + why.message()});
    if (owner_exited())
        return die({Code::peer_dead, "the process of node '" + descriptor_.name + "' is gone"});
    why_ = {Code::peer_unreachable, "node '" + descriptor_.name + "': " + why.message()};
    // Refused or reset on every rail, twice: nobody listens there any more.
    size_t ways = by_unix_ ? 1 : std::max<size_t>(1, descriptor_.rails.size());
    if (++refused_in_a_row_ > 2 * ways) return die(why_);
    next_control_dial_ = monotonic_now() + (refused_in_a_row_ > 1 ? kRedial : 0);
    engine_.wake_at(next_control_dial_);
}

void Peer::call(uint16_t method, ByteView request, std::shared_ptr<Call> c) {
    if (!reachable())
        return c->finish(why_.ok() ? Status(Code::peer_unreachable, "not connected") : why_, {});
    wake();
    if (dead()) return c->finish(why_, {});
    uint64_t request_id = next_request_++;
    OpenCall& open = calls_[request_id];
    open = {std::move(c), method, Bytes(request.begin(), request.end())};
    if (!control_ || !control_->open()) return;  // it is sent by the next one
    send_call(request_id, open);
    control_->flush();
}

// A session that holds loans is not closed for want of room: they would end with it.
void Peer::note_loans(const OpenCall& call, ByteView reply) {
    proto::Lent lent;
    proto::GiveBack back;
    if (call.method == static_cast<uint16_t>(proto::Method::lend)) {
        bool good = proto::decode(reply, lent) == Code::ok && lent.code == 0 && loans_.size() < kMostLoans;
        if (good) loans_.insert(lent.loan);
    } else if (call.method == static_cast<uint16_t>(proto::Method::give_back)) {
        if (proto::decode(call.request, back) == Code::ok) loans_.erase(back.loan);
    }
}

void Peer::send_call(uint64_t request, const OpenCall& call) {
    Header h;
    h.type = FrameType::call;
    h.attempt = request;
    h.aux = call.method;
    control_->send(h, call.request);
}

void Peer::notify(Bytes payload) {
    Header h;
    h.type = FrameType::notify;
    h.attempt = next_request_++;
    send_control(h, payload, {});
    notifications_[h.attempt] = std::move(payload);
}

}  // namespace tent::engine
