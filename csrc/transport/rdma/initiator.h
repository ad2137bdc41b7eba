// A session's dealings with its owner about RDMA, from the initiator's side: queue pairs are opened and
// memory's keys asked for on the control connection. Shared by the session's channels. Loop token held.
#pragma once

#include <map>
#include <optional>

#include "transport/rdma/fabric.h"
#include "transport/transport.h"

namespace tent::transport::rdma {

class RdmaChannel;

class Initiator {
  public:
    Initiator(Fabric& fabric, Session& session, const Id128& owner)
        : fabric_(fabric), session_(session), owner_(owner) {}
    Fabric& fabric() { return fabric_; }
    Session& session() { return session_; }
    const Id128& owner() const { return owner_; }  // its incarnation

    // Asks for the other end; the channel hears of it by opened(). Returns the lane's number.
    uint64_t open(RdmaChannel* channel, const proto::OpenQueuePair& ours);
    void forget(uint64_t lane) { lanes_.erase(lane); }
    // The key to [offset, ...) of a segment for such work, if it is known.
    const proto::MemoryKey* key(uint32_t domain, SegmentId segment, uint64_t offset, Op op) const;
    // The channel hears of the answer by keys_came().
    void ask(RdmaChannel* channel, AttemptId attempt, uint64_t lane, uint32_t domain, Op op,
             std::span<const proto::Piece> pieces);
    void distrust(uint32_t domain, SegmentId segment);
    void segment_gone(SegmentId segment);
    // The channel is no more.
    void forget(const RdmaChannel* channel);

    // The owner's answers. False: malformed.
    bool on_opened(const proto::Header& header, ByteView body);
    bool on_keys(const proto::Header& header, ByteView body);
    void ask_again();  // on a new control connection
    void session_over();

  private:
    struct Lane {
        RdmaChannel* channel = nullptr;
        Bytes question;  // until it is answered
    };
    struct Question {
        RdmaChannel* channel = nullptr;
        AttemptId attempt = 0;
        uint64_t lane = 0;
        uint32_t domain = 0;
        Op op{};
        Bytes body;
    };
    void send(uint64_t lane, const Lane& l);
    void send(uint64_t request, const Question& q);

    Fabric& fabric_;
    Session& session_;
    Id128 owner_;
    uint64_t next_lane_ = 1, next_request_ = 1;
    std::map<uint64_t, Lane> lanes_;
    std::map<uint64_t, Question> questions_;
    // By domain, segment, what it is for and where it begins.
    std::map<std::tuple<uint32_t, SegmentId, uint8_t, uint64_t>, proto::MemoryKey> keys_;
};

}  // namespace tent::transport::rdma
