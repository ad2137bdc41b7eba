// Health: Up -> Suspect -> Down -> Probation -> Up. Suspicion comes from lack of progress against the model's
// own prediction; errors go straight to Down.
#include "base/status.h"
#include "sched/core.h"

namespace tent::sched {

namespace {
constexpr Nanos kEagerProbing = 60 * kSecond;
constexpr Nanos kSlowestProbing = 5 * kSecond;
// What false alarms can teach. Whoever is silent for longer is faulty, and what it holds is better off
// elsewhere.
constexpr Nanos kMostJitter = 25 * kMillisecond;
// A suspect that stays silent for so many times the least patience is down.
constexpr Nanos kSuspectToDown = 8;
// Of a rail that was never measured: it may be as slow as this, in bytes a second.
constexpr uint64_t kSlowestGuess = 5'000'000;
// Of a link whose bytes are seen to arrive.
constexpr Nanos kLongestSilence = 100 * kMillisecond;
// A link that spoilt bytes is left alone for so long; twice as long each time, up to about a minute.
constexpr Nanos kTainted = kSecond;
// With too little traffic to prove itself, a link is up again after this.
constexpr Nanos kLongestProbation = kSecond;
}  // namespace

void Core::set_state(LinkId id, LinkState state) {
    Link& l = links_[id];
    if (l.state == state) return;
    l.state = state;
    emit({.kind = Action::Kind::link_state, .link = id, .state = state});
    topology_changed();
}

void Core::link_down(LinkId id) {
    if (id < links_.size() && !links_[id].removed) go_down(id);
}

void Core::go_down(LinkId id) {
    Link& l = links_[id];
    if (l.state == LinkState::down) return;
    set_state(id, LinkState::down);
    count_link(id, false);
    l.down_since = now_;
    l.probe_gap = settings_.probe_interval;
    l.next_probe = std::max(l.next_probe, now_);  // the first at once, unless the last one was just now
    reissue(id, true);
    if (!l.removed) checks_.set(id, l.next_probe);
}

void Core::link_up(LinkId id) {
    if (id >= links_.size() || links_[id].removed) return;
    if (links_[id].state == LinkState::down && now_ >= links_[id].tainted_until) to_probation(id);
}

void Core::link_probe(LinkId id, bool good) {
    if (good) link_up(id);
    if (id >= links_.size() || links_[id].removed || links_[id].state != LinkState::down) return;
    if (checks_.at(id) != kNever) return;
    // It slept, and was wanted again in vain: it is looked after from now on.
    Link& l = links_[id];
    l.next_probe = std::max(l.tainted_until, add_time(now_, settings_.probe_interval));
    checks_.set(id, l.next_probe);
}

void Core::link_asleep(LinkId id) {
    if (id >= links_.size() || links_[id].removed) return;
    go_down(id);
    checks_.set(id, kNever);
}

void Core::link_corrupting(LinkId id) {
    if (id >= links_.size() || links_[id].removed) return;
    Link& l = links_[id];
    uint32_t times = std::min(l.corrupting++, 6u);
    if (!other_usable(id)) return;
    l.tainted_until = l.next_probe = add_time(now_, kTainted << times);
    go_down(id);
}

void Core::to_probation(LinkId id) {
    Link& l = links_[id];
    // Condemned for its silence, and well at the first probes: that was a false alarm too.
    if (std::exchange(l.condemned, false) && now_ - l.down_since < 4 * settings_.probe_interval)
        be_patient(l);
    l.ramp = first_ramp();
    l.probation_since = now_;
    l.quiet_since = now_;
    l.quiet_lag = lag_;
    count_link(id, true);
    set_state(id, LinkState::probation);
    checks_.set(id, add_time(now_, kLongestProbation));
}

// A slice arrived whole: the ramp rises, and at its end the link is trusted again.
void Core::prove(Link& l, LinkId id) {
    if (l.ramp == 0) return;
    l.ramp *= 2;
    if (l.ramp <= settings_.slice_max) return;
    l.ramp = 0;
    if (l.state == LinkState::probation) set_state(id, LinkState::up);
}

void Core::be_patient(Link& l) {
    l.jitter = std::min(kMostJitter, std::max(2 * l.jitter, settings_.suspect_floor));
}

void Core::sign_of_life(LinkId id) {
    Link& l = links_[id];
    if (l.state == LinkState::suspect) {  // a false alarm: have more patience with it
        be_patient(l);
        set_state(id, LinkState::up);
    } else if (l.jitter > 0) {
        l.jitter -= l.jitter / 256 + 1;
    }
    if (l.state != LinkState::down) count_link(id, true);
    l.quiet_since = now_;
    l.quiet_lag = lag_;
}

// How long a link with work may be silent: what is in flight on its rails, and some.
Nanos Core::patience(const Link& l) const {
    uint64_t ahead = l.load.all();
    if (l.counted) {
        const Rail &a = rails_[l.spec.local], &b = rails_[l.spec.remote];
        ahead = std::max(a.load.all() + a.others, b.load.all() + b.others);
    }
    if (l.shows_progress) ahead = std::min(ahead, 4 * settings_.slice_min);
    Nanos predicted = add_time(l.latency.get(), l.pace.time(ahead));
    bool proven = rails_[l.spec.local].model.proven() && rails_[l.spec.remote].model.proven();
    if (!proven)
        predicted = std::max(predicted, time_of(ahead, kSlowestGuess));  // nobody knows how slow it may be
    // However slow it is, its bytes come a few at a time: a rate that was bounded by a long silence excuses
    // no longer one.
    if (l.shows_progress) predicted = std::min(predicted, kLongestSilence);
    return add_time(predicted, settings_.suspect_floor + l.jitter);
}

Nanos Core::patient_until(const Link& l) const {
    return add_time(l.quiet_since + (lag_ - l.quiet_lag), patience(l));
}

// The timer may fire early (it is set for the first slice of a busy period), never late: a link in probation
// has one already, for the end of that.
void Core::arm(LinkId id) {
    const Link& l = links_[id];
    if (l.first != l.last && checks_.at(id) != kNever) return;
    checks_.set(id, std::min(checks_.at(id), patient_until(l)));
}

void Core::tick() {
    while (deadlines_.earliest() <= now_) {
        fail_flow(deadlines_.earliest_slot(), static_cast<uint16_t>(Code::deadline));
    }
    while (checks_.earliest() <= now_) check_link(checks_.earliest_slot());
}

// The link's timer fired. Sets the next one, later than now.
void Core::check_link(LinkId id) {
    Link& l = links_[id];
    checks_.set(id, kNever);
    if (l.removed) return;
    if (l.state == LinkState::down) {
        if (now_ >= l.next_probe) {
            emit({.kind = Action::Kind::probe, .link = id});
            if (now_ - l.down_since >= kEagerProbing)
                l.probe_gap = std::min(2 * l.probe_gap, kSlowestProbing);
            l.next_probe = add_time(now_, std::max(l.probe_gap, settings_.probe_interval));
        }
        checks_.set(id, l.next_probe);
        return;
    }
    Nanos again = kNever;
    if (l.state == LinkState::probation) {
        again = add_time(l.probation_since, kLongestProbation);
        if (now_ >= again) {
            set_state(id, LinkState::up);
            again = kNever;
        }
    }
    if (l.first != kNoId || l.state == LinkState::suspect) {
        if (out_of_patience(id)) return;  // went down: its timer is the probe's
        if (l.state == LinkState::probation)
            again = std::min(again, add_time(l.probation_since, kLongestProbation));
        Nanos next = l.state == LinkState::suspect
                         ? add_time(l.suspect_since, kSuspectToDown * settings_.suspect_floor)
                         : patient_until(l);
        if (l.first != kNoId || l.state == LinkState::suspect) {
            again = std::min(again, std::max(next, add_time(now_, settings_.suspect_floor)));
        }
    }
    checks_.set(id, again);
}

// True if the link went down.
bool Core::out_of_patience(LinkId id) {
    Link& l = links_[id];
    if (l.state == LinkState::suspect) {
        if (!other_usable(id)) {  // the last one left: nothing is gained by giving it up
            if (l.first == kNoId) to_probation(id);
            return false;
        }
        if (now_ < add_time(l.suspect_since, kSuspectToDown * settings_.suspect_floor)) return false;
        if (!somewhere_better(id)) {
            // The others have fallen silent, too. With nothing on it this one cannot show that it is well,
            // and as long as it is not used none of them is given up: it is tried again.
            if (l.first == kNoId) to_probation(id);
            return false;
        }
        go_down(id);
        l.condemned = true;
        return true;
    }
    if (l.first == kNoId || now_ < patient_until(l)) return false;
    count_link(id, false);  // its rails are free for others, whoever is to blame
    dirty_ = true;
    if (!somewhere_better(id)) return false;
    l.suspect_since = now_;
    bound_rate(l);
    set_state(id, LinkState::suspect);
    reissue(id, false);
    return false;
}

// It has delivered less than its first attempt in all this time.
void Core::bound_rate(Link& l) {
    if (attempt_pool_[l.first].left() < RateModel::kTelling) return;
    uint64_t most = rate_of(attempt_pool_[l.first].left(), now_ - l.quiet_since - (lag_ - l.quiet_lag));
    bool own = true;
    each_rail(l, [&](Rail& r) { own = own && r.links == 1; });
    if (own) {
        each_rail(l, [&](Rail& r) { r.model.bound(most, now_); });
    } else if (l.path_rate == 0 || most < l.path_rate) {
        l.path_rate = most;
    }
}

// Another link of the peer that is idle, or that has been silent for less than half as long. When all fall
// silent together it is the peer, and nothing is gained by giving up one of them: the last of them to be
// heard of was heard of only a little later.
bool Core::somewhere_better(LinkId id) const {
    const Link& l = links_[id];
    for (LinkId other : peers_[l.peer].links) {
        const Link& o = links_[other];
        if (other == id || !usable(o)) continue;
        if (o.first == kNoId || now_ - o.quiet_since < (now_ - l.quiet_since) / 2) return true;
    }
    return false;
}

// Gives up what is outstanding on a link, so that it goes elsewhere once it is fenced: all of it, or as much
// as the budget for suspicion allows (a tenth of the bytes), what was posted first going first.
void Core::reissue(LinkId id, bool all) {
    for (uint32_t i = links_[id].first; i != kNoId; i = attempt_pool_[i].link_next) {
        Attempt& a = attempt_pool_[i];
        if (a.revoking) continue;
        if (!all) {
            if (reissue_credit_ < a.bytes()) return;
            reissue_credit_ -= a.bytes();
        }
        revoke(i);
    }
}

}  // namespace tent::sched
