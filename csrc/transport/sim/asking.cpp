// The end that asks: it performs its sprayer's actions, lands the answers to its reads and tells the sprayer
// what became of each attempt.
#include "base/status.h"
#include "base/switches.h"
#include "transport/sim/world.h"

namespace tent::sim {

using sched::Action;
using sched::LinkState;
using sched::Outcome;

void World::settle(uint32_t id) {
    Node& n = nodes_[id];
    if (n.settling) return;  // called from inside: the outer one goes on
    n.settling = true;
    if (now_ - n.progressed_at >= kMillisecond) progress(id);
    for (Action a; n.sprayer->next(a, now_);) {
        ++report_.actions;
        touched(0x100 + static_cast<int>(a.kind), a.flow ^ (a.attempt << 20) ^ (uint64_t{a.link} << 50),
                a.begin ^ (a.end << 1) ^ (static_cast<uint64_t>(a.predicted) << 7));
        perform(id, a);
        if (++n.actions % options_.check_every == 0) check_accounts(id);
    }
    n.settling = false;
    Nanos wake = n.sprayer->next_wakeup();
    if (wake < n.wake_at) {
        n.wake_at = std::max(wake, now_);
        agenda_.add(n.wake_at, What::wake, id);
    }
}

// What is known of attempts under way, as the engine tells it: the bytes of a read that are here, and those
// of a write that the far kernel has acknowledged.
void World::progress(uint32_t id) {
    Node& n = nodes_[id];
    n.progressed_at = now_;
    for (uint32_t s : n.sessions) {
        for (uint32_t slot : sessions_[s].outstanding) {
            const Attempt& a = attempts_[slot];
            uint64_t have = a.op == Op::read ? a.landed : std::min(a.seen, a.end - a.begin);
            if (have > 0 && !a.revoked) n.sprayer->attempt_progress(a.id, have, now_);
        }
    }
}

void World::perform(uint32_t node, const Action& a) {
    auto transfer = static_cast<uint32_t>(a.flow - 1);
    switch (a.kind) {
        case Action::Kind::post:
            return post(node, a);
        case Action::Kind::revoke: {
            ++report_.revokes;
            uint32_t slot = nodes_[node].attempts.find(a.attempt);
            if (slot != kNoId) give_up(slot);
            return;
        }
        case Action::Kind::flow_done:
            return transfer_over(transfer, Fate::done, 0);
        case Action::Kind::flow_failed:
            return transfer_over(transfer, Fate::failed, a.reason);
        case Action::Kind::flow_released:
            return transfer_released(transfer);
        case Action::Kind::probe:
            return probe(nodes_[node].wires[a.link]);
        case Action::Kind::link_state:
            return link_state(node, a);
    }
}

void World::post(uint32_t node, const Action& action) {
    ++report_.posts;
    Node& n = nodes_[node];
    auto transfer = static_cast<uint32_t>(action.flow - 1);
    uint32_t wire = n.wires[action.link];
    const WorkloadSpec& load = workloads_[report_.transfers[transfer].workload].spec;
    Session& s = sessions_[wires_[wire].session];
    uint32_t slot = attempts_.take();
    Attempt& a = attempts_[slot];
    a = Attempt{};
    a.id = action.attempt;
    a.node = node;
    a.transfer = transfer;
    a.wire = wire;
    a.generation = s.generation;
    a.op = load.op;
    a.interactive = load.priority == Priority::interactive;
    a.begin = action.begin;
    a.end = action.end;
    a.references = 1;
    a.posted = now_;
    a.predicted = action.predicted;
    if (a.id <= s.last) report_.violate(9, now_, "attempt numbers do not rise");
    s.last = a.id;
    n.attempts.insert(a.id, slot);
    s.outstanding.push_back(slot);
    if (s.dead) return end_attempt(slot, Outcome::link_error, static_cast<uint16_t>(Code::link_failed));
    if (!strike(slot)) return;  // lost, or refused at once
    if (load.op == Op::read) {
        tell({.kind = Message::Kind::ask, .wire = wire, .attempt = slot, .generation = s.generation});
    } else {
        send(wires_[wire].lanes[kThere][a.interactive], {slot, action.end - action.begin, true});
    }
}

// Fenced here where that is possible: a read's bytes land here, and a write that has not begun has none out.
void World::give_up(uint32_t slot) {
    Attempt& a = attempts_[slot];
    a.revoked = true;
    bool at_once = a.op == Op::read || !options_.fencing;
    if (a.op == Op::read) {
        tell({.kind = Message::Kind::cancel, .wire = a.wire, .attempt = slot, .generation = a.generation});
    } else if (!at_once && !a.started) {
        auto& queue = lanes_[wires_[a.wire].lanes[kThere][a.interactive]].queue;
        size_t dropped = std::erase_if(queue, [slot](const Frame& f) { return f.attempt == slot; });
        a.references -= static_cast<uint32_t>(dropped);
        at_once = true;
    }
    if (!at_once) return revoke_at_owner(slot);
    ++a.references;
    agenda_.add(now_, What::ended, slot, static_cast<uint64_t>(Outcome::revoked));
}

void World::end_attempt(uint32_t slot, Outcome outcome, uint16_t reason) {
    Attempt& a = attempts_[slot];
    if (a.ended) return;
    a.ended = true;
    uint32_t node = a.node;
    std::erase(sessions_[wires_[a.wire].session].outstanding, slot);
    nodes_[node].attempts.erase(a.id);
    touched(0x200 + static_cast<int>(outcome), a.id, a.transfer);
    if (outcome == Outcome::done) transfers_[a.transfer].left -= a.end - a.begin;
    if (options_.drawn && now_ >= options_.warm)
        report_.drawn.push_back(
            {a.wire, a.transfer, a.id, a.begin, a.end, a.posted, now_, a.predicted, outcome});
    AttemptId id = a.id;
    bool twice = a.twice;
    unhold(slot);
    nodes_[node].sprayer->attempt_ended(id, outcome, reason, now_);
    if (twice) nodes_[node].sprayer->attempt_ended(id, outcome, reason, now_);
    settle(node);
}

// A read's bytes are here. Whether they may land is known here, too.
void World::answer_landed(const Piece& p) {
    Attempt& a = attempts_[p.attempt];
    if (p.scratch) a.drained = true;
    if (p.scratch || (options_.fencing && protection_on(Protection::fence) && (a.revoked || a.ended))) {
        ++report_.drained;
        return;
    }
    if (!may_touch(a, "landed in")) return;
    a.landed += p.bytes;
    landed(p.bytes);
    if (now_ - nodes_[a.node].progressed_at >= kMillisecond) {
        progress(a.node);
        settle(a.node);
    }
    if (!p.last || a.drained) return;
    finish_attempt(p.attempt, a.bad ? Outcome::link_error : Outcome::done);
}

// Its end is known; a fault may tell it later, or twice.
void World::finish_attempt(uint32_t slot, Outcome outcome) {
    Attempt& a = attempts_[slot];
    if (outcome == Outcome::done && a.landed != a.end - a.begin)
        report_.violate(1, now_,
                        "attempt " + std::to_string(a.id) + " counts as done without all of its bytes");
    if (a.delay == 0) return end_attempt(slot, outcome, 0);
    ++a.references;
    agenda_.add(now_ + a.delay, What::ended, slot, static_cast<uint64_t>(outcome));
}

void World::landed(uint64_t bytes) {
    if (now_ < options_.warm) return;
    auto bin = static_cast<size_t>((now_ - options_.warm) / options_.bin);
    if (bin >= report_.bins.size()) report_.bins.resize(bin + 1);
    report_.bins[bin] += bytes;
}

// Memory of a transfer is about to be written or read for this attempt: is it still the transfer's, and has
// nobody been told that the attempt is over?
bool World::may_touch(const Attempt& a, const char* what) {
    const TransferRecord& t = report_.transfers[a.transfer];
    uint32_t holder = workers_[transfers_[a.transfer].worker].holder;
    if (t.released == kNever && !a.ended) return true;
    std::string who = "transfer " + std::to_string(a.transfer) + ", attempt " + std::to_string(a.id);
    if (t.released != kNever && holder != kNoId && holder != a.transfer) {
        report_.violate(
            1, now_,
            std::string(what) + " memory that transfer " + std::to_string(holder) + " has by now: " + who);
    } else {
        report_.violate(2, now_,
                        std::string(what) + " memory after the attempt " +
                            (t.released != kNever ? "was released: " : "counted as fenced: ") + who);
    }
    return false;
}

void World::link_state(uint32_t node, const Action& a) {
    uint32_t wire = nodes_[node].wires[a.link];
    HealthRecord h{now_, wire, a.state, false, false};
    bool bad = a.state == LinkState::suspect || a.state == LinkState::down;
    h.alarm = bad && wires_[wire].ailing == 0;
    if (a.state == LinkState::down) {
        h.last = true;
        for (uint32_t other : sessions_[wires_[wire].session].wires) {
            LinkState s = nodes_[node].sprayer->view(wires_[other].link).state;
            if (other != wire && (s == LinkState::up || s == LinkState::probation)) h.last = false;
        }
    }
    report_.health.push_back(h);
}

void World::transfer_over(uint32_t id, Fate fate, uint16_t reason) {
    TransferRecord& t = report_.transfers[id];
    const WorkloadSpec& load = workloads_[t.workload].spec;
    if (t.fate != Fate::live) return report_.violate(9, now_, "a transfer ended twice");
    t.fate = fate;
    t.reason = reason;
    t.ended = now_;
    --live_;
    std::erase(live_transfers_, id);
    settle_penalties(id);
    if (fate == Fate::done && transfers_[id].left != 0)
        report_.violate(9, now_, "transfer " + std::to_string(id) + " is done without all of its bytes");
    if (fate != Fate::failed || reason == static_cast<uint16_t>(Code::unregistered)) return;
    bool due = load.deadline != kNever && now_ >= t.submitted + load.deadline;
    if (!due)
        report_.violate(
            3, now_,
            "transfer " + std::to_string(id) + " failed before its deadline: code " + std::to_string(reason));
}

void World::transfer_released(uint32_t id) {
    TransferRecord& t = report_.transfers[id];
    if (t.released != kNever || t.fate == Fate::live)
        return report_.violate(2, now_, "transfer " + std::to_string(id) + " was released out of turn");
    t.released = now_;
    uint32_t worker = transfers_[id].worker;
    workers_[worker].holder = kNoId;
    again(worker);
}

}  // namespace tent::sim
