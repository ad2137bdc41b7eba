#include "transport/fault/faults.h"

#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>

#include "transport/fault/channel.h"

namespace tent::transport::fault {

Result<std::shared_ptr<Faults>> Faults::create(FaultPlan plan) {
    for (const Fault& f : plan.faults) {
        if (f.kind == FaultKind::stop_node)
            return Status(Code::invalid_argument,
                          "a transport cannot stop a node: the simulator and the test bed do 'stop_node'");
    }
    return std::shared_ptr<Faults>(new Faults(std::move(plan)));
}

Faults::Faults(FaultPlan plan)
    : struck(plan.faults.size()), plan_(std::move(plan)), started_(monotonic_now()) {}

Faults::~Faults() = default;

Status Faults::start(Poller& poller) {
    timer_ = UniqueFd(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
    if (!timer_) return {Code::internal, "no timer for the faults"};
    poller_ = &poller;
    token_ = poller.add(timer_.get(), EPOLLIN, this);
    return Status::good();
}

void Faults::stop() {
    if (poller_ == nullptr) return;
    poller_->remove(token_, timer_.get());
    poller_ = nullptr;
    timer_.reset();
}

std::unique_ptr<Shell> Faults::shell(const FaultLink& link, Sink& sink) {
    auto made = std::make_unique<FaultChannel>(*this, link, sink);
    channels_.push_back(made.get());
    return made;
}

void Faults::forget(FaultChannel* channel) {
    std::replace(channels_.begin(), channels_.end(), channel, static_cast<FaultChannel*>(nullptr));
}

uint64_t& Faults::posted(const FaultLink& l) {
    return posted_[l.transport + '|' + l.node + '|' + l.rail + '|' + l.peer + '|' + l.peer_rail];
}

void Faults::jump_to(Nanos since_start) {
    started_ = monotonic_now() - since_start;
    wake_at_ = since_start;
    arm();
}

void Faults::wake_at(Nanos when) {
    if (when >= wake_at_) return;
    wake_at_ = when;
    arm();
}

void Faults::arm() {
    if (poller_ == nullptr || wake_at_ == kNever) return;
    Nanos at = std::max<Nanos>(1, started_ + wake_at_);
    itimerspec spec{};
    spec.it_value.tv_sec = at / kSecond;
    spec.it_value.tv_nsec = at % kSecond;
    timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &spec, nullptr);
}

void Faults::on_ready(uint32_t) {
    uint64_t ignored = 0;
    [[maybe_unused]] ssize_t n = ::read(timer_.get(), &ignored, sizeof ignored);
    wake_at_ = kNever;
    for (size_t i = 0; i < channels_.size(); ++i) {
        if (channels_[i] != nullptr) channels_[i]->tick();
    }
    std::erase(channels_, nullptr);
}

}  // namespace tent::transport::fault
