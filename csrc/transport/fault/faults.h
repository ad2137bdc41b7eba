// Faults on purpose, before every channel of an engine, by a plan (model/fault_plan.h). For tests: a release
// build does not link it. Loop token held for everything.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <vector>

#include "transport/transport.h"

namespace tent::transport::fault {

class FaultChannel;

// One engine's plan, its clock and its timer. Times of the plan count from its making.
class Faults final : public Decorator, public PollHandler {
  public:
    // What the plan asks for and no transport can do (stop_node) is invalid_argument here.
    static Result<std::shared_ptr<Faults>> create(FaultPlan plan);
    ~Faults() override;

    Status start(Poller& poller) override;
    void stop() override;
    std::unique_ptr<Shell> shell(const FaultLink& link, Sink& sink) override;
    void on_ready(uint32_t events) override;

    const FaultPlan& plan() const { return plan_; }
    Nanos now() const { return monotonic_now() - started_; }
    // The plan's clock shows this from now on: for tests that want their links up before a fault begins.
    void jump_to(Nanos since_start);
    // Every channel's tick() comes no later than `when`.
    void wake_at(Nanos when);
    // Attempts posted on a link so far, over all its connections.
    uint64_t& posted(const FaultLink& link);
    void forget(FaultChannel* channel);
    // How often each fault of the plan has struck: a test that expects one looks here, from any thread.
    std::vector<std::atomic<uint64_t>> struck;

  private:
    explicit Faults(FaultPlan plan);
    void arm();

    FaultPlan plan_;
    Nanos started_;
    Poller* poller_ = nullptr;
    UniqueFd timer_;
    Poller::Token token_ = 0;
    Nanos wake_at_ = kNever;
    std::vector<FaultChannel*> channels_;  // a slot is null once its channel is gone
    std::map<std::string, uint64_t> posted_;
};

}  // namespace tent::transport::fault
