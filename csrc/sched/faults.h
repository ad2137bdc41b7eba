// The four times of a link's last fault, for people: detected, rerouted, fenced, re-admitted. Told what the
// sprayer is told and what it decides; decides nothing. Costs a comparison while no link is at fault.
#pragma once

#include <cstdint>
#include <vector>

#include "base/clock.h"
#include "model/types.h"

namespace tent::sched {

// Counted from the link's last sign of life (an idle link's: from the moment it was found out). Less than
// zero: not (yet).
struct FaultTimes {
    Nanos at = -1;       // when that was
    Nanos detect = -1;   // suspected, or down
    Nanos reroute = -1;  // what it held was posted again, all of it
    Nanos fence = -1;    // every attempt that was given up is fenced
    Nanos readmit = -1;  // it takes slices again
};

class FaultClock {
  public:
    // It is a new one; its id may have been another's.
    void start(LinkId link);
    // Before an error that will take the link down: its last sign of life is known now, not afterwards.
    void error_coming(LinkId link, Nanos last_sign, Nanos now);
    // An attempt that failed with its link: fenced already.
    void attempt_failed(LinkId link, FlowId flow, uint64_t begin, uint64_t end);
    // The link was suspected or taken down (`bad`), or taken in again.
    void link_changed(LinkId link, bool bad, Nanos last_sign, Nanos now);
    void attempt_revoked(LinkId link, AttemptId attempt, FlowId flow, uint64_t begin, uint64_t end);
    void attempt_ended(AttemptId attempt, Nanos now) {
        if (open_ != 0) fenced(attempt, now);
    }
    void posted(FlowId flow, uint64_t begin, uint64_t end, Nanos now) {
        if (open_ != 0) carried(flow, begin, end, now);
    }
    void flow_ended(FlowId flow, Nanos now) {
        if (open_ != 0) carried(flow, 0, UINT64_MAX, now);
    }

    FaultTimes last(LinkId link) const;
    uint32_t count(LinkId link) const { return link < links_.size() ? links_[link].count : 0; }

  private:
    struct Lost {
        AttemptId attempt = 0;
        FlowId flow = 0;
        uint64_t begin = 0, end = 0, left = 0;  // `left`: not yet posted again
        bool fenced = false;
    };
    struct Fault {
        FaultTimes times;
        Nanos foreseen = -1;  // last sign of life before an error
        bool active = false;  // not re-admitted yet
        uint32_t count = 0;
        Nanos fenced_at = 0, posted_at = 0;
        std::vector<Lost> lost;
    };
    Fault& of(LinkId link);
    void lose(LinkId link, const Lost& lost);
    void fenced(AttemptId attempt, Nanos now);
    void carried(FlowId flow, uint64_t begin, uint64_t end, Nanos now);
    void tidy(Fault& fault);

    std::vector<Fault> links_;
    size_t open_ = 0;  // of all links: lost, and not yet both fenced and posted again
};

}  // namespace tent::sched
