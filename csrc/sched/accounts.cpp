// Views for metrics, and the sums that must agree at any moment (invariant 9).
#include "sched/checkpoint.h"
#include "sched/core.h"

namespace tent::sched {

LinkView Core::view(LinkId id) const {
    LinkView v;
    if (id >= links_.size()) return v;
    const Link& l = links_[id];
    v.state = l.state;
    v.rate_Bps = link_rate(l);
    v.burst = l.path.burst();
    v.in_flight = l.load.all();
    v.latency = l.latency.get();
    v.posted = l.posted.attempts;
    v.used = l.used.attempts;
    v.superseded = l.superseded.attempts;
    v.revoked = l.revoked.attempts;
    v.failed = l.failed.attempts;
    v.outstanding = l.outstanding.attempts;
    v.bytes_posted = l.posted.bytes;
    v.bytes_used = l.used.bytes;
    v.reissued = l.reissued;
    v.quiet_since = l.quiet_since;
    v.corrupting = l.corrupting;
    return v;
}

RailView Core::rail(RailId id) const {
    if (id >= rails_.size()) return {};
    const Rail& r = rails_[id];
    return {r.model.rate(now_), r.load.all(), r.delivered, r.others};
}

AttemptView Core::attempt(AttemptId id) const {
    uint32_t slot = attempt_slots_.find(id);
    if (slot == kNoId) return {};
    const Attempt& a = attempt_pool_[slot];
    return {flow_pool_[a.flow].id, a.link, a.begin, a.end, a.posted_at, a.predicted, a.revoking};
}

void Checkpoint::outline(const Core& core, Outline& out) {
    for (const Rail& r : core.rails_) out.rails.push_back({r.name, r.model.measured()});
    for (LinkId id = 0; id < core.links_.size(); ++id) {
        const Link& l = core.links_[id];
        out.links.push_back({id, l.spec, l.state});
        for (uint32_t i = l.first; i != kNoId; i = core.attempt_pool_[i].link_next) {
            AttemptId attempt = core.attempt_pool_[i].id;
            out.posted.push_back({attempt, core.attempt(attempt)});
        }
    }
}

bool Core::balanced() const {
    std::vector<InFlight> rails(rails_.size());
    uint64_t attempts = 0;
    for (const Link& l : links_) {
        auto sum = [&](uint64_t Counts::*n) {
            return l.used.*n + l.superseded.*n + l.revoked.*n + l.failed.*n + l.outstanding.*n;
        };
        if (l.posted.attempts != sum(&Counts::attempts) || l.posted.bytes != sum(&Counts::bytes))
            return false;
        InFlight load;
        uint64_t count = 0, bytes = 0;
        for (uint32_t i = l.first; i != kNoId; i = attempt_pool_[i].link_next) {
            const Attempt& a = attempt_pool_[i];
            ++count;
            bytes += a.bytes();
            load.bytes[static_cast<size_t>(a.priority)] += a.left();
            ++load.attempts[static_cast<size_t>(a.priority)];
        }
        if (count != l.outstanding.attempts || bytes != l.outstanding.bytes) return false;
        if (load.bytes != l.load.bytes || load.attempts != l.load.attempts) return false;
        attempts += count;
        if (!l.counted) continue;
        auto add = [&](RailId id) {
            for (size_t c = 0; c < kPriorities; ++c) {
                rails[id].bytes[c] += load.bytes[c];
                rails[id].attempts[c] += load.attempts[c];
            }
        };
        add(l.spec.local);
        if (l.spec.remote != l.spec.local) add(l.spec.remote);
    }
    for (size_t i = 0; i < rails_.size(); ++i) {
        if (rails[i].bytes != rails_[i].load.bytes || rails[i].attempts != rails_[i].load.attempts)
            return false;
    }
    return attempts == attempt_slots_.size() && flows_balanced();
}

// Each queue's flows add up to what the queue, the peer and the group say; each flow's bytes are somewhere,
// once.
bool Core::flows_balanced() const {
    std::array<PerClass, kTiers> groups{};
    for (const Peer& p : peers_) {
        for (size_t c = 0; c < kPriorities; ++c) {
            uint64_t unbound = 0;
            uint32_t previous = kNoId;
            for (uint32_t i = p.queues[c].first; i != kNoId; i = flow_pool_[i].next) {
                const Flow& f = flow_pool_[i];
                if (f.ending || f.previous != previous || f.unbound() == 0) return false;
                if (f.unbound() + f.in_flight + f.done != f.spec.bytes) return false;
                unbound += f.unbound();
                previous = i;
            }
            if (unbound != p.queues[c].unbound || previous != p.queues[c].last) return false;
            if (unbound > p.unfinished[c]) return false;
            groups[p.group][c] += p.unfinished[c];
        }
    }
    for (size_t g = 0; g < kTiers; ++g) {
        if (groups[g] != groups_[g].unfinished) return false;
    }
    // submitted = completed + failed + cancelled + live, where an ended flow may still wait for its attempts.
    uint64_t ended = completed_ + failed_ + cancelled_;
    return submitted_ >= ended && submitted_ - ended <= flow_slots_.size();
}

}  // namespace tent::sched
