// Late binding: which link takes which slice, when. A link with room takes a slice only if it would finish it
// by the time at which everything up to that flow would end if it flowed over all usable rails at once.
#include "sched/core.h"

namespace tent::sched {

namespace {
// Flows looked at in one queue: behind a flow that no link with room may take, later ones are served
// meanwhile.
constexpr int kLookAhead = 16;
// The share of the time left that one slice may take.
constexpr uint64_t kFraction = 4;
// No slice takes longer than this, so that what matters more never waits long behind it.
constexpr Nanos kLongestSlice = 2 * kMillisecond;
// A flow that nothing was posted of for so long is served once, whatever its class.
constexpr Nanos kStarving = 50 * kMillisecond;
}  // namespace

bool Core::next(Action& action) {
    if (now_ >= next_wakeup()) tick();
    while (!actions_.empty()) {
        action = actions_.pop();
        // An attempt may have ended between the decision to revoke it and now.
        if (action.kind == Action::Kind::revoke && attempt_slots_.find(action.attempt) == kNoId) continue;
        return true;
    }
    if (dirty_ && bind(action)) return true;
    if (settings_.hedge_ppm == 0) return false;
    hedge();
    if (actions_.empty()) return false;
    action = actions_.pop();
    return true;
}

bool Core::bind(Action& action) {
    refresh_all();
    if (bind_starved(action)) return true;
    auto peers = static_cast<uint32_t>(peers_.size());
    for (int c = 0; c < kPriorities; ++c) {
        if (queued_[static_cast<size_t>(c)] == 0 || !any_local_room(c)) continue;
        auto& turn = turn_[static_cast<size_t>(c)];
        uint32_t peer = turn < peers ? turn : 0;
        for (uint32_t n = 0; n < peers; ++n) {
            uint32_t after = peer + 1 == peers ? 0 : peer + 1;
            if (bind_peer(peer, c, c, action)) {
                turn = after;  // peers take turns
                return true;
            }
            peer = after;
        }
    }
    dirty_ = false;
    return false;
}

// Ageing: the head of a lower class gets a slice now and then, however much there is above it.
bool Core::bind_starved(Action& action) {
    uint64_t above = 0;
    for (int c = 1; c < kPriorities; ++c) {
        for (const Group& g : groups_) above += g.unfinished[static_cast<size_t>(c - 1)];
        if (above == 0 || queued_[static_cast<size_t>(c)] == 0 || !any_local_room(0)) continue;
        for (uint32_t peer = 0; peer < peers_.size(); ++peer) {
            const Peer& p = peers_[peer];
            const Queue& q = p.queues[static_cast<size_t>(c)];
            if (q.first == kNoId || now_ - flow_pool_[q.first].last_served < kStarving) continue;
            if (p.backlog(c - 1) != 0 && bind_peer(peer, c, 0, action)) return true;
        }
    }
    return false;
}

bool Core::bind_peer(uint32_t peer, int priority, int rank, Action& action) {
    const Peer& p = peers_[peer];
    const Queue& q = p.queues[static_cast<size_t>(priority)];
    if (q.first == kNoId || !any_room(p, rank)) return false;
    uint64_t backlog = p.backlog(priority) - q.unbound;
    uint32_t slot = q.first;
    for (int looked = 0; slot != kNoId && looked < kLookAhead; ++looked) {
        const Flow& f = flow_pool_[slot];
        backlog += f.unbound();
        const Capacity* c = capacity_for(p, f);
        if (c != nullptr) {
            Choice choice = settings_.policy == Policy::water
                                ? choose(p, f, rank, *c, ends_in(p, *c, priority, backlog))
                                : choose_bound(peers_[peer], flow_pool_[slot], rank);
            if (choice.link != kNoId) {
                post(slot, choice, action);
                return true;
            }
        }
        slot = f.next;
    }
    return false;
}

// Cheap test before flows are looked at: could any link take the smallest slice?
bool Core::any_room(const Peer& p, int rank) const {
    return std::any_of(p.usable.begin(), p.usable.end(),
                       [&](LinkId id) { return has_room(links_[id], rank, settings_.slice_max); });
}

// Cheaper still, for all peers at once: is there a local rail that could take anything?
bool Core::any_local_room(int rank) const {
    return std::any_of(locals_.begin(), locals_.end(), [&](RailId id) {
        const Rail& r = rails_[id];
        return load_has_room(r.load, r.others, rank, settings_.slice_max, r.pipe);
    });
}

// What others of this host have in flight over the same rail fills its pipe, too; the window is everybody's
// own.
bool Core::load_has_room(const InFlight& load, uint64_t others, int rank, uint64_t want,
                         uint64_t pipe) const {
    // Bulk keeps one slice fewer beyond the pipe, so that interactive work waits behind one at most.
    uint64_t window = settings_.window_slices;
    if (rank == static_cast<int>(Priority::bulk) && window > 1) --window;
    if (load.attempts_to(rank) < window) return true;
    return load.bytes_to(rank) + want <= pipe - std::min(pipe, others) + window * want;
}

bool Core::has_room(const Link& l, int rank, uint64_t want) const {
    // What mostly says no first: the local rail, which all peers share.
    const Rail& a = rails_[l.spec.local];
    const Rail& b = rails_[l.spec.remote];
    if (!load_has_room(a.load, a.others, rank, want, l.pipe)) return false;
    if (l.spec.max_attempts != 0 && l.outstanding.attempts >= l.spec.max_attempts) return false;
    return load_has_room(b.load, b.others, rank, want, l.pipe) &&
           load_has_room(l.load, 0, rank, want, l.pipe);
}

// What the owner lets this link have in flight for such a flow; 0: what there is room for.
uint64_t Core::window_of(const Link& l, const Flow& f) const {
    return f.spec.op == Op::write && now_ < l.window_until ? l.window : 0;
}

bool Core::within_window(const Link& l, const Flow& f, int rank, uint64_t want) const {
    uint64_t window = window_of(l, f);
    return window == 0 || l.load.attempts_to(rank) == 0 || l.load.bytes_to(rank) + want <= window;
}

bool Core::allowed(const Flow& f, LinkId link) const {
    if (links_[link].spec.tier < f.spec.from_tier) return false;
    return f.spec.allowed.empty() || std::binary_search(f.spec.allowed.begin(), f.spec.allowed.end(), link);
}

// The links that may carry a flow: those of the best tier that has one it is allowed on.
const Capacity* Core::capacity_for(const Peer& p, const Flow& f) const {
    if (p.capacities.empty()) return nullptr;
    if (f.spec.allowed.empty() && f.spec.from_tier == 0) return &p.capacities.front();
    for (LinkId id : p.usable) {
        if (!allowed(f, id)) continue;
        for (const Capacity& c : p.capacities) {
            if (c.tier == links_[id].spec.tier) return &c;
        }
    }
    return nullptr;
}

// T - now: when `backlog` bytes of this peer, and what other peers send over the same rails meanwhile, would
// have flowed over all of them at once. Peers take turns, so no other one counts for more than this one.
Nanos Core::ends_in(const Peer& p, const Capacity& c, int priority, uint64_t backlog) const {
    const Group& g = groups_[p.group];
    uint64_t everyone = 0, peers = 0;
    for (int i = 0; i <= priority; ++i) {
        everyone += g.unfinished[static_cast<size_t>(i)];
        peers = std::max<uint64_t>(peers, g.active[static_cast<size_t>(i)]);
    }
    uint64_t own = p.backlog(priority);
    uint64_t others =
        everyone > own && peers > 1 ? std::min(everyone - own, mul_div(backlog, peers - 1, 1)) : 0;
    uint64_t elsewhere = 0;  // engines of this host that share the rails; the memory bus is nobody's to share
    if (c.tier != 0) {
        for (RailId id : locals_) elsewhere += rails_[id].others;
    }
    Nanos t = c.pace.time(backlog + elsewhere);
    if (others != 0) t = std::max(t, g.pace.time(backlog + others + elsewhere));
    return add_time(c.latency, t);
}

// When the link's rails have carried what they hold and `extra` more. Interactive work has connections of its
// own: it waits for its like, and shares the rail with whatever else is on it.
Nanos Core::wait_of(const Link& l, int rank, uint64_t extra) const {
    const Rail& a = rails_[l.spec.local];
    const Rail& b = rails_[l.spec.remote];
    uint64_t ahead = std::max({a.load.all() + a.others, b.load.all() + b.others, l.load.all()});
    if (rank == static_cast<int>(Priority::interactive)) {
        uint64_t like = std::max({a.load.bytes_to(rank), b.load.bytes_to(rank), l.load.bytes_to(rank)});
        ahead = like + std::min(ahead - like, like + extra);
    }
    // What has flowed since the last sign of it; never more than half, until it shows.
    uint64_t flowed =
        std::min(ahead / 2, bytes_in(now_ - std::max(a.last_delivery, b.last_delivery), l.rate));
    return l.pace.time(ahead - flowed + extra);
}

uint64_t Core::slice_for(const Link& l, const Flow& f, Nanos left, bool single) const {
    Span span = next_span(f);
    uint64_t available = span.end - span.begin;
    uint64_t most =
        std::min(settings_.slice_max, std::max(settings_.slice_min, bytes_in(kLongestSlice, l.rate)));
    if (l.ramp != 0) most = std::min(most, l.ramp);
    if (uint64_t window = window_of(l, f); window != 0)
        most = std::min(most, std::max(settings_.slice_min, window / 2));
    // A small flow goes at once, in one piece.
    if (f.spec.bytes <= 2 * settings_.slice_min) return available;
    uint64_t want;
    if (single) {
        want = (f.spec.bytes + 1) / 2;  // nothing to balance: two, so that one is always on its way
    } else {
        want = bytes_in(left, l.rate) / kFraction;
    }
    want = std::clamp(want, std::min(settings_.slice_min, most), most);
    constexpr uint64_t kGrain = 4096;
    if (want > kGrain) want -= want % kGrain;
    if (available <= want + settings_.slice_min / 4) want = available;  // no crumbs
    return std::max<uint64_t>(1, std::min(want, available));
}

// The link that finishes first of those that have room and finish by T. Where there is none, the one that
// finishes first of all, if it has room. Links without room matter to the second question alone.
Core::Choice Core::choose(const Peer& p, const Flow& f, int rank, const Capacity& c, Nanos ends) const {
    auto carries = [&](LinkId id) { return links_[id].spec.tier == c.tier && allowed(f, id); };
    size_t links = 0;
    for (size_t i = 0; i < p.usable.size() && links < 2; ++i) links += carries(p.usable[i]) ? 1 : 0;
    Choice best, chosen;
    Nanos best_finish = kNever, chosen_finish = kNever;
    uint64_t probe = std::min(settings_.slice_min, f.unbound());
    bool best_has_room = false;
    for (LinkId id : p.usable) {
        const Link& l = links_[id];
        // The larger the slice, the more room it has: without room for the largest there is none for any.
        if (!has_room(l, rank, settings_.slice_max) || !carries(id)) continue;
        Nanos finish = finish_in(l, f.priority(), probe);
        if (finish >= chosen_finish) continue;
        uint64_t want = slice_for(l, f, ends - l.latency.get(), links == 1);
        bool room = has_room(l, rank, want) && within_window(l, f, rank, want);
        if (finish < best_finish) {
            best_finish = finish;
            best = {id, want, 0};
            best_has_room = room;
        }
        if (!room) continue;
        Nanos whole = finish_in(l, f.priority(), want);
        if (whole > ends) continue;
        chosen = {id, want, whole};
        chosen_finish = finish;
    }
    if (chosen.link != kNoId) return chosen;
    if (!best_has_room) return {};
    bool before = true;  // of two that finish at one time the first counts
    for (LinkId id : p.usable) {
        const Link& l = links_[id];
        if (id == best.link) before = false;
        if (id == best.link || has_room(l, rank, settings_.slice_max) || !carries(id)) continue;
        if (finish_in(l, f.priority(), probe) < best_finish + (before ? 1 : 0)) return {};
    }
    best.finish = finish_in(links_[best.link], f.priority(), best.want);
    return best;
}

Nanos Core::predict(PeerId id, uint64_t bytes, Priority priority) {
    auto it = peer_slots_.find(id);
    if (it == peer_slots_.end()) return kNever;
    refresh_all();
    const Peer& p = peers_[it->second];
    if (p.capacities.empty()) return kNever;
    const Capacity& c = p.capacities.front();
    int level = static_cast<int>(priority);
    Nanos together = ends_in(p, c, level, p.backlog(level) + bytes);
    if (bytes > 2 * settings_.slice_min) return together;
    // A small flow takes one link: the best of them.
    Nanos alone = kNever;
    for (LinkId link : p.usable) {
        if (links_[link].spec.tier == c.tier) alone = std::min(alone, finish_in(links_[link], level, bytes));
    }
    return std::max(together, alone);
}

}  // namespace tent::sched
