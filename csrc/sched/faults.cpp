#include "sched/faults.h"

#include <algorithm>

namespace tent::sched {

namespace {
// Of one fault: beyond it the times are those of the first so many.
constexpr size_t kMostLost = 4096;
}  // namespace

FaultClock::Fault& FaultClock::of(LinkId link) {
    if (link >= links_.size()) links_.resize(link + 1);
    return links_[link];
}

void FaultClock::start(LinkId link) {
    if (link >= links_.size()) return;
    open_ -= links_[link].lost.size();
    links_[link] = {};
}

void FaultClock::error_coming(LinkId link, Nanos last_sign, Nanos now) {
    Fault& f = of(link);
    if (!f.active && f.foreseen < 0) f.foreseen = std::min(last_sign, now);
}

void FaultClock::lose(LinkId link, const Lost& lost) {
    Fault& f = of(link);
    if (f.lost.size() >= kMostLost) return;
    f.lost.push_back(lost);
    ++open_;
}

void FaultClock::attempt_failed(LinkId link, FlowId flow, uint64_t begin, uint64_t end) {
    lose(link, {0, flow, begin, end, end - begin, true});
}

void FaultClock::attempt_revoked(LinkId link, AttemptId attempt, FlowId flow, uint64_t begin, uint64_t end) {
    if (link < links_.size() && links_[link].active) {
        lose(link, {attempt, flow, begin, end, end - begin, false});
    }
}

void FaultClock::link_changed(LinkId link, bool bad, Nanos last_sign, Nanos now) {
    Fault& f = of(link);
    if (!bad) {
        if (f.active) f.times.readmit = now - f.times.at;
        f.active = false;
        f.foreseen = -1;
        return;
    }
    if (f.active) return;  // suspected before
    ++f.count;
    f.active = true;
    f.times = {};
    f.times.at = f.foreseen >= 0 ? f.foreseen : std::min(last_sign, now);
    f.times.detect = now - f.times.at;
    f.fenced_at = f.posted_at = now;
    f.foreseen = -1;
}

void FaultClock::fenced(AttemptId attempt, Nanos now) {
    for (Fault& f : links_) {
        for (Lost& l : f.lost) {
            if (l.attempt != attempt || l.fenced) continue;
            l.fenced = true;
            f.fenced_at = now;
            tidy(f);
            return;
        }
    }
}

void FaultClock::carried(FlowId flow, uint64_t begin, uint64_t end, Nanos now) {
    for (Fault& f : links_) {
        bool any = false;
        for (Lost& l : f.lost) {
            if (l.flow != flow || l.left == 0 || begin >= l.end || end <= l.begin) continue;
            l.left -= std::min(l.left, std::min(end, l.end) - std::max(begin, l.begin));
            if (l.left == 0) any = true;
        }
        if (!any) continue;
        f.posted_at = now;
        tidy(f);
    }
}

void FaultClock::tidy(Fault& f) {
    size_t before = f.lost.size();
    std::erase_if(f.lost, [](const Lost& l) { return l.fenced && l.left == 0; });
    open_ -= before - f.lost.size();
}

FaultTimes FaultClock::last(LinkId link) const {
    if (link >= links_.size()) return {};
    const Fault& f = links_[link];
    FaultTimes t = f.times;
    if (t.at < 0) return t;
    bool all_fenced = std::all_of(f.lost.begin(), f.lost.end(), [](const Lost& l) { return l.fenced; });
    bool all_posted = std::all_of(f.lost.begin(), f.lost.end(), [](const Lost& l) { return l.left == 0; });
    if (all_fenced) t.fence = f.fenced_at - t.at;
    if (all_posted) t.reroute = f.posted_at - t.at;
    return t;
}

}  // namespace tent::sched
