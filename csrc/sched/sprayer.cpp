// The public face: every event tells the core the time, then what happened.
#include "sched/sprayer.h"

#include "sched/core.h"

namespace tent::sched {

struct Sprayer::Impl : Core {
    using Core::Core;
    Core& at_time(Nanos now) {
        at(now);
        return *this;
    }
};

Sprayer::Sprayer(const Settings& settings) : impl_(std::make_unique<Impl>(settings)) {}
Sprayer::~Sprayer() = default;

RailId Sprayer::add_rail(const RailSpec& spec) {
    return impl_->add_rail(spec);
}
LinkId Sprayer::add_link(const LinkSpec& spec, Nanos now) {
    return impl_->at_time(now).add_link(spec);
}
void Sprayer::link_down(LinkId link, Nanos now) {
    impl_->at_time(now).link_down(link);
}
void Sprayer::link_up(LinkId link, Nanos now) {
    impl_->at_time(now).link_up(link);
}
void Sprayer::link_probe(LinkId link, bool good, Nanos now) {
    impl_->at_time(now).link_probe(link, good);
}
void Sprayer::remove_link(LinkId link, Nanos now) {
    impl_->at_time(now).remove_link(link);
}

void Sprayer::add_flow(FlowId id, const FlowSpec& spec, Nanos now) {
    impl_->at_time(now).add_flow(id, spec);
}
void Sprayer::set_priority(FlowId id, Priority p, Nanos now) {
    impl_->at_time(now).set_priority(id, p);
}
void Sprayer::cancel_flow(FlowId id, Nanos now) {
    impl_->at_time(now).cancel_flow(id);
}

void Sprayer::attempt_ended(AttemptId attempt, Outcome outcome, uint16_t reason, Nanos now) {
    impl_->at_time(now).attempt_ended(attempt, outcome, reason);
}
void Sprayer::attempt_progress(AttemptId attempt, uint64_t bytes, Nanos now) {
    impl_->at_time(now).attempt_progress(attempt, bytes);
}
void Sprayer::own_lag(Nanos lag) {
    impl_->own_lag(lag);
}

void Sprayer::tick(Nanos now) {
    impl_->at_time(now).tick();
}
Nanos Sprayer::next_wakeup() const {
    return impl_->next_wakeup();
}
bool Sprayer::next(Action& action, Nanos now) {
    return impl_->at_time(now).next(action);
}

Nanos Sprayer::predict(PeerId peer, uint64_t bytes, Priority priority, Nanos now) const {
    return impl_->at_time(now).predict(peer, bytes, priority);
}
LinkView Sprayer::view(LinkId link) const {
    return impl_->view(link);
}
size_t Sprayer::flows() const {
    return impl_->flows();
}
uint64_t Sprayer::outstanding() const {
    return impl_->outstanding();
}
bool Sprayer::accounts_balance() const {
    return impl_->balanced();
}

}  // namespace tent::sched
