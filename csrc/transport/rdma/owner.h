// A session's RDMA from the owner's side: queue pairs that serve what the peer posts, and keys to what it may
// touch. Everything that arrives has been decoded; what it may touch the engine decides. Loop token held.
#pragma once

#include <map>
#include <set>

#include "proto/wire.h"
#include "transport/rdma/fabric.h"

namespace tent::transport::rdma {

class OwnerHost {
  public:
    virtual ~OwnerHost() = default;
    // The segments of pieces that the peer may read, or write, by RDMA.
    virtual Status regions_of(Op op, std::span<const proto::Piece> pieces, std::vector<Region>& out,
                              uint32_t& bad) = 0;
    virtual void send(const proto::Header& header, ByteView body) = 0;
};

class Owner {
  public:
    Owner(Fabric& fabric, OwnerHost& host) : fabric_(fabric), host_(host) {}
    ~Owner() { close(); }
    void open(uint64_t lane, const proto::OpenQueuePair& theirs);
    // Nothing of these lanes lands any more, now or later.
    void end(std::span<const uint64_t> lanes);
    void ask(const proto::Header& header, std::vector<proto::Piece> pieces);
    void flush();  // answers that waited for memory to be registered
    void close();
    size_t lanes() const { return lanes_.size(); }

  private:
    static constexpr size_t kMostLanes = 64;
    static constexpr size_t kMostQuestions = 256;
    static constexpr size_t kRemembered = 4096;
    struct Lane {
        std::shared_ptr<QueuePair> qp;
        std::shared_ptr<bool> alive = std::make_shared<bool>(true);
        bool connected = false;
        Bytes answer;
    };
    struct Question {
        proto::Header header;
        std::vector<proto::Piece> pieces;
    };
    void refuse(proto::FrameType type, uint64_t id, const Status& why, uint32_t piece = kNoId);
    void opened(uint64_t lane, const Bytes& body);
    bool answer(const Question& q);

    Fabric& fabric_;
    OwnerHost& host_;
    std::map<uint64_t, Lane> lanes_;
    std::set<uint64_t> ended_;  // their opening may come later, by another connection
    uint64_t floor_ = 0;        // every lane below it has ended
    std::vector<Question> waiting_;
};

}  // namespace tent::transport::rdma
