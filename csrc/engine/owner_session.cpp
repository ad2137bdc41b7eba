#include "engine/owner_session.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "base/switches.h"
#include "engine/engine.h"

namespace tent::engine {

using proto::FrameType;
using proto::Header;
using transport::FrameStream;
using transport::LocalPiece;

OwnerSession::OwnerSession(Engine& engine, uint64_t id, const proto::HandshakeResult& peer)
    : engine_(engine),
      id_(id),
      peer_(peer.peer),
      writer_{peer.peer.incarnation, peer.session},
      lease_(engine.settings().lease, boottime_now()) {}

OwnerSession::~OwnerSession() {
    for (const Connection& c : connections_) engine_.responders().detach(c.id);
}

void OwnerSession::attach(std::unique_ptr<FrameStream> stream) {
    proto::Purpose purpose = stream->peer().purpose;
    if (purpose == proto::Purpose::control) {
        if (Connection* old = control())
            old->stream->close({Code::closed, "replaced by a newer control connection"});
        if (pid_ == 0) {
            ucred cred{};
            socklen_t size = sizeof cred;
            bool known = getsockopt(stream->fd(), SOL_SOCKET, SO_PEERCRED, &cred, &size) == 0 && cred.pid > 0;
            if (known && cred.uid == getuid()) {
                pid_ = cred.pid;
                pidfd_ = UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, pid_, 0)));
            }
        }
    }
    stream->set_handler(this);
    stream->name = peer_.name + " (" + transport::describe(stream->fd()) + ")";
    Connection c;
    c.purpose = purpose;
    c.stream = std::move(stream);
    c.id = engine_.responders().attach(*this, *c.stream, engine_.rail_of(*c.stream));
    connections_.push_back(std::move(c));
    if (purpose == proto::Purpose::control) issue_token(boottime_now());
}

OwnerSession::Connection* OwnerSession::of(FrameStream& stream) {
    for (Connection& c : connections_) {
        if (c.stream.get() == &stream) return &c;
    }
    return nullptr;
}

OwnerSession::Connection* OwnerSession::by_id(uint64_t id) {
    for (Connection& c : connections_) {
        if (c.id == id) return &c;
    }
    return nullptr;
}

OwnerSession::Connection* OwnerSession::control() {
    for (Connection& c : connections_) {
        if (c.purpose == proto::Purpose::control && !c.stream->closed()) return &c;
    }
    return nullptr;
}

void OwnerSession::answer(FrameStream& stream, FrameType type, AttemptId attempt, const Status& status,
                          uint32_t piece) {
    Header h;
    h.type = type;
    h.attempt = attempt;
    h.code = static_cast<uint16_t>(status.code());
    h.aux = piece == kNoId ? UINT64_MAX : piece;
    stream.send(h, as_bytes(std::string_view(status.message()).substr(0, proto::kMaxMessage)));
}

void OwnerSession::issue_token(Nanos lease_now) {
    Connection* c = control();
    if (c == nullptr) return;
    Header h;
    h.type = FrameType::token;
    h.aux = lease_.issue(lease_now);
    h.attempt = static_cast<uint64_t>(engine_.loop_lag());
    c->stream->send(h);
    c->stream->flush();
}

void OwnerSession::tick(Nanos now, Nanos lease_now) {
    dead_.clear();
    if (closed_) return;
    if (!lease_.valid(lease_now)) {
        close("the session's lease ran out");
        return;
    }
    if (now >= next_token_) {
        issue_token(lease_now);
        // An idle session, too, must be renewed well before its lease runs out.
        Nanos idle = std::min(engine_.settings().idle_heartbeat, engine_.settings().lease / 4);
        next_token_ = now + (busy(now) ? std::min(engine_.settings().heartbeat, idle) : idle);
    } else if (busy(now) && next_token_ - now > engine_.settings().heartbeat) {
        next_token_ = now + engine_.settings().heartbeat;
    }
}

// Tokens come often while there is work, and the loop may have meant to sleep.
void OwnerSession::note_work() {
    Nanos now = monotonic_now();
    if (!busy(now)) engine_.wake_at(now);
    engine_.note_work(now);
    last_work_ = now;
}

void OwnerSession::flush() {
    if (rdma_) rdma_->flush();
    for (size_t i = 0; i < connections_.size(); ++i) {
        FrameStream* s = connections_[i].stream.get();
        if (s != nullptr && s->dirty()) s->flush();
    }
}

bool OwnerSession::idle() {
    if (closed_ || pid_ != 0 || !reads_.empty() || !pulls_.empty() || control() == nullptr) return false;
    if (!open_offers_.empty() || (rdma_ && rdma_->lanes() > 0)) return false;
    bool quiet = std::all_of(connections_.begin(), connections_.end(), [](const Connection& c) {
        return c.landing == 0 && c.stream->payload_left() == 0 && !c.stream->sending();
    });
    const Lender* lender = engine_.lender();
    return quiet && (lender == nullptr || !lender->lends_to(writer_));
}

void OwnerSession::park() {
    parked_ = true;
    close("closed for want of room, idle as it was: come again");
}

void OwnerSession::close(const std::string& why) {
    if (closed_) return;
    closed_ = true;
    if (Connection* c = control()) {
        Header h;
        h.type = FrameType::bye;
        h.code = static_cast<uint16_t>(parked_ ? Code::busy : Code::ok);
        h.aux = pulls_.size();
        c->stream->send(h, as_bytes(why));
        c->stream->flush();
    }
    std::vector<FrameStream*> open;
    for (Connection& c : connections_) open.push_back(c.stream.get());
    for (FrameStream* s : open) s->close({Code::closed, why});
    for (auto& [id, p] : pulls_) p.job->cancelled.store(true);
    if (rdma_) rdma_->close();
    reads_.clear();
    if (Lender* lender = engine_.lender()) lender->writer_lost(writer_);
    if (!std::exchange(open_offers_, {}).empty()) engine_.offers().session_lost(*this);
}

bool OwnerSession::over() const {
    return closed_ && pulls_.empty() && connections_.empty() && writer_gone();
}

// ---- frames

void OwnerSession::on_frame(FrameStream& stream, const Header& h, ByteView body) {
    if (h.type != FrameType::echo) note_work();
    if (closed_) return;  // its connections close, too
    if (stream.unsent_answers() > kMaxUnsent) {
        stream.close({Code::busy, stream.name + ": the peer asks, and does not take the answers"});
        return;
    }
    bool is_control = of(stream) != nullptr && of(stream)->purpose == proto::Purpose::control;
    // A revoke comes by whatever link is alive.
    bool revokes = h.type == FrameType::revoke || h.type == FrameType::qp_close;
    if (!is_control && h.type != FrameType::read && !revokes) {
        stream.close({Code::protocol, stream.name + ": a control frame on a data connection"});
        return;
    }
    switch (h.type) {
        case FrameType::read:
            return on_read(stream, h, body);
        case FrameType::revoke:
            return on_revoke(stream, h, body);
        case FrameType::qp_open:
            return on_qp_open(stream, h, body);
        case FrameType::qp_close:
            return on_qp_close(stream, h, body);
        case FrameType::ask_keys:
            return on_ask_keys(stream, h, body);
        case FrameType::map:
            return on_map(stream, h);
        case FrameType::pull:
            return on_pull(stream, h, body);
        case FrameType::call:
            return on_call(stream, h, body);
        case FrameType::notify:
            return on_notify(stream, h, body);
        case FrameType::echo:
            lease_.echoed(h.aux, boottime_now());
            return;
        case FrameType::segments: {
            Bytes table;
            std::vector<proto::SegmentInfo> exposed = engine_.registry().exposed();
            for (SegmentId id : open_offers_) exposed.push_back(engine_.registry().find(id)->info());
            proto::encode_segments(exposed, table);
            Header reply;
            reply.type = FrameType::segment_table;
            reply.attempt = h.attempt;
            stream.send(reply, table);
            return;
        }
        case FrameType::bye:
            peer_quiet_ = h.aux == 0;
            close("the peer closed the session");
            return;
        default:
            stream.close({Code::protocol, stream.name + ": an unexpected frame on a control connection"});
    }
}

void OwnerSession::on_revoke(FrameStream& stream, const Header& h, ByteView body) {
    std::vector<AttemptId> attempts;
    if (!proto::decode_attempts(body, attempts)) {
        stream.close({Code::protocol, stream.name + ": a malformed revoke"});
        return;
    }
    attempts_.raise_floor(h.aux);
    WaitingRevoke w{h.attempt, {}};
    for (AttemptId a : attempts) {
        attempts_.revoke(a);
        drop_read(a);
        auto pull = pulls_.find(a);
        if (pull != pulls_.end()) {
            pull->second.job->cancelled.store(true);
            w.jobs.insert(a);
        }
    }
    if (attempts_.overflowed()) {
        close("too many revoked attempts");
        return;
    }
    if (h.attempt == 0) return;  // no answer wanted
    if (!w.jobs.empty()) {
        waiting_revokes_.push_back(std::move(w));
        return;
    }
    // Receives happen under the loop token only: none is under way now, and none will start.
    Header reply;
    reply.type = FrameType::revoked;
    reply.attempt = h.attempt;
    stream.send(reply);
}

Result<Bytes> OwnerSession::carry_out(uint64_t method, ByteView request) {
    if (method >= static_cast<uint64_t>(proto::HandoffMethod::open))
        return engine_.offers().call(*this, method, request);
    // Numbers from here on are the engine's own.
    constexpr auto kEngines = static_cast<uint64_t>(proto::ObserveMethod::stats);
    if (method >= kEngines) return engine_.observers().answer(id_, method, request, monotonic_now());
    Lender* lender = engine_.lender();
    if (lender == nullptr) return Status(Code::unsupported, "this node has no page store");
    return lender->call(writer_, static_cast<uint16_t>(std::min<uint64_t>(method, UINT16_MAX)), request);
}

void OwnerSession::on_call(FrameStream& stream, const Header& h, ByteView body) {
    static const Result<Bytes> kForgotten =
        Status(Code::busy, "asked again too late: the answer is not kept any more");
    const Result<Bytes>* result = nullptr;
    if (answers_.carried_out(h.attempt)) {
        result = answers_.find(h.attempt);
        if (result == nullptr) result = &kForgotten;
    } else {
        result = &answers_.remember(h.attempt, carry_out(h.aux, body));
    }
    Header reply;
    reply.type = FrameType::reply;
    reply.attempt = h.attempt;
    if (result->ok()) {
        stream.send(reply, result->value());
    } else {
        reply.code = static_cast<uint16_t>(result->status().code());
        stream.send(reply,
                    as_bytes(std::string_view(result->status().message()).substr(0, proto::kMaxMessage)));
    }
}

void OwnerSession::on_notify(FrameStream& stream, const Header& h, ByteView body) {
    // Numbers rise, and a control connection keeps their order: what is not above the last one was delivered
    // already.
    if (h.attempt > last_notification_) {
        if (!engine_.deliver_notification(peer_.name, body))
            return;  // no room: not confirmed, so it is sent again
        last_notification_ = h.attempt;
    }
    Header reply;
    reply.type = FrameType::notify_ack;
    reply.attempt = h.attempt;
    stream.send(reply);
}

// ---- landing

void OwnerSession::on_payload(FrameStream& stream, const Header& h, ByteView body,
                              std::vector<LocalPiece>& landing) {
    note_work();
    Connection* c = of(stream);
    std::vector<proto::Piece> pieces;
    uint64_t total = 0;
    if (c == nullptr || h.type != FrameType::write || !proto::decode_pieces(body, pieces, total) ||
        total != h.payload) {
        stream.close({Code::protocol, stream.name + ": a malformed write"});
        return;
    }
    c->landing = h.attempt;
    c->landing_revoked = false;
    c->loaned.clear();
    if (Lender* lender = engine_.lender()) {
        c->loans_ended = lender->loans_ended();
        for (const proto::Piece& p : pieces) {
            auto segment = engine_.registry().find(p.segment);
            if (segment && segment->lender) c->loaned.push_back(p);
        }
    }
    uint32_t bad = kNoId;
    Status s = engine_.registry().resolve(writer_, Op::write, pieces, landing, bad);
    if (s.ok() && !attempts_.admits(h.attempt)) {
        landing.clear();  // given up before it came: drained, no answer
        return;
    }
    if (!s.ok()) {
        landing.clear();
        return answer(stream, FrameType::write_ack, h.attempt, s, bad);
    }
    engine_.responders().wrote(c->id, total, monotonic_now());
}

void OwnerSession::give_credit(uint32_t rail, uint64_t window) {
    Connection* c = control();
    if (c == nullptr || (c->stream->peer().capabilities & proto::kCredits) == 0) return;
    Header h;
    h.type = FrameType::credit;
    h.attempt = rail;
    h.aux = window;
    c->stream->send(h);
    c->stream->flush();
}

bool OwnerSession::may_land(FrameStream& stream) {
    Connection* c = of(stream);
    if (c == nullptr || closed_) return false;
    if (c->landing_revoked) return false;
    return attempts_.admits(c->landing) && lease_.valid(boottime_now()) && still_lent(*c);
}

// A peer may give a loan back with a write of its own still on the way: the rest of it is drained.
bool OwnerSession::still_lent(Connection& c) const {
    if (c.loaned.empty()) return true;
    Lender* lender = engine_.lender();
    if (lender == nullptr) return false;
    uint64_t ended = lender->loans_ended();
    if (ended == c.loans_ended) return true;
    c.loans_ended = ended;
    return std::all_of(c.loaned.begin(), c.loaned.end(), [&](const proto::Piece& p) {
        auto segment = engine_.registry().find(p.segment);
        return segment && segment->lends(writer_, p.offset, p.length);
    });
}

void OwnerSession::on_payload_end(FrameStream& stream, bool landed) {
    Connection* c = of(stream);
    if (c == nullptr) return;
    if (landed) {
        answer(stream, FrameType::write_ack, c->landing, Status::good());
        stream.flush();
    } else if (c->landing_revoked) {
        answer(stream, FrameType::write_ack, c->landing,
               {Code::segment_gone, "the segment was unregistered, or the offer has ended"});
    }
    c->landing = 0;
    c->landing_revoked = false;
}

void OwnerSession::on_drained(FrameStream&) {
    engine_.responders().serve();
}

void OwnerSession::on_closed(FrameStream& stream, const Status&) {
    for (size_t i = 0; i < connections_.size(); ++i) {
        Connection& c = connections_[i];
        if (c.stream.get() != &stream) continue;
        engine_.responders().detach(c.id);
        std::erase_if(reads_, [&](const auto& r) { return r.second.connection == c.id; });
        dead_.push_back(std::move(c.stream));
        connections_.erase(connections_.begin() + static_cast<std::ptrdiff_t>(i));
        return;
    }
}

}  // namespace tent::engine
