// The public face: every event tells the core the time, then what happened.
#include "sched/sprayer.h"

#include "sched/checkpoint.h"
#include "sched/core.h"

namespace tent::sched {

struct Sprayer::Impl : Core {
    using Core::Core;
    Core& at_time(Nanos now) {
        at(now);
        return *this;
    }
    // An error is about to be told of a link: runs `tell`, and notes what it did to the link.
    template <class F>
    void error_of(LinkId link, Nanos now, F tell) {
        LinkView before = view(link);
        tell();
        if (before.state != LinkState::down && view(link).state == LinkState::down)
            faults.error_coming(link, before.outstanding != 0 ? before.quiet_since : now, now);
    }
    void note(const Action& a, Nanos now);

    FaultClock faults;
};

void Sprayer::Impl::note(const Action& a, Nanos now) {
    switch (a.kind) {
        case Action::Kind::post:
            return faults.posted(a.flow, a.begin, a.end, now);
        case Action::Kind::revoke:
            return faults.attempt_revoked(a.link, a.attempt, a.flow, a.begin, a.end);
        case Action::Kind::flow_done:
        case Action::Kind::flow_failed:
        case Action::Kind::flow_released:
            return faults.flow_ended(a.flow, now);
        case Action::Kind::link_state: {
            bool bad = a.state == LinkState::down || a.state == LinkState::suspect;
            LinkView v = view(a.link);
            return faults.link_changed(a.link, bad, v.outstanding != 0 ? v.quiet_since : now, now);
        }
        case Action::Kind::probe:
            return;
    }
}

Sprayer::Sprayer(const Settings& settings) : impl_(std::make_unique<Impl>(settings)) {}
Sprayer::~Sprayer() = default;

RailId Sprayer::add_rail(const RailSpec& spec) {
    return impl_->add_rail(spec);
}
bool Sprayer::forget_rail(RailId rail) {
    return impl_->forget_rail(rail);
}
LinkId Sprayer::add_link(const LinkSpec& spec, Nanos now) {
    LinkId id = impl_->at_time(now).add_link(spec);
    impl_->faults.start(id);
    return id;
}
void Sprayer::link_down(LinkId link, Nanos now) {
    impl_->error_of(link, now, [&] { impl_->at_time(now).link_down(link); });
}
void Sprayer::link_up(LinkId link, Nanos now) {
    impl_->at_time(now).link_up(link);
}
void Sprayer::link_probe(LinkId link, bool good, Nanos now) {
    impl_->at_time(now).link_probe(link, good);
}
void Sprayer::link_corrupting(LinkId link, Nanos now) {
    impl_->error_of(link, now, [&] { impl_->at_time(now).link_corrupting(link); });
}
void Sprayer::link_asleep(LinkId link, Nanos now) {
    impl_->error_of(link, now, [&] { impl_->at_time(now).link_asleep(link); });
}
void Sprayer::remove_link(LinkId link, Nanos now) {
    impl_->at_time(now).remove_link(link);
}
bool Sprayer::forget_link(LinkId link) {
    return impl_->forget_link(link);
}
void Sprayer::link_window(LinkId link, uint64_t bytes, Nanos until, Nanos now) {
    impl_->at_time(now).link_window(link, bytes, until);
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
    if (outcome != Outcome::link_error) {
        impl_->at_time(now).attempt_ended(attempt, outcome, reason);
    } else {
        AttemptView a = impl_->attempt(attempt);
        impl_->error_of(a.link, now, [&] { impl_->at_time(now).attempt_ended(attempt, outcome, reason); });
        if (a.link != kNoId && !a.revoking) impl_->faults.attempt_failed(a.link, a.flow, a.begin, a.end);
    }
    impl_->faults.attempt_ended(attempt, now);
}
void Sprayer::attempt_progress(AttemptId attempt, uint64_t bytes, Nanos now) {
    impl_->at_time(now).attempt_progress(attempt, bytes);
}
void Sprayer::rail_shared(RailId rail, uint64_t in_flight, uint64_t arrived, Nanos now) {
    impl_->at_time(now).rail_shared(rail, in_flight, arrived);
}
RailView Sprayer::rail(RailId rail) const {
    return impl_->rail(rail);
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
    if (!impl_->at_time(now).next(action)) return false;
    impl_->note(action, now);
    return true;
}

Nanos Sprayer::predict(PeerId peer, uint64_t bytes, Priority priority, Nanos now) const {
    return impl_->at_time(now).predict(peer, bytes, priority);
}
LinkView Sprayer::view(LinkId link) const {
    LinkView v = impl_->view(link);
    v.faults = impl_->faults.count(link);
    v.last_fault = impl_->faults.last(link);
    return v;
}
AttemptView Sprayer::attempt(AttemptId id) const {
    return impl_->attempt(id);
}
size_t Sprayer::flows() const {
    return impl_->flows();
}
uint64_t Sprayer::outstanding() const {
    return impl_->outstanding();
}
uint64_t Sprayer::hedged() const {
    return impl_->hedged();
}
bool Sprayer::accounts_balance() const {
    return impl_->balanced();
}

void Sprayer::outline(Outline& out) const {
    Checkpoint::outline(*impl_, out);
}
bool Sprayer::checkpoint(Bytes& out, size_t most) const {
    return Checkpoint::save(*impl_, out, most);
}
Status Sprayer::restore(ByteView checkpoint, const SliceShape& shape) {
    return Checkpoint::load(*impl_, checkpoint, shape);
}

}  // namespace tent::sched
