// A session from the owner's side: what a peer that dialled us may do to our memory. Everything that arrives
// is checked here: lease, attempt, grant, bounds, epoch. Loop token held.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <vector>

#include "proto/answers.h"
#include "proto/attempts.h"
#include "proto/lease.h"
#include "proto/responder.h"
#include "transport/rdma/owner.h"
#include "transport/shm/copier.h"
#include "transport/stream.h"

namespace tent::engine {

class Engine;
struct Segment;

class OwnerSession final : public transport::StreamHandler, public transport::rdma::OwnerHost {
  public:
    OwnerSession(Engine& engine, uint64_t id, const proto::HandshakeResult& peer);
    ~OwnerSession() override;

    void attach(std::unique_ptr<transport::FrameStream> stream);
    const proto::Identity& peer() const { return peer_; }
    const WriterId& writer() const { return writer_; }
    const Id128& session() const { return writer_.session; }
    void tick(Nanos now, Nanos lease_now);
    bool closed() const { return closed_; }
    bool parked() const { return parked_; }  // closed for want of room, with nothing under way
    bool busy(Nanos now) const { return !closed_ && now - last_work_ < kSecond; }
    void flush();
    // Sends a part of a waiting read.
    void send_part(const proto::ReadGrant& grant);
    // How much the peer may have under way to one of our rails, from its local rail `rail`. Said if it
    // understands.
    void give_credit(uint32_t rail, uint64_t window);
    void close(const std::string& why);
    // Nothing of it is under way, it comes from another host, and holds no loan: it can be parked without
    // loss. All answers have reached the peer: nothing is asked, or notified, a second time in the next
    // session.
    bool idle();
    void park();  // an idle one: the peer may come again, in another session
    Nanos last_work() const { return std::max(last_work_, born_); }
    // No connection and no copy is left, on either side: it can be forgotten.
    bool over() const;
    // The grant is revoked: reads and landings in it end. `now_copying` jobs and hazards are waited for by
    // asking touches() again; an offer has none.
    void revoke_segment(const Segment& segment);
    // An offer is to be open to this session. False: it has as many open as it may.
    bool may_open(const Segment& offer, size_t most);
    bool touches(SegmentId segment, const uint8_t* address, uint64_t length) const;
    void on_job(transport::shm::CopyJob& job);

    // StreamHandler
    void on_open(transport::FrameStream&) override {}
    void on_frame(transport::FrameStream& stream, const proto::Header& header, ByteView body) override;
    void on_payload(transport::FrameStream& stream, const proto::Header& header, ByteView body,
                    std::vector<transport::LocalPiece>& landing) override;
    bool may_land(transport::FrameStream& stream) override;
    void on_payload_end(transport::FrameStream& stream, bool landed) override;
    void on_drained(transport::FrameStream& stream) override;
    void on_closed(transport::FrameStream& stream, const Status& why) override;

  private:
    struct Connection {
        uint64_t id = 0;
        std::unique_ptr<transport::FrameStream> stream;
        proto::Purpose purpose{};
        AttemptId landing = 0;
        bool landing_revoked = false;
        std::vector<proto::Piece> loaned;  // pieces of the landing that a lender answers for
        uint64_t loans_ended = 0;          // as of the last look at them
    };
    struct Read {
        uint64_t connection = 0;
        std::vector<transport::LocalPiece> pieces;
        std::vector<SegmentId> segments;
        uint64_t bytes = 0;
    };
    static constexpr size_t kMaxPulls = 1024;       // at a time
    static constexpr size_t kMaxUnsent = 16 << 20;  // bytes of answers that a peer has not taken
    struct Pull {
        std::shared_ptr<transport::shm::CopyJob> job;
    };
    struct WaitingRevoke {
        uint64_t request;
        std::set<AttemptId> jobs;
    };
    Connection* of(transport::FrameStream& stream);
    Connection* by_id(uint64_t id);
    Connection* control();
    void answer(transport::FrameStream& stream, proto::FrameType type, AttemptId attempt,
                const Status& status, uint32_t piece = kNoId);
    void on_read(transport::FrameStream& stream, const proto::Header& header, ByteView body);
    void on_revoke(transport::FrameStream& stream, const proto::Header& header, ByteView body);
    void on_map(transport::FrameStream& stream, const proto::Header& header);
    void on_pull(transport::FrameStream& stream, const proto::Header& header, ByteView body);
    void on_call(transport::FrameStream& stream, const proto::Header& header, ByteView body);
    Result<Bytes> carry_out(uint64_t method, ByteView request);
    void on_notify(transport::FrameStream& stream, const proto::Header& header, ByteView body);
    void drop_read(AttemptId attempt);
    // owner_rdma.cpp
    void on_qp_open(transport::FrameStream& stream, const proto::Header& header, ByteView body);
    void on_qp_close(transport::FrameStream& stream, const proto::Header& header, ByteView body);
    void on_ask_keys(transport::FrameStream& stream, const proto::Header& header, ByteView body);
    Status regions_of(Op op, std::span<const proto::Piece> pieces, std::vector<transport::rdma::Region>& out,
                      uint32_t& bad) override;
    void send(const proto::Header& header, ByteView body) override;
    void issue_token(Nanos lease_now);
    void note_work();
    bool writer_gone() const;
    bool still_lent(Connection& connection) const;
    bool exited() const;  // its process, as far as it can be watched

    Engine& engine_;
    uint64_t id_;
    proto::Identity peer_;
    WriterId writer_;
    proto::OwnerLease lease_;
    proto::AttemptTable attempts_;
    std::vector<Connection> connections_;
    std::vector<std::unique_ptr<transport::FrameStream>> dead_;
    std::map<AttemptId, Read> reads_;
    std::vector<transport::LocalPiece> part_;  // scratch of send_part()
    std::map<AttemptId, Pull> pulls_;
    std::vector<WaitingRevoke> waiting_revokes_;
    std::vector<SegmentId> open_offers_;
    uint64_t last_notification_ = 0;
    proto::Answers answers_;
    Nanos born_ = monotonic_now(), next_token_ = 0, last_work_ = 0;
    std::unique_ptr<transport::rdma::Owner> rdma_;  // once the peer has asked for a queue pair
    transport::shm::Mapping hazards_;
    pid_t pid_ = 0;
    UniqueFd pidfd_;
    bool closed_ = false, parked_ = false;
    bool wrote_here_ = false;  // it was given memory that it can write to
    bool peer_quiet_ = false;  // it said goodbye, with no copy of its own under way
};

}  // namespace tent::engine
