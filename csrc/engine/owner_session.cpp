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
      lease_(engine.settings().lease, boottime_now()),
      responder_(std::max<uint64_t>(engine.settings().slice_min, 1 << 20)) {}

OwnerSession::~OwnerSession() = default;

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
    c.id = next_connection_++;
    c.purpose = purpose;
    c.stream = std::move(stream);
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
    bool busy = now - last_work_ < kSecond;
    if (now >= next_token_) {
        issue_token(lease_now);
        // An idle session, too, must be renewed well before its lease runs out.
        Nanos idle = std::min(engine_.settings().idle_heartbeat, engine_.settings().lease / 4);
        next_token_ = now + (busy ? std::min(engine_.settings().heartbeat, idle) : idle);
    } else if (busy && next_token_ - now > engine_.settings().heartbeat) {
        next_token_ = now + engine_.settings().heartbeat;
    }
}

void OwnerSession::flush() {
    for (size_t i = 0; i < connections_.size(); ++i) {
        FrameStream* s = connections_[i].stream.get();
        if (s != nullptr && s->dirty()) s->flush();
    }
}

void OwnerSession::close(const std::string& why) {
    if (closed_) return;
    closed_ = true;
    if (Connection* c = control()) {
        Header h;
        h.type = FrameType::bye;
        h.aux = pulls_.size();
        c->stream->send(h, as_bytes(why));
        c->stream->flush();
    }
    std::vector<FrameStream*> open;
    for (Connection& c : connections_) open.push_back(c.stream.get());
    for (FrameStream* s : open) s->close({Code::closed, why});
    for (auto& [id, p] : pulls_) p.job->cancelled.store(true);
    responder_.drop_session(id_);
    reads_.clear();
    if (Lender* lender = engine_.lender()) lender->writer_lost(writer_);
}

bool OwnerSession::over() const {
    return closed_ && pulls_.empty() && connections_.empty() && writer_gone();
}

// Of a closed session. A process that holds a writable mapping of ours may be inside a copy whatever became
// of its connections: a stopped one wakes, a forked child holds sockets open. Only its end, or its word, is a
// proof.
bool OwnerSession::writer_gone() const {
    if (!wrote_here_ || peer_quiet_ || !protection_on(Protection::quarantine)) return true;
    return exited();
}

bool OwnerSession::exited() const {
    if (!pidfd_) return false;
    pollfd p{pidfd_.get(), POLLIN, 0};
    return poll(&p, 1, 0) > 0;
}

// ---- frames
// -----------------------------------------------------------------------------------------------------

void OwnerSession::on_frame(FrameStream& stream, const Header& h, ByteView body) {
    last_work_ = monotonic_now();
    bool is_control = of(stream) != nullptr && of(stream)->purpose == proto::Purpose::control;
    if (!is_control && h.type != FrameType::read) {
        stream.close({Code::protocol, stream.name + ": a control frame on a data connection"});
        return;
    }
    switch (h.type) {
        case FrameType::read:
            return on_read(stream, h, body);
        case FrameType::revoke:
            return on_revoke(stream, h, body);
        case FrameType::map:
            return on_map(stream, h);
        case FrameType::pull:
            return on_pull(stream, h, body);
        case FrameType::call:
            return on_call(stream, h, body);
        case FrameType::notify:
            return on_notify(stream, h, body);
        case FrameType::echo:
            last_work_ -= kSecond;  // an echo is no work
            lease_.echoed(h.aux, boottime_now());
            return;
        case FrameType::segments: {
            Bytes table;
            proto::encode_segments(engine_.registry().exposed(), table);
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

void OwnerSession::on_read(FrameStream& stream, const Header& h, ByteView body) {
    std::vector<proto::Piece> pieces;
    uint64_t total = 0;
    if (!proto::decode_pieces(body, pieces, total)) {
        stream.close({Code::protocol, stream.name + ": a malformed read"});
        return;
    }
    Read r;
    uint32_t bad = kNoId;
    Status s =
        reads_.contains(h.attempt) ? Status(Code::protocol, "attempt number used twice") : Status::good();
    if (s.ok()) s = engine_.registry().resolve(writer_, Op::read, pieces, r.pieces, bad);
    if (!s.ok()) {
        answer(stream, FrameType::read_fail, h.attempt, s, bad);
        return;
    }
    for (const proto::Piece& p : pieces) {
        if (r.segments.empty() || r.segments.back() != p.segment) r.segments.push_back(p.segment);
    }
    r.bytes = total;
    r.connection = of(stream)->id;
    proto::ReadRequest q;
    q.session = id_;
    q.connection = r.connection;
    q.attempt = h.attempt;
    q.priority = static_cast<Priority>(std::min<uint8_t>(h.flags, kPriorities - 1));
    q.bytes = total;
    if (!responder_.add(q)) {
        answer(stream, FrameType::read_fail, h.attempt, {Code::busy, "too many reads are waiting"});
        return;
    }
    reads_[h.attempt] = std::move(r);
}

void OwnerSession::serve() {
    proto::ReadGrant g;
    auto ready = [](void* self, uint64_t connection) {
        Connection* c = static_cast<OwnerSession*>(self)->by_id(connection);
        return c != nullptr && !c->stream->closed() && c->stream->has_room();
    };
    while (responder_.next(g, ready, this)) {
        auto it = reads_.find(g.request.attempt);
        Connection* c = by_id(g.request.connection);
        if (it == reads_.end() || c == nullptr) continue;
        std::vector<LocalPiece> part;
        uint64_t skip = g.offset, left = g.length;
        for (const LocalPiece& p : it->second.pieces) {
            if (skip >= p.length) {
                skip -= p.length;
                continue;
            }
            uint64_t n = std::min(left, p.length - skip);
            if (n == 0) break;
            part.push_back({p.address + skip, n});
            left -= n;
            skip = 0;
        }
        Header h;
        h.type = FrameType::data;
        h.attempt = g.request.attempt;
        h.aux = g.offset;
        c->stream->send(h, {}, part);
        if (g.last) reads_.erase(it);
        c->stream->flush();
    }
}

void OwnerSession::drop_read(AttemptId attempt) {
    auto it = reads_.find(attempt);
    if (it == reads_.end()) return;
    responder_.cancel(id_, attempt);
    if (Connection* c = by_id(it->second.connection)) c->stream->abandon(attempt);
    reads_.erase(it);
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

void OwnerSession::on_map(FrameStream& stream, const Header& h) {
    if (h.aux == UINT64_MAX) {
        auto m =
            transport::shm::map_foreign(stream.take_descriptor(), sizeof(transport::shm::HazardPage), false);
        if (!m.ok()) {
            stream.close(m.status());
            return;
        }
        hazards_ = std::move(*m);
        return;
    }
    auto segment = engine_.registry().find(static_cast<SegmentId>(h.aux >> 32));
    uint64_t extent = h.aux & 0xffffffff;
    bool write = h.flags != static_cast<uint8_t>(Rights::read);
    Header reply;
    reply.type = FrameType::mapped;
    reply.attempt = h.attempt;
    std::string message;
    std::vector<int> fds;
    Code code = Code::ok;
    bool region = segment && segment->kind == proto::SegmentKind::region;
    if (!hazards_ || !segment || segment->revoked || segment->exposed == Rights::none) {
        code = Code::segment_gone;
        message = "the segment is not exposed";
    } else if (!allows(segment->exposed, write ? Op::write : Op::read)) {
        code = Code::permission_denied;
        message = "segment '" + segment->name + "' is not exposed for that";
    } else if (!region && extent >= segment->memory.extents.size()) {
        code = Code::out_of_range;
        message = "segment '" + segment->name + "' has no such extent";
    } else if (write && !pidfd_) {
        code = Code::unsupported;
        message = "your process cannot be watched from here: memory is not given out for writing";
    } else if (uint64_t start = extent * segment->extent_bytes();
               write &&
               !segment->lends(writer_, start, std::min(segment->extent_bytes(), segment->length - start))) {
        code = Code::permission_denied;
        message = "segment '" + segment->name + "': extent " + std::to_string(extent) + " is not lent to you";
    }
    UniqueFd ro;
    if (code == Code::ok) {
        fds.push_back(segment->face_fd.get());
        if (!region) {
            const UniqueFd& fd = segment->memory.extents[extent];
            if (!write) {
                auto reopened = transport::shm::read_only(fd);
                if (!reopened.ok()) {
                    code = Code::internal;
                    message = reopened.status().message();
                    fds.clear();
                } else {
                    ro = std::move(*reopened);
                }
            }
            if (code == Code::ok) fds.push_back(write ? fd.get() : ro.get());
            wrote_here_ |= code == Code::ok && write;
        }
    }
    reply.code = static_cast<uint16_t>(code);
    reply.aux = fds.size();
    stream.send(reply, as_bytes(message), {}, fds);
    stream.flush();  // the descriptors are ours to close after this
}

void OwnerSession::on_pull(FrameStream& stream, const Header& h, ByteView body) {
    std::vector<proto::Piece> pieces;
    std::vector<uint64_t> sources;
    uint64_t total = 0;
    if (!proto::decode_pull(body, pieces, sources, total)) {
        stream.close({Code::protocol, stream.name + ": a malformed pull"});
        return;
    }
    std::vector<LocalPiece> to;
    uint32_t bad = kNoId;
    Status s = engine_.registry().resolve(writer_, Op::write, pieces, to, bad);
    if (s.ok() && (pid_ == 0 || !engine_.settings().pull))
        s = {Code::unsupported, "the owner cannot read your memory"};
    // Nothing asks a copy under way whether the loan still holds.
    for (const proto::Piece& p : pieces) {
        if (s.ok() && engine_.registry().find(p.segment)->lender)
            s = {Code::unsupported, "what is lent is written by its writer, not pulled"};
    }
    if (s.ok() && (!lease_.valid(boottime_now()) || !attempts_.admits(h.attempt))) {
        s = {Code::cancelled, "the attempt was given up"};
    }
    if (!s.ok()) {
        answer(stream, FrameType::write_ack, h.attempt, s, bad);
        return;
    }
    auto job = std::make_shared<transport::shm::CopyJob>();
    job->attempt = h.attempt;
    job->owner = this;
    job->pid = pid_;
    job->pidfd = pidfd_.get();
    for (uint32_t i = 0; i < pieces.size(); ++i) {
        transport::shm::CopyPart part;
        part.to = to[i].address;
        part.from = reinterpret_cast<const uint8_t*>(sources[i]);
        part.length = pieces[i].length;
        part.piece = i;
        part.segment = pieces[i].segment;
        job->parts.push_back(part);
    }
    pulls_[h.attempt] = {job};
    engine_.copier().submit(std::move(job), false);
}

void OwnerSession::on_job(transport::shm::CopyJob& job) {
    AttemptId attempt = job.attempt;
    pulls_.erase(attempt);
    for (size_t i = 0; i < waiting_revokes_.size();) {
        WaitingRevoke& w = waiting_revokes_[i];
        w.jobs.erase(attempt);
        if (!w.jobs.empty()) {
            ++i;
            continue;
        }
        if (Connection* c = control()) {
            Header reply;
            reply.type = FrameType::revoked;
            reply.attempt = w.request;
            c->stream->send(reply);
        }
        waiting_revokes_.erase(waiting_revokes_.begin() + static_cast<std::ptrdiff_t>(i));
    }
    if (Connection* c = control())
        answer(*c->stream, FrameType::write_ack, attempt, job.status, job.bad_piece);
}

void OwnerSession::on_call(FrameStream& stream, const Header& h, ByteView body) {
    Lender* lender = engine_.lender();
    Result<Bytes> result =
        lender != nullptr
            ? lender->call(writer_, static_cast<uint16_t>(std::min<uint64_t>(h.aux, UINT16_MAX)), body)
            : Result<Bytes>(Status(Code::unsupported, "this node has no page store"));
    Header reply;
    reply.type = FrameType::reply;
    reply.attempt = h.attempt;
    if (result.ok()) {
        stream.send(reply, *result);
    } else {
        reply.code = static_cast<uint16_t>(result.status().code());
        stream.send(reply,
                    as_bytes(std::string_view(result.status().message()).substr(0, proto::kMaxMessage)));
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
// ----------------------------------------------------------------------------------------------------

void OwnerSession::on_payload(FrameStream& stream, const Header& h, ByteView body,
                              std::vector<LocalPiece>& landing) {
    last_work_ = monotonic_now();
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
        answer(stream, FrameType::write_ack, h.attempt, s, bad);
    }
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
               {Code::segment_gone, "the segment was unregistered"});
    }
    c->landing = 0;
    c->landing_revoked = false;
}

void OwnerSession::on_drained(FrameStream&) {
    serve();
}

void OwnerSession::on_closed(FrameStream& stream, const Status&) {
    for (size_t i = 0; i < connections_.size(); ++i) {
        Connection& c = connections_[i];
        if (c.stream.get() != &stream) continue;
        responder_.drop_connection(c.id);
        std::erase_if(reads_, [&](const auto& r) { return r.second.connection == c.id; });
        dead_.push_back(std::move(c.stream));
        connections_.erase(connections_.begin() + static_cast<std::ptrdiff_t>(i));
        return;
    }
}

// ---- revoking a grant
// -------------------------------------------------------------------------------------------

void OwnerSession::revoke_segment(SegmentId segment, const uint8_t* address, uint64_t length) {
    std::vector<AttemptId> cut;
    for (const auto& [attempt, r] : reads_) {
        if (std::find(r.segments.begin(), r.segments.end(), segment) != r.segments.end())
            cut.push_back(attempt);
    }
    for (AttemptId a : cut) {
        uint64_t connection = reads_[a].connection;
        drop_read(a);
        if (Connection* c = by_id(connection)) {
            answer(*c->stream, FrameType::read_fail, a, {Code::segment_gone, "the segment was unregistered"});
        }
    }
    std::vector<FrameStream*> half_sent;
    for (Connection& c : connections_) {
        if (c.stream->lands_in(address, length)) c.landing_revoked = true;
        if (c.stream->sends_from(address, length)) half_sent.push_back(c.stream.get());
    }
    // A reply that is half sent cannot be completed with anything but wrong bytes: the connection goes
    // instead.
    for (FrameStream* s : half_sent) s->close({Code::segment_gone, "a segment was unregistered in mid-send"});
    for (auto& [attempt, p] : pulls_) {
        for (const auto& part : p.job->parts) {
            if (part.segment == segment) p.job->cancelled.store(true);
        }
    }
    if (Connection* c = control()) {
        Header h;
        h.type = FrameType::segment_gone;
        h.aux = segment;
        c->stream->send(h);
    }
}

bool OwnerSession::touches(SegmentId segment, const uint8_t* address, uint64_t length) const {
    (void)address;
    (void)length;
    for (const auto& [attempt, p] : pulls_) {
        for (const auto& part : p.job->parts) {
            if (part.segment == segment) return true;
        }
    }
    if (!hazards_) return false;
    if (exited()) return false;  // and its hazards with it
    return reinterpret_cast<const transport::shm::HazardPage*>(hazards_.address())->holds(segment);
}

}  // namespace tent::engine
