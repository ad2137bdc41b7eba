// The memory bus as a link: copies between our memory and a same-host peer's segments. The initiator's side.
//   memfd segment  : mapped on demand (descriptors over the control connection), one memcpy
//   region, read   : process_vm_readv, when the kernel lets us
//   region, write  : the owner pulls from us (a `pull` frame): nobody ever writes into another process's
//   private memory
#pragma once

#include <map>
#include <memory>
#include <unordered_map>

#include "transport/shm/copier.h"
#include "transport/transport.h"

namespace tent::transport::shm {

class ShmChannel final : public Channel {
  public:
    // `pidfd` of the owner stays the caller's. `can_pull`: process_vm_readv works towards this peer.
    ShmChannel(Session& session, Sink& sink, Copier& copier, pid_t owner, int pidfd, bool can_pull);
    ~ShmChannel() override;

    // Makes the hazard page and tells the owner. Before anything else.
    Status open();
    void set_segments(const std::vector<proto::SegmentInfo>* segments) { segments_ = segments; }
    // Can this segment be reached for this operation?
    bool reaches(const proto::SegmentInfo& segment, Op op) const;
    void on_mapped(uint64_t request, Code code, ByteView body, std::vector<UniqueFd> descriptors);
    void on_pull_ended(AttemptId attempt, Code code, uint32_t piece, std::string message);
    void on_job(CopyJob& job);  // a copy of ours ended (loop token held)
    void segment_gone(SegmentId segment);
    // The next post's jobs are waited for by a caller that helps.
    void set_helper(bool waits) { helper_waits_ = waits; }

    // Fills `job` for immediate execution in the calling thread, if all that it needs is mapped already;
    // after true, inline_ended() once it has run.
    bool prepare_inline(const Attempt& attempt, CopyJob& job);
    void inline_ended() { --inline_; }

    static const Capabilities& stated();  // what every channel of this transport can do
    const Capabilities& capabilities() const override;
    Status post(const Attempt& attempt) override;
    void revoke(AttemptId attempt) override;
    void fenced(AttemptId attempt) override;
    void close(const Status& why) override;
    bool quiet() const override { return pending_.empty() && inline_ == 0; }
    bool touches(const uint8_t* address, uint64_t length) const override;

  private:
    struct Mapped {
        proto::SegmentInfo info;
        Mapping face_memory;
        const Face* face = nullptr;
        std::vector<Mapping> readable, writable;  // per extent
    };
    struct Pending {
        Op op{};
        std::shared_ptr<CopyJob> job;  // running or queued
        std::vector<proto::Piece> remote;
        std::vector<LocalPiece> local;  // until it is started
        std::shared_ptr<Leaves> leaves;
        bool pulled = false;  // the owner copies
        bool given_up = false;
        int maps_missing = 0;
    };
    enum class Ready : uint8_t { yes, missing, impossible };
    const proto::SegmentInfo* info_of(SegmentId segment) const;
    Ready build(const std::vector<proto::Piece>& remote, const std::vector<LocalPiece>& local, Op op,
                CopyJob& job, Status& why, uint32_t& piece);
    int request_maps(const std::vector<proto::Piece>& remote, Op op);
    void start(AttemptId id, Pending& p);
    Status send_pull(AttemptId id, Pending& p);
    void end(AttemptId id, End end, Status status, uint32_t piece);

    Session& session_;
    Sink& sink_;
    Copier& copier_;
    pid_t owner_;
    int pidfd_;
    bool can_pull_;
    bool helper_waits_ = false, closed_ = false;
    uint32_t inline_ = 0;  // copies under way in submitting threads
    const std::vector<proto::SegmentInfo>* segments_ = nullptr;
    UniqueFd hazard_fd_;
    std::shared_ptr<Mapping> hazard_memory_;
    // Shared with the jobs that copy from them: a mapping goes when the last of those has stopped.
    std::map<SegmentId, std::shared_ptr<Mapped>> mapped_;
    uint64_t next_request_ = 1;
    std::map<uint64_t, std::pair<SegmentId, uint32_t>> requests_;  // (segment, extent << 1 | writable)
    std::map<AttemptId, Pending> pending_;
    std::vector<AttemptId> waiting_;  // for mappings, in order
};

}  // namespace tent::transport::shm
