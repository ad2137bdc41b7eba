#include "sched/checkpoint.h"

#include <algorithm>

#include "sched/checkpoint_archive.h"
#include "sched/core.h"

namespace tent::sched {

namespace {

template <class A>
void visit_in_flight(A& a, InFlight& x) {
    auto& [bytes, attempts] = x;
    fixed(a, bytes);
    fixed(a, attempts);
}
template <class A>
void visit_counts(A& a, Counts& x) {
    auto& [attempts, bytes] = x;
    a.u(attempts);
    a.u(bytes);
}
template <class A>
void visit_span(A& a, Span& x) {
    auto& [begin, end] = x;
    a.u(begin);
    a.u(end);
}

template <class A>
void visit_settings(A& a, Settings& x) {
    auto& [policy, slice_min, slice_max, initial_rate, suspect_floor, probe_interval, window, hedge] = x;
    a.u(policy);
    a.u(slice_min);
    a.u(slice_max);
    a.u(initial_rate);
    a.t(suspect_floor);
    a.t(probe_interval);
    a.u(window);
    a.u(hedge);
}

template <class A>
void visit_link_spec(A& a, LinkSpec& x) {
    auto& [peer, local, remote, latency, max_attempts, tier, affinity, name] = x;
    a.u(peer);
    a.u(local);
    a.u(remote);
    a.t(latency);
    a.u(max_attempts);
    a.u(tier);
    a.u(affinity);
    a.s(name);
}

// A shape is a callback: that there was one is all that is kept.
template <class A>
void visit_flow_spec(A& a, FlowSpec& x) {
    auto& [peer, bytes, op, priority, deadline, shape, from_tier, allowed] = x;
    a.u(peer);
    a.u(bytes);
    a.u(op);
    a.u(priority);
    a.t(deadline);
    bool shaped = shape != nullptr;
    a.u(shaped);
    if constexpr (A::loads) shape = shaped ? &a.shape : nullptr;
    a.u(from_tier);
    numbers(a, allowed);
}

template <class A>
void visit_flow(A& a, Flow& x) {
    auto& [id, spec, peer, order, ending, queued, previous, next, cursor, returned, returned_bytes, done,
           in_flight, shares, first, attempts, last_served] = x;
    a.u(id);
    visit_flow_spec(a, spec);
    a.u(peer);
    a.u(order);
    a.u(ending);
    a.u(queued);
    a.u(previous);
    a.u(next);
    a.u(cursor);
    a.size(returned);
    for (Span& s : returned) visit_span(a, s);
    a.u(returned_bytes);
    a.u(done);
    a.u(in_flight);
    a.size(shares);
    for (Share& s : shares) {
        auto& [link, bytes] = s;
        a.u(link);
        a.u(bytes);
    }
    a.u(first);
    a.u(attempts);
    a.t(last_served);
}

template <class A>
void visit_attempt(A& a, Attempt& x) {
    auto& [id, flow, link, priority, begin, end, progress, posted_at, predicted, revoking, alone,
           link_previous, link_next, flow_previous, flow_next] = x;
    a.u(id);
    a.u(flow);
    a.u(link);
    a.u(priority);
    a.u(begin);
    a.u(end);
    a.u(progress);
    a.t(posted_at);
    a.t(predicted);
    a.u(revoking);
    a.u(alone);
    a.u(link_previous);
    a.u(link_next);
    a.u(flow_previous);
    a.u(flow_next);
}

template <class A>
void visit_group(A& a, Group& x) {
    auto& [rate, pace, unfinished, active] = x;
    a.u(rate);
    if constexpr (A::loads) pace = Pace(std::max<uint64_t>(rate, 1));
    fixed(a, unfinished);
    fixed(a, active);
}

template <class A>
void visit_action(A& a, Action& x) {
    auto& [kind, flow, attempt, link, begin, end, predicted, state, reason, limit] = x;
    a.u(kind);
    a.u(flow);
    a.u(attempt);
    a.u(link);
    a.u(begin);
    a.u(end);
    a.t(predicted);
    a.u(state);
    a.u(reason);
    a.u(limit);
}

template <class A>
void visit_slot(A& a, Flow& x) {
    visit_flow(a, x);
}
template <class A>
void visit_slot(A& a, Attempt& x) {
    visit_attempt(a, x);
}

}  // namespace

template <class A, class T>
void Checkpoint::rate_model(A& a, T& model) {
    auto& [window, filled, at, low_streak, rate, peak, last, burst, first, known, proven, last_sample_at,
           busy_since, opened, busy_bytes, bytes, pieces, open, sampled, half, later, guessed, hold] = model;
    fixed(a, window);
    a.u(filled);
    a.u(at);
    a.u(low_streak);
    a.u(rate);
    a.u(peak);
    a.u(last);
    a.u(burst);
    a.u(first);
    a.u(known);
    a.u(proven);
    a.t(last_sample_at);
    a.t(busy_since);
    a.t(opened);
    a.u(busy_bytes);
    a.u(bytes);
    a.u(pieces);
    a.u(open);
    a.u(sampled);
    a.u(half.bytes);
    a.t(half.at);
    a.u(later.bytes);
    a.t(later.at);
    a.u(guessed);
    a.t(hold);
    if constexpr (A::loads) {
        if (at >= window.size() || filled > window.size()) a.in.fail();
    }
}

template <class A, class T>
void Checkpoint::latency_model(A& a, T& model) {
    auto& [window, filled, at, prior, best] = model;
    for (Nanos& v : window) a.t(v);
    a.u(filled);
    a.u(at);
    a.t(prior);
    a.t(best);
    if constexpr (A::loads) {
        if (at >= window.size() || filled > window.size() || prior < 0 || best < 0) a.in.fail();
    }
}

template <class A, class T>
void Checkpoint::rail(A& a, T& x) {
    auto& [name, model, nominal, load, pipe, delivered, others, others_rate, elsewhere, told_at, links,
           locals, last_delivery, sampled_link, several, unfilled, in_groups] = x;
    a.s(name);
    rate_model(a, model);
    a.u(nominal);
    visit_in_flight(a, load);
    a.u(pipe);
    a.u(delivered);
    a.u(others);
    a.u(others_rate);
    a.u(elsewhere);
    a.t(told_at);
    a.u(links);
    a.u(locals);
    a.t(last_delivery);
    a.u(sampled_link);
    a.u(several);
    a.u(unfilled);
    a.u(in_groups);
}

template <class A, class T>
void Checkpoint::link(A& a, T& x) {
    auto& [spec, peer, state, removed, counted, load, first, last, path, path_rate, path_lows, local_mark,
           remote_mark, marked_at, rate, pipe, pace, latency, ramp, window, window_until, quiet_since,
           quiet_lag, jitter, suspect_since, down_since, probation_since, next_probe, probe_gap,
           shows_progress, condemned, corrupting, tainted_until, posted, used, superseded, revoked, failed,
           outstanding, reissued, bound, average, last_done] = x;
    visit_link_spec(a, spec);
    a.u(peer);
    a.u(state);
    a.u(removed);
    a.u(counted);
    visit_in_flight(a, load);
    a.u(first);
    a.u(last);
    rate_model(a, path);
    a.u(path_rate);
    a.u(path_lows);
    a.u(local_mark);
    a.u(remote_mark);
    a.t(marked_at);
    a.u(rate);
    a.u(pipe);
    if constexpr (A::loads) pace = Pace(rate);
    latency_model(a, latency);
    a.u(ramp);
    a.u(window);
    a.t(window_until);
    for (Nanos* t : {&quiet_since, &quiet_lag, &jitter, &suspect_since, &down_since, &probation_since,
                     &next_probe, &probe_gap, &tainted_until})
        a.t(*t);
    a.u(shows_progress);
    a.u(condemned);
    a.u(corrupting);
    for (Counts* c : {&posted, &used, &superseded, &revoked, &failed, &outstanding}) visit_counts(a, *c);
    a.u(reissued);
    a.u(bound);
    a.u(average);
    a.t(last_done);
    if constexpr (A::loads) {
        if (state > LinkState::probation || spec.latency < 0 || jitter < 0 || probe_gap < 0) a.in.fail();
    }
}

template <class A, class T>
void Checkpoint::peer(A& a, T& x) {
    auto& [id, links, queues, robin, unfinished, refreshed, usable, capacities, group] = x;
    a.u(id);
    numbers(a, links);
    for (Queue& q : queues) {
        auto& [first, last, unbound] = q;
        a.u(first);
        a.u(last);
        a.u(unbound);
    }
    a.u(robin);
    fixed(a, unfinished);
    a.u(refreshed);
    numbers(a, usable);
    a.size(capacities);
    for (Capacity& c : capacities) {
        auto& [tier, rate, pace, latency] = c;
        a.u(tier);
        a.u(rate);
        a.t(latency);
        if constexpr (A::loads) {
            pace = Pace(rate);
            if (latency < 0) a.in.fail();
        }
    }
    a.u(group);
}

// Slots in use, and the order in which free ones will be taken: slots break ties between timers.
template <class A, class T>
void Checkpoint::pool(A& a, T& pool) {
    auto& [items, free] = pool;
    a.size(items);
    numbers(a, free);
    std::vector<bool> used(items.size(), true);
    for (uint32_t slot : free) {
        if (slot >= items.size() || !used[slot]) {
            if constexpr (A::loads) a.in.fail();
            return;
        }
        used[slot] = false;
    }
    for (size_t i = 0; i < items.size(); ++i) {
        if (used[i]) visit_slot(a, items[i]);
    }
}

template <class A, class T>
void Checkpoint::timers(A& a, T& timers, size_t slots) {
    auto& [heap, position] = timers;
    if constexpr (A::loads) {
        uint64_t n = a.in.below(a.in.left() + 1);
        for (uint64_t i = 0; i < n && a.in.ok(); ++i) {
            uint32_t slot = 0;
            Nanos when = 0;
            a.u(slot);
            a.t(when);
            if (slot >= slots || when == kNever || timers.at(slot) != kNever) return a.in.fail();
            timers.set(slot, when);
        }
    } else {
        size_t n = heap.size();
        a.u(n);
        for (uint32_t slot = 0; slot < position.size(); ++slot) {
            if (position[slot] == kNoId) continue;
            a.u(slot);
            a.t(heap[position[slot]].when);
        }
    }
}

template <class A>
void Checkpoint::visit(A& a, Core& core) {
    auto& [settings, now, lag, rails, links, free_rails, free_links, locals, peers, peer_slots, groups,
           version, groups_refreshed, refresh_due, flow_pool, attempt_pool, flow_slots, attempt_slots,
           next_order, next_attempt, deadlines, checks, actions, dirty, turn, queued, reissue_credit,
           hedge_credit, hedged, hedge_due, submitted, completed, failed, cancelled] = core;
    visit_settings(a, settings);
    a.t(now);
    a.t(lag);
    a.size(rails);
    for (Rail& r : rails) rail(a, r);
    a.size(links);
    for (Link& l : links) link(a, l);
    ids(a, free_rails);
    ids(a, free_links);
    numbers(a, locals);
    a.size(peers);
    for (Peer& p : peers) peer(a, p);
    for (Group& g : groups) visit_group(a, g);
    a.u(version);
    a.u(groups_refreshed);
    a.t(refresh_due);
    pool(a, flow_pool);
    pool(a, attempt_pool);
    a.u(next_order);
    a.u(next_attempt);
    timers(a, deadlines, flow_pool.items_.size());
    timers(a, checks, links.size());
    if constexpr (A::loads) {
        uint64_t n = a.in.below(a.in.left() + 1);
        for (uint64_t i = 0; i < n && a.in.ok(); ++i) {
            Action x;
            visit_action(a, x);
            if (x.kind > Action::Kind::link_state || x.state > LinkState::probation) a.in.fail();
            actions.push(x);
        }
    } else {
        size_t n = actions.size();
        a.u(n);
        for (size_t i = 0; i < n; ++i) {
            Action x = actions.at(i);
            visit_action(a, x);
        }
    }
    a.u(dirty);
    fixed(a, turn);
    fixed(a, queued);
    a.t(hedge_due);
    for (uint64_t* n : {&reissue_credit, &hedge_credit, &hedged, &submitted, &completed, &failed, &cancelled})
        a.u(*n);
}

bool Checkpoint::save(const Core& core, Bytes& out, size_t most) {
    // What is surely too large is not even begun: this runs under the loop.
    size_t least = 20 * (core.attempt_pool_.live() + core.flow_pool_.live()) + 100 * core.links_.size() +
                   50 * core.rails_.size() + core.attempt_pool_.free_.size() + core.flow_pool_.free_.size();
    if (least > most) return false;
    size_t begin = out.size();
    Save a{out};
    uint16_t version = kCheckpointVersion;
    a.u(version);
    visit(a, const_cast<Core&>(core));  // Save only reads
    if (out.size() - begin <= most) return true;
    out.resize(begin);
    return false;
}

Status Checkpoint::load(Core& core, ByteView in, const SliceShape& shape) {
    Load a{VarReader(in), shape};
    uint64_t version = a.in.u();
    if (a.in.ok() && version != kCheckpointVersion) {
        return {Code::version_mismatch, "the recording was made by another version of the sprayer (state " +
                                            std::to_string(version) + ", this one has " +
                                            std::to_string(kCheckpointVersion) +
                                            "): replay it with the TENT that made it"};
    }
    visit(a, core);
    if (!a.in.done() || !sound(core)) return {Code::protocol, "the recording's checkpoint is damaged"};
    rebuild(core);
    if (!core.balanced()) return {Code::protocol, "the recording's checkpoint does not add up"};
    return Status::good();
}

void Checkpoint::rebuild(Core& core) {
    for (uint32_t i = 0; i < core.peers_.size(); ++i) core.peer_slots_.emplace(core.peers_[i].id, i);
    std::vector<bool> free(core.flow_pool_.items_.size());
    for (uint32_t slot : core.flow_pool_.free_) free[slot] = true;
    for (uint32_t i = 0; i < free.size(); ++i) {
        if (free[i]) continue;
        core.flow_slots_.insert(core.flow_pool_[i].id, i);
    }
    free.assign(core.attempt_pool_.items_.size(), false);
    for (uint32_t slot : core.attempt_pool_.free_) free[slot] = true;
    for (uint32_t i = 0; i < free.size(); ++i) {
        if (!free[i]) core.attempt_slots_.insert(core.attempt_pool_[i].id, i);
    }
}

}  // namespace tent::sched
