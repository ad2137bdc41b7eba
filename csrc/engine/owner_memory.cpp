// A session's hold on our memory: mappings given out, copies pulled for it, and when both have ended.
#include <poll.h>

#include <algorithm>

#include "base/switches.h"
#include "engine/engine.h"
#include "engine/owner_session.h"

namespace tent::engine {

using proto::FrameType;
using proto::Header;
using transport::FrameStream;
using transport::LocalPiece;

namespace {

std::string gone(const Segment& segment) {
    return segment.view ? "the offer has ended" : "the segment was unregistered";
}

}  // namespace

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
    if (!hazards_ || !segment || segment->revoked || segment->exposed == Rights::none || segment->view) {
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
    // A second copy under the number of one under way would hide it from whoever waits for its end.
    if (pulls_.contains(h.attempt)) {
        stream.close({Code::protocol, stream.name + ": attempt number used twice"});
        return;
    }
    Status s = engine_.registry().resolve(writer_, Op::write, pieces, to, bad);
    if (s.ok() && pulls_.size() >= kMaxPulls) s = {Code::busy, "too many copies are waiting"};
    if (s.ok() && (pid_ == 0 || !engine_.settings().pull))
        s = {Code::unsupported, "the owner cannot read your memory"};
    // Nothing asks a copy under way whether the loan still holds.
    for (const proto::Piece& p : pieces) {
        if (!s.ok()) break;
        auto segment = engine_.registry().find(p.segment);
        if (segment->lender || segment->view)
            s = {Code::unsupported, "what is lent or offered is written by its writer, not pulled"};
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

void OwnerSession::revoke_segment(const Segment& segment) {
    if (segment.view && std::erase(open_offers_, segment.id) == 0) return;  // not open to this session
    std::vector<AttemptId> cut;
    for (const auto& [attempt, r] : reads_) {
        if (std::find(r.segments.begin(), r.segments.end(), segment.id) != r.segments.end())
            cut.push_back(attempt);
    }
    for (AttemptId a : cut) {
        uint64_t connection = reads_[a].connection;
        drop_read(a);
        if (Connection* c = by_id(connection))
            answer(*c->stream, FrameType::read_fail, a, {Code::segment_gone, gone(segment)});
    }
    auto inside = [&](const LocalPiece& p) { return segment.covers(p); };
    std::vector<FrameStream*> half_sent;
    for (Connection& c : connections_) {
        if (c.stream->lands_in_any(inside)) c.landing_revoked = true;
        if (c.stream->sends_any(inside)) half_sent.push_back(c.stream.get());
    }
    // A reply that is half sent cannot be completed with anything but wrong bytes: the connection goes
    // instead.
    for (FrameStream* s : half_sent) s->close({Code::segment_gone, gone(segment) + " in mid-send"});
    for (auto& [attempt, p] : pulls_) {
        for (const auto& part : p.job->parts) {
            if (part.segment == segment.id) p.job->cancelled.store(true);
        }
    }
    if (Connection* c = control()) {
        Header h;
        h.type = FrameType::segment_gone;
        h.aux = segment.id;
        c->stream->send(h);
    }
}

bool OwnerSession::may_open(const Segment& offer, size_t most) {
    if (offer.view->open_to(session())) return true;
    if (open_offers_.size() >= most) return false;
    open_offers_.push_back(offer.id);
    return offer.view->open(session());
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

}  // namespace tent::engine
