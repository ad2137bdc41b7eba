// What goes wrong: the planned faults, at their times, and what comes and goes by chance.
#include "transport/sim/world.h"

namespace tent::sim {

using sched::Outcome;

namespace {
// The kernel notices that a carrier is gone, or back, about so fast.
constexpr Nanos kNotice = 200 * kMicrosecond;
}  // namespace

void World::place_plan() {
    planned_.resize(plan_.faults.size());
    for (size_t i = 0; i < plan_.faults.size(); ++i) {
        const Fault& f = plan_.faults[i];
        Planned& p = planned_[i];
        p.strikes = f.kind == FaultKind::drop || f.kind == FaultKind::delay || f.kind == FaultKind::corrupt ||
                    f.kind == FaultKind::fail_submit || f.kind == FaultKind::fail_after ||
                    f.kind == FaultKind::duplicate;
        if (f.kind == FaultKind::stop_node) {
            for (uint32_t n = 0; n < nodes_.size(); ++n)
                if (matches(f.node, nodes_[n].spec.name)) p.nodes.push_back(n);
        } else if (f.kind == FaultKind::slow && f.peer == "*" && f.peer_rail == "*") {
            for (uint32_t r = 0; r < rails_.size(); ++r) {
                const RailSpec& spec = rails_[r].spec;
                if (matches(f.node, nodes_[spec.node].spec.name) && matches(f.rail, spec.name))
                    p.rails.push_back(r);
            }
        } else {
            for (uint32_t w = 0; w < wires_.size(); ++w) {
                FaultSide side = hits(f, wires_[w].names);
                if (side != FaultSide::none) p.wires.emplace_back(w, side);
            }
        }
        agenda_.add(kStart + f.at, What::fault, static_cast<uint32_t>(i));
    }
    for (uint32_t i = 0; i < unregisters_.size(); ++i) {
        agenda_.add(kStart + unregisters_[i].at, What::granting, i, 0);
        if (unregisters_[i].back != kNever) agenda_.add(kStart + unregisters_[i].back, What::granting, i, 1);
    }
    for (uint32_t i = 0; i < churns_.size(); ++i)
        agenda_.add(kStart + churns_[i].spec.start + churns_[i].random.exponential(churns_[i].spec.off),
                    What::churn, i, 1);
}

void World::planned(uint32_t i) {
    const Fault& f = plan_.faults[i];
    bool on = on_at(f, now_ - kStart);
    if (on != planned_[i].on) {
        planned_[i].on = on;
        touched(0x500, i, on);
        apply(i, on);
    }
    Nanos next = next_change(f, now_ - kStart);
    if (next != kNever) agenda_.add(kStart + next, What::fault, i);
}

void World::apply(uint32_t i, bool on) {
    const Fault& f = plan_.faults[i];
    bool silent = f.kind == FaultKind::silent || f.kind == FaultKind::stall || f.kind == FaultKind::down ||
                  f.kind == FaultKind::flap;
    if (on && (silent || f.kind == FaultKind::one_way)) note_penalties(i);
    for (uint32_t r : planned_[i].rails) slow_rail(r, 1'000'000 / std::max<uint32_t>(f.factor, 1), on);
    for (uint32_t n : planned_[i].nodes) on ? stop_node(n) : go_on(n);
    for (auto [wire, side] : planned_[i].wires) {
        ail(wire, on);
        Wire& w = wires_[wire];
        if (f.kind == FaultKind::slow) w.factor = on ? f.factor : 1;
        if (f.kind == FaultKind::corrupt) w.corrupting += on ? 1 : uint32_t(-1);
        if (silent) kill_wire(wire, true, true, on);
        if (f.kind == FaultKind::one_way)
            kill_wire(wire, swallows(f, side, true), swallows(f, side, false), on);
        if (f.kind == FaultKind::down || f.kind == FaultKind::flap) announce(wire, !on);
        if (!on) wire_changed(wire, f.kind == FaultKind::stall ? 0 : options_.late);
    }
}

void World::kill_wire(uint32_t id, bool there, bool back, bool on) {
    uint32_t change = on ? 1 : uint32_t(-1);
    if (there) wires_[id].dead[kThere] += change;
    if (back) wires_[id].dead[kBack] += change;
}

// A trouble of any kind touches the wire: what is suspected of it is no false alarm.
void World::ail(uint32_t id, bool on) {
    wires_[id].ailing += on ? 1 : uint32_t(-1);
    if (!on) wires_[id].ailed = now_;
}

void World::announce(uint32_t id, bool back) {
    agenda_.add(now_ + kNotice, What::carrier, id, back);
}

void World::carrier(uint32_t id, bool back) {
    uint32_t node = sessions_[wires_[id].session].from;
    if (back) {
        probe(id);
    } else {
        nodes_[node].sprayer->link_down(wires_[id].link, now_);
        settle(node);
    }
}

// Faults that strike single attempts. False: this one goes no further.
bool World::strike(uint32_t slot) {
    Attempt& a = attempts_[slot];
    uint32_t wire = a.wire;
    uint64_t number = ++wires_[wire].attempts;
    for (size_t i = 0; i < planned_.size(); ++i) {
        if (!planned_[i].strikes || !planned_[i].on) continue;
        const Fault& f = plan_.faults[i];
        const FaultLink& names = wires_[wire].names;
        if (hits(f, names) == FaultSide::none || !strikes(plan_, i, names, number)) continue;
        uint64_t drawn = draw(plan_, i, names, number);
        switch (f.kind) {
            case FaultKind::drop:
                a.started = true;  // nobody can tell that nothing of it is on its way
                return false;
            case FaultKind::delay:
                a.delay +=
                    f.delay + static_cast<Nanos>(f.jitter > 0 ? drawn % static_cast<uint64_t>(f.jitter) : 0);
                break;
            case FaultKind::corrupt:
                a.bad = true;
                break;
            case FaultKind::duplicate:
                a.twice = true;
                break;
            case FaultKind::fail_after:
                if (number <= f.count) break;
                [[fallthrough]];
            case FaultKind::fail_submit:
                end_attempt(slot, Outcome::link_error, 0);
                return false;
            default:
                break;
        }
    }
    return true;
}

void World::slow_rail(uint32_t id, uint64_t ppm, bool on) {
    Rail& r = rails_[id];
    if (on) {
        r.shares.push_back(ppm);
    } else {
        r.shares.erase(std::find(r.shares.begin(), r.shares.end(), ppm));
    }
    uint64_t left = 1'000'000;
    for (uint64_t share : r.shares) left = sched::mul_div(left, share, 1'000'000);
    r.out.scale(std::max<uint64_t>(left, 1));
    r.in.scale(std::max<uint64_t>(left, 1));
    for (uint32_t w : r.wires) ail(w, on);
}

// Transfers with bytes on a link that dies now: how long would they need on what is left?
void World::note_penalties(uint32_t fault) {
    for (uint32_t id : live_transfers_) {
        uint32_t session = transfers_[id].session;
        bool hit = false;
        std::vector<bool> gone(wires_.size());
        for (auto [w, side] : planned_[fault].wires) gone[w] = true;
        for (uint32_t slot : sessions_[session].outstanding)
            hit = hit || (attempts_[slot].transfer == id && gone[attempts_[slot].wire]);
        if (!hit) continue;
        uint64_t left = 0, rate = 0;
        for (uint32_t other : live_transfers_)
            if (transfers_[other].session == session) left += transfers_[other].left;
        std::vector<uint32_t> used;
        for (uint32_t w : sessions_[session].wires) {
            const Wire& wire = wires_[w];
            if (gone[w] || dead(wire, kThere) || dead(wire, kBack)) continue;
            if (std::find(used.begin(), used.end(), wire.near) != used.end()) continue;
            used.push_back(wire.near);
            rate += std::min(rails_[wire.near].out.rate(), rails_[wire.far].in.rate());
        }
        if (rate == 0) continue;  // nothing is left: it waits
        pending_.push_back(static_cast<uint32_t>(report_.penalties.size()));
        report_.penalties.push_back({id, fault, now_, sched::time_of(left, rate), kNever});
    }
}

void World::settle_penalties(uint32_t transfer) {
    std::erase_if(pending_, [&](uint32_t i) {
        Penalty& p = report_.penalties[i];
        if (p.transfer != transfer) return false;
        p.took = std::max<Nanos>(0, now_ - p.at - p.needed);
        return true;
    });
}

void World::stop_node(uint32_t id) {
    Node& n = nodes_[id];
    if (n.stops++ == 0) n.stopped_at = now_;
}

// It goes on: its loop sees that it was not scheduled, then all that has come meanwhile, in order.
void World::go_on(uint32_t id) {
    Node& n = nodes_[id];
    if (--n.stops != 0) return;
    Nanos lag = now_ - n.stopped_at;
    if (lag > 2 * kMillisecond) n.sprayer->own_lag(lag);
    for (const Event& e : std::exchange(n.inbox, {})) handle(e);
    settle(id);
    for (uint32_t r : n.own) serve(r);
}

void World::churn(uint32_t id, bool on) {
    Churn& c = churns_[id];
    if (on) {
        if (now_ >= kStart + std::min(c.spec.stop, kNever - kStart)) return;
        c.target = c.spec.targets[c.random.below(c.spec.targets.size())];
        c.ppm = c.random.between(c.spec.low_ppm, c.spec.high_ppm);
    }
    touched(0x501, id, c.target);
    uint32_t t = c.target;
    switch (c.spec.kind) {
        case ChurnSpec::Kind::slow:
            slow_rail(t, c.ppm, on);
            break;
        case ChurnSpec::Kind::stop:
            on ? stop_node(t) : go_on(t);
            break;
        case ChurnSpec::Kind::jitter:
        case ChurnSpec::Kind::loss:
        case ChurnSpec::Kind::silent:
            for (uint32_t w : rails_[t].wires) {
                ail(w, on);
                if (c.spec.kind == ChurnSpec::Kind::jitter) wires_[w].jitter = on ? c.spec.extra : 0;
                if (c.spec.kind == ChurnSpec::Kind::loss) wires_[w].loss = on ? c.ppm : 0;
                if (c.spec.kind != ChurnSpec::Kind::silent) continue;
                kill_wire(w, true, true, on);
                if (!on) wire_changed(w, options_.late);
            }
            break;
    }
    agenda_.add(now_ + churns_[id].random.exponential(on ? c.spec.on : c.spec.off), What::churn, id,
                on ? 0 : 1);
}

}  // namespace tent::sim
