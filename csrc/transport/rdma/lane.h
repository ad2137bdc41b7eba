// One queue pair of a channel: what is posted on it, in order, and its way from opened to ended.
#pragma once

#include <deque>

#include "model/types.h"
#include "transport/rdma/queue_pair.h"
#include "transport/rdma/worker.h"

namespace tent::transport::rdma {

class RdmaChannel;

// One send request: a contiguous remote range, and where its bytes lie here.
struct Work {
    uint64_t remote = 0;
    uint32_t key = 0, length = 0;
    uint32_t first = 0, count = 0;  // of the attempt's elements
};

class Lane final : public CompletionHandler {
  public:
    explicit Lane(RdmaChannel& channel) : channel_(&channel) {}
    ~Lane() override;
    Status open(const Port& port, const Options& options);
    // The owner's end is known: the rest of the way, then a read of its incarnation as a proof.
    void connect(Worker& worker, const proto::OpenedQueuePair& theirs, const Id128& expected);
    QueuePair& qp() { return *qp_; }
    bool ready() const { return state_ == State::ready; }
    uint32_t domain() const { return theirs_.domain; }
    size_t room() const { return qp_->depth() - sent_.size(); }
    // Queues one request for submit(); false: full.
    void add(const Work& work, std::span<const abi::Element> elements, Op op, AttemptId attempt, bool last);
    Status submit();
    void on_completions() override;
    Nanos last_completion() const { return last_completion_; }
    // Nothing posted on it touches memory any more. What had completed before is reported first.
    void end();
    uint64_t number = 0;

  private:
    enum class State : uint8_t { opening, connecting, proving, ready, ended };
    struct Sent {
        AttemptId attempt = 0;
        uint32_t bytes = 0;
    };
    struct Connecting;
    void prove();
    void proved(const abi::Completion& c);
    void done_through(uint64_t sequence);

    RdmaChannel* channel_;
    std::shared_ptr<QueuePair> qp_;
    std::shared_ptr<Connecting> connecting_;
    State state_ = State::opening;
    proto::OpenedQueuePair theirs_;
    Id128 expected_{};
    std::deque<Sent> sent_;
    uint64_t first_ = 1;  // sequence number of sent_'s first
    std::vector<abi::SendRequest> batch_;
    std::vector<abi::Element> elements_;  // of the batch
    uint32_t silent_ = 0;                 // requests since the last that asks for a completion
    uint64_t silent_bytes_ = 0;
    Nanos last_completion_ = 0;
};

}  // namespace tent::transport::rdma
