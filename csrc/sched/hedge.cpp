// Late slices move early. A destination has one landing attempt at a time, so nothing is ever sent twice:
// when nothing is left to assign and a link is idle, a slice that is late on a link that shares no rail with
// it is revoked, and sent over the idle one once it is fenced. Late means: by as much as sending it again
// would take, so that at worst it costs twice what waiting would have. Off by default; within a share of the
// bytes.
#include "sched/core.h"

namespace tent::sched {

// Called when no flow could be bound; says when to look again.
void Core::hedge() {
    if (now_ < hedge_due_ && hedge_due_ != kNever) return;
    hedge_due_ = kNever;
    if (attempt_slots_.size() == 0) return;
    for (const Peer& p : peers_) {
        bool waiting =
            std::any_of(p.queues.begin(), p.queues.end(), [](const Queue& q) { return q.first != kNoId; });
        if (!waiting && p.backlog(kPriorities - 1) != 0) hedge_peer(p);
    }
}

// The idle link of a peer that would carry a slice soonest: its rails carry nothing, for anybody.
LinkId Core::idle_link(const Peer& p) const {
    LinkId best = kNoId;
    for (LinkId id : p.usable) {
        const Link& l = links_[id];
        if (l.state != LinkState::up || rails_[l.spec.local].load.all() != 0 ||
            rails_[l.spec.remote].load.all() != 0)
            continue;
        if (best != kNoId && (l.spec.tier > links_[best].spec.tier || l.rate <= links_[best].rate)) continue;
        best = id;
    }
    return best;
}

void Core::hedge_peer(const Peer& p) {
    LinkId to = idle_link(p);
    if (to == kNoId) return;
    for (LinkId from : p.usable) {
        const Link& l = links_[from];
        const Link& o = links_[to];
        bool shares = l.spec.local == o.spec.local || l.spec.remote == o.spec.remote;
        if (from == to || l.first == kNoId || shares || l.spec.tier != o.spec.tier) continue;
        if (move_late(from, to)) return;
    }
}

// What was posted last is expected last: it moves first.
bool Core::move_late(LinkId from, LinkId to) {
    Link& l = links_[from];
    for (uint32_t i = l.last; i != kNoId; i = attempt_pool_[i].link_previous) {
        const Attempt& a = attempt_pool_[i];
        if (a.revoking || !allowed(flow_pool_[a.flow], to)) continue;
        Nanos late = add_time(a.predicted, finish_in(links_[to], a.priority, a.bytes()));
        if (now_ < late) {
            hedge_due_ = std::min(hedge_due_, late);
            continue;
        }
        if (hedge_credit_ < a.bytes()) return false;
        hedge_credit_ -= a.bytes();
        ++hedged_;
        doubt_rate(from);
        revoke(i);
        return true;
    }
    return false;
}

// It is slower than was thought, or its slices would not be late: what it has delivered of all that is out
// says how slow. Otherwise the slice might go back to it.
void Core::doubt_rate(LinkId id) {
    Link& l = links_[id];
    uint64_t delivered = 1;
    for (uint32_t i = l.first; i != kNoId; i = attempt_pool_[i].link_next)
        delivered += attempt_pool_[i].progress;
    uint64_t most = rate_of(delivered, now_ - attempt_pool_[l.first].posted_at);
    bool own = true;
    each_rail(l, [&](Rail& r) { own = own && r.links == 1; });
    if (!own || most >= l.rate / 2) return;
    each_rail(l, [&](Rail& r) { r.model.bound(most, now_); });
    topology_changed();
}

}  // namespace tent::sched
