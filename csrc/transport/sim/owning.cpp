// The end that owns: it answers reads in the responder's order, takes the bytes of writes if lease, attempt
// table and grant allow it, and says so.
#include "base/status.h"
#include "base/switches.h"
#include "transport/sim/world.h"

namespace tent::sim {

void World::asked(const Message& m) {
    Attempt& a = attempts_[m.attempt];
    Session& s = sessions_[wires_[m.wire].session];
    if (m.generation != s.generation || a.cancelled) return;
    Message refusal{.kind = Message::Kind::refused, .way = kBack, .wire = m.wire, .attempt = m.attempt};
    refusal.number = static_cast<uint64_t>(Code::unregistered);
    if (!nodes_[s.to].granted) return tell(refusal);
    proto::ReadRequest r;
    r.session = wires_[m.wire].session;
    r.connection = wires_[m.wire].lanes[kBack][a.interactive];
    r.attempt = m.attempt;
    r.priority = workloads_[report_.transfers[a.transfer].workload].spec.priority;
    r.bytes = a.end - a.begin;
    uint32_t rail = wires_[m.wire].far;
    if (!rails_[rail].responder->add(r)) {
        refusal.number = static_cast<uint64_t>(Code::busy);
        return tell(refusal);
    }
    a.waits = true;
    ++a.references;
    serve(rail);
}

bool World::takes_bytes(void* world, uint64_t lane) {
    const Lane& l = static_cast<World*>(world)->lanes_[lane];
    return l.queue.empty() && !l.closed;
}

void World::serve(uint32_t rail) {
    if (nodes_[rails_[rail].spec.node].stops != 0) return;
    for (proto::ReadGrant g; rails_[rail].responder->next(g, &takes_bytes, this);) {
        auto slot = static_cast<uint32_t>(g.request.attempt);
        send(static_cast<uint32_t>(g.request.connection), {slot, g.length, g.last});
        if (!g.last) continue;
        attempts_[slot].waits = false;
        unhold(slot);
    }
}

// A piece of an answer is about to leave. After unregister the memory is not the owner's to read any more.
void World::owner_gives(Attempt& a, Piece& p) {
    uint32_t owner = sessions_[wires_[a.wire].session].to;
    if (nodes_[owner].granted) return;
    if (protection_on(Protection::grant)) {
        p.scratch = true;
    } else {
        report_.violate(11, now_, "sent from memory after unregister: attempt " + std::to_string(a.id));
    }
}

void World::write_landed(const Piece& p) {
    Attempt& a = attempts_[p.attempt];
    const uint32_t wire = a.wire;
    Session& s = sessions_[wires_[wire].session];
    Message answer{.way = kBack, .wire = wire, .attempt = p.attempt, .generation = a.generation};
    bool ours = a.generation == s.generation;
    if (ours && !s.owner->valid(now_)) {
        ours = false;
        answer.kind = Message::Kind::over;
        tell(answer);
    }
    if (!ours && protection_on(Protection::lease)) {
        a.drained = true;
        ++report_.drained;
        return;
    }
    if (options_.fencing && !s.table.admits(a.id)) {
        a.drained = true;
        ++report_.drained;
        return;
    }
    if (!nodes_[s.to].granted && protection_on(Protection::grant)) {
        ++report_.drained;
        answer.kind = Message::Kind::refused;
        answer.number = static_cast<uint64_t>(Code::unregistered);
        if (!std::exchange(a.drained, true)) tell(answer);
        return;
    }
    if (!nodes_[s.to].granted)
        report_.violate(11, now_, "landed in memory after unregister: attempt " + std::to_string(a.id));
    if (p.scratch) {  // padding of a frame that its sender gave up: takes the place of bytes, and is none
        a.drained = true;
        return;
    }
    if (!may_touch(a, "landed in")) return;
    a.landed += p.bytes;
    landed(p.bytes);
    give_credit(wire, p.bytes);
    if (!p.last || a.drained) return;
    answer.kind = a.bad ? Message::Kind::refused : Message::Kind::placed;
    if (a.bad) answer.number = static_cast<uint64_t>(Code::link_failed);
    tell(answer);
}

void World::give_credit(uint32_t wire, uint64_t bytes) {
    proto::WriterCredits& credits = rails_[wires_[wire].far].credits;
    if (!options_.credits || !credits.received(wire, bytes, now_)) return;
    for (const proto::WriterCredit& c : credits.shares()) {
        auto to = static_cast<uint32_t>(c.connection);
        tell({.kind = Message::Kind::credit, .way = kBack, .wire = to, .number = c.window});
    }
}

// From here on no peer touches this memory and nothing is sent from it.
void World::unregister(uint32_t node) {
    nodes_[node].granted = false;
    for (Session& s : sessions_) {
        if (s.to != node) continue;
        for (uint32_t slot : s.outstanding) {
            Attempt& a = attempts_[slot];
            if (a.op != Op::read) continue;
            Message m{.kind = Message::Kind::refused, .way = kBack, .wire = a.wire, .attempt = slot};
            m.number = static_cast<uint64_t>(Code::unregistered);
            tell(m);
            if (!std::exchange(a.waits, false)) continue;
            rails_[wires_[a.wire].far].responder->cancel(wires_[a.wire].session, slot);
            unhold(slot);
        }
    }
}

}  // namespace tent::sim
