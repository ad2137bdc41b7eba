// What both ends keep of each other: leases and their tokens, revokes until they are confirmed, probes, and
// sessions that end for good and are followed by others.
#include "base/status.h"
#include "transport/sim/world.h"

namespace tent::sim {

using sched::LinkState;
using sched::Outcome;

namespace {
constexpr Nanos kAskAgain = 5 * kMillisecond;
constexpr Nanos kIdleHeartbeat = kSecond;
}  // namespace

void World::message_came(uint32_t slot) {
    Message m = messages_[slot];
    messages_.give(slot);
    touched(0x300 + static_cast<int>(m.kind), m.wire, m.number);
    if (m.way == kThere) {
        sessions_[wires_[m.wire].session].heard_on = m.wire;
        owner_heard(m);
    } else {
        asker_heard(m);
    }
    if (m.attempt != kNoId) unhold(m.attempt);
}

void World::owner_heard(const Message& m) {
    Session& s = sessions_[wires_[m.wire].session];
    switch (m.kind) {
        case Message::Kind::ask:
            return asked(m);
        case Message::Kind::cancel: {
            Attempt& a = attempts_[m.attempt];
            a.cancelled = true;
            if (!std::exchange(a.waits, false)) return;
            rails_[wires_[m.wire].far].responder->cancel(wires_[m.wire].session, m.attempt);
            return unhold(m.attempt);
        }
        case Message::Kind::revoke: {
            if (m.generation != s.generation) return;
            s.table.revoke(m.number);
            s.table.raise_floor(m.floor);
            Message answer = m;
            answer.kind = Message::Kind::revoked;
            answer.way = kBack;
            return tell(answer);
        }
        case Message::Kind::echo:
            if (m.generation == s.generation) s.owner->echoed(m.number, now_);
            return;
        case Message::Kind::probe: {
            Message answer = m;
            answer.kind = Message::Kind::probe_answer;
            answer.way = kBack;
            return tell(answer);
        }
        default:
            return;
    }
}

void World::asker_heard(const Message& m) {
    uint32_t session = wires_[m.wire].session;
    Session& s = sessions_[session];
    switch (m.kind) {
        case Message::Kind::placed:
            return finish_attempt(m.attempt, Outcome::done);
        case Message::Kind::refused: {
            Attempt& a = attempts_[m.attempt];
            a.revoked = true;  // what is still on its way stays out
            auto code = static_cast<Code>(m.number);
            Outcome o = code == Code::unregistered ? Outcome::refused
                        : code == Code::busy       ? Outcome::revoked
                                                   : Outcome::link_error;
            return end_attempt(m.attempt, o, static_cast<uint16_t>(code));
        }
        case Message::Kind::revoked:
            if (m.generation == s.generation) end_attempt(m.attempt, Outcome::revoked, 0);
            return;
        case Message::Kind::token: {
            if (m.generation != s.generation || s.dead) return;
            s.writer->received(m.number, now_);
            Message echo = m;
            echo.kind = Message::Kind::echo;
            echo.way = kThere;
            return tell(echo);
        }
        case Message::Kind::credit:
            nodes_[s.from].sprayer->link_window(wires_[m.wire].link, m.number,
                                                now_ + proto::WriterCredits::kLife, now_);
            return settle(s.from);
        case Message::Kind::over:
            if (m.generation == s.generation && !s.dead) session_lost(session);
            return;
        case Message::Kind::probe_answer: {
            Wire& w = wires_[m.wire];
            if (m.number != w.probe || (w.corrupting != 0 && weather_.chance(500'000))) return;
            sched::Sprayer& sprayer = *nodes_[s.from].sprayer;
            if (sprayer.view(w.link).state != LinkState::down) return;
            ++w.probe;  // answered: its time-out finds another number
            fresh_lanes(m.wire);
            if (s.dead) session_again(session);
            sprayer.link_probe(w.link, true, now_);
            return settle(s.from);
        }
        default:
            return;
    }
}

// ---- leases

void World::heartbeat(uint32_t id) {
    Session& s = sessions_[id];
    bool works = s.transfers != 0 || !s.outstanding.empty();
    agenda_.add(now_ + (works ? options_.heartbeat : kIdleHeartbeat), What::heartbeat, id);
    if (s.dead) return;
    Message m{.kind = Message::Kind::token, .way = kBack, .wire = s.heard_on, .generation = s.generation};
    if (!s.owner->valid(now_)) {
        m.kind = Message::Kind::over;
    } else {
        m.number = s.owner->issue(now_);
    }
    tell(m);
    // Where nothing was heard lately another wire may be better.
    if (works && s.outstanding.empty()) return;
    m.wire = s.wires[s.turn++ % s.wires.size()];
    if (m.wire != s.heard_on) tell(m);
}

void World::lease_due(uint32_t id) {
    Session& s = sessions_[id];
    if (s.dead) return;
    if (now_ >= s.writer->fenced_at()) return session_lost(id);
    agenda_.add(s.writer->fenced_at(), What::lease_due, id);
}

// The owner takes nothing more of this session: what it was asked and did not confirm has failed, for good.
void World::session_lost(uint32_t id) {
    Session& s = sessions_[id];
    s.dead = true;
    ++report_.sessions_lost;
    touched(0x400, id, s.generation);
    sched::Sprayer& sprayer = *nodes_[s.from].sprayer;
    for (uint32_t w : s.wires) sprayer.link_down(wires_[w].link, now_);
    std::vector<uint32_t> lost = s.outstanding;
    for (uint32_t slot : lost) {
        attempts_[slot].revoked = true;
        end_attempt(slot, Outcome::link_error, static_cast<uint16_t>(Code::link_failed));
    }
    settle(sessions_[id].from);
}

void World::session_again(uint32_t id) {
    Session& s = sessions_[id];
    s.dead = false;
    ++s.generation;
    ++report_.sessions;
    s.table = {};
    s.owner.emplace(options_.lease, now_);
    s.writer.emplace(options_.lease, now_);
    agenda_.add(s.writer->fenced_at(), What::lease_due, id);
}

// ---- revokes

void World::revoke_at_owner(uint32_t slot) {
    uint32_t id = wires_[attempts_[slot].wire].session;
    Session& s = sessions_[id];
    AttemptId floor = s.last + 1;
    for (uint32_t other : s.outstanding) {
        if (!attempts_[other].revoked) floor = std::min(floor, attempts_[other].id);
    }
    Message m{.kind = Message::Kind::revoke, .wire = control_wire(s, false), .attempt = slot};
    m.generation = s.generation;
    m.number = attempts_[slot].id;
    m.floor = floor;
    tell(m);
    if (std::exchange(s.asking, true)) return;
    agenda_.add(now_ + kAskAgain, What::ask_again, id);
}

// What was not confirmed is asked on the next wire: revokes are idempotent.
void World::ask_again(uint32_t id) {
    Session& s = sessions_[id];
    s.asking = false;
    if (s.dead) return;
    uint32_t wire = control_wire(s, true);
    for (uint32_t slot : s.outstanding) {
        const Attempt& a = attempts_[slot];
        if (!a.revoked || a.op != Op::write) continue;
        Message m{.kind = Message::Kind::revoke, .wire = wire, .attempt = slot, .generation = s.generation};
        m.number = a.id;
        tell(m);
        s.asking = true;
    }
    if (s.asking) agenda_.add(now_ + kAskAgain, What::ask_again, id);
}

// The best wire for a control message, by what the one who asks believes; `next`: another than last time.
uint32_t World::control_wire(Session& s, bool next) {
    if (next) ++s.turn;
    const sched::Sprayer& sprayer = *nodes_[s.from].sprayer;
    for (LinkState wanted : {LinkState::up, LinkState::probation, LinkState::suspect}) {
        for (size_t i = 0; i < s.wires.size(); ++i) {
            uint32_t w = s.wires[(s.turn + i) % s.wires.size()];
            if (sprayer.view(wires_[w].link).state == wanted) return w;
        }
    }
    return s.wires[s.turn % s.wires.size()];
}

void World::probe(uint32_t id) {
    Wire& w = wires_[id];
    ++report_.probes;
    Message m{.kind = Message::Kind::probe, .wire = id};
    m.number = ++w.probe;
    tell(m);
    agenda_.add(now_ + options_.sched.probe_interval / 2, What::probed, id, w.probe);
}

}  // namespace tent::sim
