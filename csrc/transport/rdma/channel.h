// An RDMA link towards one peer: reliable queue pairs, one-sided reads and writes. The owner's CPU takes no
// part: it has given out keys, and can take them back. Loop token held.
//
// A queue pair is the unit of fencing: nothing less can be stopped. So there are two of them (lanes), one at
// work and one that waits connected: when an attempt that was given up does not end by itself, the lane that
// holds it is ended, here and at the owner, its other attempts go back to be posted again, and work goes on
// over the other lane while a new one is made.
#pragma once

#include <deque>
#include <unordered_map>

#include "transport/rdma/initiator.h"
#include "transport/rdma/lane.h"

namespace tent::transport::rdma {

class RdmaChannel final : public LinkChannel {
  public:
    RdmaChannel(Initiator& session, const Port& port, const Id128& towards, std::string name, Sink& sink);
    ~RdmaChannel() override;

    static const Capabilities& stated();
    const Capabilities& capabilities() const override;
    Status dial() override;
    bool up() const override { return up_; }
    Nanos dialled_at() const override { return dialled_at_; }
    Status post(const Attempt& attempt) override;
    void revoke(AttemptId attempt) override;
    void fenced(AttemptId attempt) override;
    void report_progress() override;
    bool touches(const uint8_t* address, uint64_t length) const override;
    void close(const Status& why) override;
    bool quiet() const override { return pending_.empty(); }
    void flush() override;
    // Frames do not travel by RDMA.
    bool send_frame(const proto::Header&, ByteView) override { return false; }

    // ---- for its session and its lanes
    void opened(uint64_t lane, const Status& status, const proto::OpenedQueuePair& theirs);
    void keys_came(AttemptId attempt, const Status& status, uint32_t piece);
    void completed(Lane& lane, AttemptId attempt, uint64_t bytes);
    void failed(Lane& lane, int status, AttemptId guilty);
    void lane_ready(Lane& lane);
    void lane_broken(Lane& lane, const Status& why);

  private:
    // How an attempt ends once nothing of it can touch memory: goes back to be posted again, fails with the
    // link, or is asked about, since the owner's adapter refused it.
    enum class Fate : uint8_t { none, again, link, guilty };
    struct Pending {
        Op op{};
        uint64_t bytes = 0, done = 0;
        std::vector<proto::Piece> remote, missing;  // missing: keys asked for, unless of all
        std::vector<LocalPiece> local;
        std::vector<Work> works;  // empty: not cut yet
        std::vector<abi::Element> elements;
        uint32_t domain = 0;
        size_t next = 0, outstanding = 0;  // of works: not posted yet, and not completed
        Lane* lane = nullptr;
        int questions = 0;
        bool given_up = false, asked = false, fencing = false;
        Nanos given_up_at = 0;
        Fate fate = Fate::none;
        Status why;
    };
    enum class Prepared : uint8_t { yes, waits, no };
    Status open_lane();
    Lane* ready_lane();
    Prepared find_keys(AttemptId id, Pending& p, const Lane& lane, Status& why);
    void build(Pending& p, const Lane& lane, uint32_t most_elements);
    void pump();
    void end_overdue();
    void drop(Lane& lane, Fate fate, const Status& why, AttemptId guilty = 0);
    void settle(AttemptId id);
    void end(AttemptId id, End how, Status status, uint32_t piece = kNoId);
    void lost(const Status& why);

    Initiator& session_;
    Port port_;
    Id128 towards_;
    std::string name_;
    Sink& sink_;
    std::vector<std::unique_ptr<Lane>> lanes_;
    std::vector<std::unique_ptr<Lane>> ended_;  // until the next flush: their own calls may be on the stack
    std::unordered_map<AttemptId, Pending> pending_;
    std::deque<AttemptId> queue_;     // not wholly posted
    std::vector<AttemptId> overdue_;  // given up, and on the way
    bool up_ = false, closed_ = false;
    int access_faults_ = 0;  // in a row
    Nanos dialled_at_ = 0, spare_again_ = 0;
};

}  // namespace tent::transport::rdma
