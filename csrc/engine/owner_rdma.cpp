// What a peer asks of us to read and write our memory by RDMA: queue pairs, and the keys of what it may
// touch.
#include "engine/engine.h"
#include "engine/owner_session.h"

namespace tent::engine {

using proto::FrameType;
using proto::Header;
using transport::FrameStream;

void OwnerSession::on_qp_open(FrameStream& stream, const Header& h, ByteView body) {
    proto::OpenQueuePair asked;
    if (!proto::decode(body, asked)) {
        stream.close({Code::protocol, stream.name + ": a malformed end of a queue pair"});
        return;
    }
    if (engine_.fabric() == nullptr)
        return answer(stream, FrameType::qp_opened, h.attempt, {Code::unsupported, "this node has no RDMA"});
    if (!rdma_) rdma_ = std::make_unique<transport::rdma::Owner>(*engine_.fabric(), *this);
    rdma_->open(h.attempt, asked);
}

void OwnerSession::on_qp_close(FrameStream& stream, const Header& h, ByteView body) {
    std::vector<uint64_t> lanes;
    if (!proto::decode_attempts(body, lanes)) {
        stream.close({Code::protocol, stream.name + ": a malformed list of queue pairs"});
        return;
    }
    if (engine_.fabric() != nullptr) {
        if (!rdma_) rdma_ = std::make_unique<transport::rdma::Owner>(*engine_.fabric(), *this);
        rdma_->end(lanes);
    }
    Header reply;
    reply.type = FrameType::revoked;
    reply.attempt = h.attempt;
    stream.send(reply);
}

void OwnerSession::on_ask_keys(FrameStream& stream, const Header& h, ByteView body) {
    std::vector<proto::Piece> pieces;
    uint64_t total = 0;
    bool known = h.flags == static_cast<uint8_t>(Op::read) || h.flags == static_cast<uint8_t>(Op::write);
    if (!known || !proto::decode_pieces(body, pieces, total)) {
        stream.close({Code::protocol, stream.name + ": a malformed question for keys"});
        return;
    }
    if (!rdma_) return answer(stream, FrameType::keys, h.attempt, {Code::busy, "there is no queue pair"});
    rdma_->ask(h, std::move(pieces));
}

Status OwnerSession::regions_of(Op op, std::span<const proto::Piece> pieces,
                                std::vector<transport::rdma::Region>& out, uint32_t& bad) {
    std::vector<transport::LocalPiece> where;
    Status s = engine_.registry().resolve(writer_, op, pieces, where, bad);
    if (!s.ok()) return s;
    for (uint32_t i = 0; i < pieces.size(); ++i) {
        auto segment = engine_.registry().find(pieces[i].segment);
        bad = i;
        if (segment->view) return {Code::unsupported, "what is offered is not reached by RDMA"};
        out.push_back(engine_.region_of(*segment));
        if (!allows(out.back().remote, op))
            return {Code::unsupported,
                    "segment '" + segment->name + "': what is lent piece by piece is not written by RDMA"};
    }
    return Status::good();
}

void OwnerSession::send(const Header& header, ByteView body) {
    Connection* c = control();
    if (c == nullptr) return;  // asked again over the next one
    c->stream->send(header, body);
    c->stream->flush();
}

}  // namespace tent::engine
