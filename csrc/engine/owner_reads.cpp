// A session's reads: checked here, queued with those of all sessions (responders.h), sent part by part.
#include <algorithm>

#include "engine/engine.h"
#include "engine/owner_session.h"
#include "transport/pieces.h"

namespace tent::engine {

using proto::FrameType;
using proto::Header;
using transport::FrameStream;
using transport::LocalPiece;

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
    if (!engine_.responders().add(q)) {
        answer(stream, FrameType::read_fail, h.attempt, {Code::busy, "too many reads are waiting"});
        return;
    }
    reads_[h.attempt] = std::move(r);
}

void OwnerSession::send_part(const proto::ReadGrant& g) {
    auto it = reads_.find(g.request.attempt);
    Connection* c = by_id(g.request.connection);
    if (it == reads_.end() || c == nullptr) return;
    std::vector<LocalPiece>& part = part_;
    part.clear();
    transport::slice_of(it->second.pieces, g.offset, g.length, part);
    Header h;
    h.type = FrameType::data;
    h.attempt = g.request.attempt;
    h.aux = g.offset;
    c->stream->send(h, {}, part);
    if (g.last) reads_.erase(it);
    c->stream->flush();
}

void OwnerSession::drop_read(AttemptId attempt) {
    auto it = reads_.find(attempt);
    if (it == reads_.end()) return;
    engine_.responders().cancel(it->second.connection, id_, attempt);
    if (Connection* c = by_id(it->second.connection)) c->stream->abandon(attempt);
    reads_.erase(it);
}

}  // namespace tent::engine
