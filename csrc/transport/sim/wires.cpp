// How bytes travel: a frame is cut into pieces, each leaves by its rail, passes its switch and comes in by
// the rail at the other end, in the order in which its connection sent it. What a dead wire holds up arrives
// later.
#include "transport/sim/world.h"

namespace tent::sim {

bool World::dead(const Wire& w, Way way) const {
    const Rail& out = rails_[way == kThere ? w.near : w.far];
    const Rail& in = rails_[way == kThere ? w.far : w.near];
    return w.dead[way] != 0 || out.dead_out != 0 || in.dead_in != 0;
}

uint32_t World::new_lane(uint32_t wire, Way way) {
    Lane l;
    l.wire = wire;
    l.way = way;
    lanes_.push_back(std::move(l));
    wires_[wire].made.push_back(static_cast<uint32_t>(lanes_.size() - 1));
    return static_cast<uint32_t>(lanes_.size() - 1);
}

// A connection of its own for what is interactive. An old connection sends no more; what it has sent may come
// yet.
void World::fresh_lanes(uint32_t wire) {
    for (Way way : {kThere, kBack}) {
        for (size_t i = 0; i < 2; ++i) {
            uint32_t old = wires_[wire].lanes[way][i];
            if (old != kNoId) {
                lanes_[old].closed = true;
                rails_[wires_[wire].far].responder->drop_connection(old);
                for (const Frame& f : std::exchange(lanes_[old].queue, {})) unhold(f.attempt);
            }
            wires_[wire].lanes[way][i] = new_lane(wire, way);
        }
    }
}

void World::send(uint32_t lane, const Frame& frame) {
    ++attempts_[frame.attempt].references;
    if (lanes_[lane].closed) return unhold(frame.attempt);
    lanes_[lane].queue.push_back(frame);
    pump(lane);
}

// The next piece goes to the rail, if the connection may have more under way.
void World::pump(uint32_t id) {
    Lane& l = lanes_[id];
    Wire& w = wires_[l.wire];
    if (l.sending || l.queue.empty() || l.untaken >= w.window) return;
    Frame& f = l.queue.front();
    Attempt& a = attempts_[f.attempt];
    uint32_t slot = pieces_.take();
    Piece& p = pieces_[slot];
    p = Piece{};
    p.lane = id;
    p.number = l.pieces++;
    p.attempt = f.attempt;
    p.bytes = std::min(f.left, w.piece);
    // What was given up is padded to its end with bytes from nowhere: its source may have gone.
    p.scratch = l.way == kThere ? a.revoked && options_.fencing : a.cancelled;
    a.started = true;
    if (l.way == kThere && !p.scratch) may_touch(a, "sent from");
    if (l.way == kBack) owner_gives(a, p);
    f.left -= p.bytes;
    p.last = f.left == 0 && f.last;
    p.bad = a.bad;
    ++a.references;
    l.sending = true;
    l.untaken += p.bytes;
    Rail& rail = rails_[l.way == kThere ? w.near : w.far];
    p.first = now_;
    Nanos out = rail.out.serve(now_, p.bytes);
    if (w.factor > 1) {
        Nanos slow = sched::time_of(p.bytes * w.factor, rail.out.rate());
        out = std::max(out, std::max(w.free[l.way], now_) + slow);
        w.free[l.way] = out;
    }
    agenda_.add(out, What::sent, slot);
}

void World::piece_sent(uint32_t slot) {
    uint32_t lane = pieces_[slot].lane;
    Lane& l = lanes_[lane];
    l.sending = false;
    if (!l.queue.empty() && l.queue.front().left == 0) {
        uint32_t attempt = l.queue.front().attempt;
        l.queue.pop_front();
        unhold(attempt);
    }
    travel(slot);
    pump(lane);
    if (lanes_[lane].way == kBack && lanes_[lane].queue.empty()) serve(wires_[lanes_[lane].wire].far);
}

// In the order in which the connection sent them, whatever had come how far.
void World::hold(Lane& l, uint32_t slot) {
    auto at = std::find_if(l.held.begin(), l.held.end(),
                           [&](uint32_t other) { return pieces_[other].number > pieces_[slot].number; });
    l.held.insert(at, slot);
}

void World::travel(uint32_t slot) {
    Piece& p = pieces_[slot];
    Lane& l = lanes_[p.lane];
    const Wire& w = wires_[l.wire];
    if (dead(w, l.way) || !l.held.empty()) {
        hold(l, slot);
        return;
    }
    Nanos late = w.jitter > 0 ? static_cast<Nanos>(weather_.below(static_cast<uint64_t>(w.jitter))) : 0;
    // Sent again until it comes, each time twice as late.
    Nanos again = 4 * w.latency + kMillisecond;
    for (int n = 0; n < 8 && weather_.chance(w.loss); ++n, again *= 2) late += again;
    Nanos came = std::max(l.last_arrival, now_ + w.latency + late);
    l.last_arrival = came;
    p.first += came - now_;
    agenda_.add(came, What::through, slot);
}

void World::piece_through(uint32_t slot) {
    Piece& p = pieces_[slot];
    Lane& l = lanes_[p.lane];
    const Wire& w = wires_[l.wire];
    if (dead(w, l.way) || !l.held.empty()) {
        hold(l, slot);
        return;
    }
    Rail& out = rails_[l.way == kThere ? w.near : w.far];
    Rail& in = rails_[l.way == kThere ? w.far : w.near];
    if (!p.switched) {
        p.switched = true;
        Nanos done = now_;
        for (uint32_t via :
             {out.spec.through, in.spec.through == out.spec.through ? kNoId : in.spec.through}) {
            if (via == kNoId) continue;
            Switch& s = switches_[via];
            done = std::max(done, s.server.serve(p.first + (done - now_), p.bytes)) + s.spec.latency;
        }
        if (done > now_) {
            p.first += done - now_;
            l.last_arrival = std::max(l.last_arrival, done);
            return agenda_.add(done, What::through, slot);
        }
    }
    if (p.number != l.passed) {  // one before it was held up, and comes now
        l.last_arrival = std::max(l.last_arrival, now_) + 1;
        return agenda_.add(l.last_arrival, What::through, slot);
    }
    ++l.passed;
    Nanos taken = std::max(now_, in.in.serve(p.first, p.bytes));
    agenda_.add(taken, What::arrived, slot);
}

void World::piece_arrived(uint32_t slot) {
    Piece p = pieces_[slot];
    uint32_t wire = lanes_[p.lane].wire;
    sessions_[wires_[wire].session].heard_on = wire;
    if (lanes_[p.lane].way == kThere) {
        write_landed(p);
    } else {
        answer_landed(p);
    }
    let_go(slot);
}

// The receiver has taken it: the connection may send more.
void World::let_go(uint32_t slot) {
    Piece p = pieces_[slot];
    pieces_.give(slot);
    lanes_[p.lane].untaken -= p.bytes;
    unhold(p.attempt);
    pump(p.lane);
}

// The fault is over: what was held up comes now, one after the other, and the connection goes on.
void World::resume(uint32_t id) {
    Lane& l = lanes_[id];
    l.resuming = false;
    if (dead(wires_[l.wire], l.way)) return;
    for (uint32_t slot : std::exchange(l.held, {})) {
        Piece& p = pieces_[slot];
        Nanos came = std::max(l.last_arrival, now_) + wires_[l.wire].latency;
        l.last_arrival = came;
        p.first = came;
        p.switched = true;
        agenda_.add(came, What::through, slot);
    }
    pump(id);
}

// A fault on it has begun or ended. `late`: how long what was held up may still take.
void World::wire_changed(uint32_t id, Nanos late) {
    auto wait = [&] {
        return late > 0 ? static_cast<Nanos>(weather_.below(static_cast<uint64_t>(late))) : 0;
    };
    for (Way way : {kThere, kBack}) {
        if (dead(wires_[id], way)) continue;
        for (uint32_t m : std::exchange(wires_[id].waiting[way], {}))
            agenda_.add(now_ + wait() + wires_[id].latency, What::message, m);
    }
    for (uint32_t lane : wires_[id].made) {
        Lane& l = lanes_[lane];
        if (l.held.empty() || l.resuming || dead(wires_[id], l.way)) continue;
        l.resuming = true;
        agenda_.add(now_ + wait(), What::resume, lane);
    }
}

// Control messages are small: they wait for nothing but the wire.
void World::tell(const Message& message) {
    uint32_t slot = messages_.take();
    messages_[slot] = message;
    if (message.attempt != kNoId) ++attempts_[message.attempt].references;
    Wire& w = wires_[message.wire];
    if (dead(w, message.way)) {
        w.waiting[message.way].push_back(slot);
        return;
    }
    Nanos late = w.jitter > 0 ? static_cast<Nanos>(weather_.below(static_cast<uint64_t>(w.jitter))) : 0;
    Nanos again = 4 * w.latency + kMillisecond;
    for (int n = 0; n < 8 && weather_.chance(w.loss); ++n, again *= 2) late += again;
    agenda_.add(now_ + w.latency + late, What::message, slot);
}

void World::unhold(uint32_t attempt) {
    if (--attempts_[attempt].references == 0) attempts_.give(attempt);
}

}  // namespace tent::sim
