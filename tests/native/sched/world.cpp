#include "world.h"

#include <doctest/doctest.h>

#include "base/status.h"
#include "sched/math.h"

namespace tent::sched::test {

RailId World::rail(uint64_t rate, bool known) {
    rails_.push_back({rate, 0});
    RailId id = sprayer.add_rail({"rail", known ? rate : 0});
    REQUIRE(id == rails_.size() - 1);
    return id;
}

LinkId World::link(RailId local, RailId remote, Nanos latency, PeerId peer, uint8_t tier,
                   uint32_t max_attempts) {
    LinkSpec spec;
    spec.peer = peer;
    spec.local = local;
    spec.remote = remote;
    spec.latency = latency;
    spec.tier = tier;
    spec.max_attempts = max_attempts;
    links_.push_back({local, remote, latency, false, false, {}});
    LinkId id = sprayer.add_link(spec, now);
    REQUIRE(id == links_.size() - 1);
    return id;
}

FlowId World::flow(uint64_t bytes, Priority priority, Nanos deadline, PeerId peer, const SliceShape* shape,
                   std::vector<LinkId> allowed) {
    FlowId id = next_flow_++;
    FlowRecord& f = flows[id];
    f.bytes = bytes;
    f.submitted = now;
    f.deadline = deadline;
    FlowSpec spec;
    spec.peer = peer;
    spec.bytes = bytes;
    spec.priority = priority;
    spec.deadline = deadline;
    spec.shape = shape;
    spec.allowed = std::move(allowed);
    sprayer.add_flow(id, spec, now);
    check();
    return id;
}

void World::cancel(FlowId id) {
    FlowRecord& f = flows[id];
    if (!f.over()) {
        f.cancelled = true;
        f.ended = now;
    }
    sprayer.cancel_flow(id, now);
    check();
}

void World::heal(LinkId link) {
    LinkModel& l = links_[link];
    l.stalled = false;
    for (AttemptId id : std::exchange(l.held, {})) at(now, {Event::Kind::end, id, 0});
}

void World::cut(LinkId link) {
    LinkModel& l = links_[link];
    l.cut = true;
    sprayer.link_down(link, now);
    std::vector<AttemptId> lost;
    for (const auto& [id, p] : posted_) {
        if (p.link == link) lost.push_back(id);
    }
    for (AttemptId id : lost) {
        if (posted_.contains(id)) end(id, Outcome::link_error);
    }
    settle();
}

void World::check() {
    if (checking) REQUIRE(sprayer.accounts_balance());
}

void World::settle() {
    Action a;
    uint64_t actions = 0;
    while (sprayer.next(a, now)) {
        perform(a);
        check();
        REQUIRE(++actions < 1'000'000);
    }
}

void World::perform(const Action& a) {
    if (tracing) {
        trace.push_back(std::to_string(now) + " " + std::to_string(static_cast<int>(a.kind)) + " f" +
                        std::to_string(a.flow) + " a" + std::to_string(a.attempt) + " l" +
                        std::to_string(a.link) + " [" + std::to_string(a.begin) + "," +
                        std::to_string(a.end) + ") s" + std::to_string(static_cast<int>(a.state)) + " p" +
                        std::to_string(a.predicted) + " r" + std::to_string(a.reason));
    }
    switch (a.kind) {
        case Action::Kind::post:
            return perform_post(a);
        case Action::Kind::revoke: {
            ++revokes;
            auto it = posted_.find(a.attempt);
            REQUIRE(it != posted_.end());
            REQUIRE_FALSE(it->second.revoked);
            it->second.revoked = true;
            at(now + 2 * links_[a.link].latency + kMicrosecond, {Event::Kind::revoked, a.attempt, 0});
            return;
        }
        case Action::Kind::flow_done: {
            FlowRecord& f = flows.at(a.flow);
            REQUIRE_FALSE(f.over());
            REQUIRE(f.landed_bytes == f.bytes);
            f.done = true;
            f.ended = now;
            return;
        }
        case Action::Kind::flow_failed: {
            FlowRecord& f = flows.at(a.flow);
            REQUIRE_FALSE(f.over());
            f.failed = true;
            f.reason = a.reason;
            f.ended = now;
            if (a.reason == static_cast<uint16_t>(Code::deadline)) REQUIRE(now >= f.deadline);
            return;
        }
        case Action::Kind::flow_released: {
            FlowRecord& f = flows.at(a.flow);
            REQUIRE(f.over());
            REQUIRE(f.released == kNever);   // once
            REQUIRE(f.outstanding.empty());  // invariant 2
            f.released = now;
            return;
        }
        case Action::Kind::probe:
            ++probes;
            probed[a.link].push_back(now);
            at(now + 2 * links_[a.link].latency, {Event::Kind::probe, a.link, 0});
            return;
        case Action::Kind::link_state:
            states[a.link].emplace_back(now, a.state);
            return;
    }
}

void World::perform_post(const Action& a) {
    ++posts;
    FlowRecord& f = flows.at(a.flow);
    REQUIRE_FALSE(f.over());
    REQUIRE(a.begin < a.end);
    REQUIRE(a.end <= f.bytes);
    // A destination has one landing attempt at a time, and nothing that has landed is sent again.
    for (AttemptId id : f.outstanding) {
        const Posted& p = posted_.at(id);
        REQUIRE((a.end <= p.begin || a.begin >= p.end));
    }
    auto after = f.landed.lower_bound(a.end);
    if (after != f.landed.begin()) REQUIRE(std::prev(after)->second <= a.begin);
    REQUIRE(posted_.size() == sprayer.outstanding() - 1);

    LinkModel& l = links_[a.link];
    f.outstanding.insert(a.attempt);
    Posted& p = posted_[a.attempt];
    p = {a.flow, a.link, a.begin, a.end, now, 0, false};
    if (l.cut) return end(a.attempt, Outcome::link_error);
    if (refuse_ != 0) return end(a.attempt, Outcome::refused, std::exchange(refuse_, 0));
    Nanos arrives = now + l.latency;
    Nanos last = 0;
    auto serve = [&](RailModel& r) {
        r.free_at = std::max(r.free_at, arrives) + time_of(a.end - a.begin, r.rate);
        last = std::max(last, r.free_at);
    };
    serve(rails_[l.local]);
    if (l.remote != l.local) serve(rails_[l.remote]);
    p.ends = last + l.latency;
    at(p.ends, {Event::Kind::end, a.attempt, 0});
    if (reports_progress) {
        uint64_t half = (a.end - a.begin) / 2;
        at(p.ends - time_of(half, std::min(rails_[l.local].rate, rails_[l.remote].rate)),
           {Event::Kind::progress, a.attempt, half});
    }
}

void World::land(FlowRecord& f, uint64_t begin, uint64_t end) {
    f.landed[begin] = end;
    f.landed_bytes += end - begin;
}

void World::end(AttemptId id, Outcome outcome, uint16_t reason) {
    Posted p = posted_.at(id);
    posted_.erase(id);
    FlowRecord& f = flows.at(p.flow);
    f.outstanding.erase(id);
    links_[p.link].held.erase(id);
    if (outcome == Outcome::done) {
        carried[p.link] += p.end - p.begin;
        if (!f.over()) land(f, p.begin, p.end);
    }
    sprayer.attempt_ended(id, outcome, reason, now);
    check();
}

void World::handle(const Event& e) {
    if (e.kind == Event::Kind::probe) {
        const LinkModel& l = links_[e.id];
        sprayer.link_probe(static_cast<LinkId>(e.id), !l.cut && !l.stalled, now);
        return check();
    }
    auto it = posted_.find(e.id);
    if (it == posted_.end()) return;
    LinkModel& l = links_[it->second.link];
    switch (e.kind) {
        case Event::Kind::end:
            if (l.stalled) {
                l.held.insert(e.id);
                return;
            }
            return end(e.id, Outcome::done);
        case Event::Kind::progress:
            if (!l.stalled) sprayer.attempt_progress(e.id, e.value, now);
            return check();
        case Event::Kind::revoked:
            return end(e.id, Outcome::revoked);
        case Event::Kind::probe:
            return;
    }
}

bool World::step() {
    settle();
    Nanos wake = sprayer.next_wakeup();
    Nanos event = events_.empty() ? kNever : events_.begin()->first.first;
    Nanos when = std::min(wake, event);
    if (when == kNever) return false;
    now = std::max(now, when);
    if (event <= wake) {
        Event e = events_.begin()->second;
        events_.erase(events_.begin());
        handle(e);
    } else {
        sprayer.tick(now);
        check();
    }
    settle();
    return true;
}

void World::run(Nanos until) {
    settle();
    while (sprayer.flows() != 0) {
        Nanos event = events_.empty() ? kNever : events_.begin()->first.first;
        if (std::min(event, sprayer.next_wakeup()) > until) {
            now = until;
            return;
        }
        if (!step()) return;
    }
}

}  // namespace tent::sched::test
