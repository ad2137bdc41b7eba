// Building a world and running it.
#include "transport/sim/world.h"

namespace tent::sim {

World::World(const Options& options) : options_(options), weather_(options.seed, 1) {
    options_.bin = std::max<Nanos>(options_.bin, kMicrosecond);
    options_.check_every = std::max<uint64_t>(options_.check_every, 1);
    options_.warm += kStart;
}
World::~World() = default;

uint32_t World::add_node(const NodeSpec& spec) {
    Node n;
    n.spec = spec;
    n.sprayer = std::make_unique<sched::Sprayer>(options_.sched);
    nodes_.push_back(std::move(n));
    return static_cast<uint32_t>(nodes_.size() - 1);
}

uint32_t World::add_switch(const SwitchSpec& spec) {
    Switch s;
    s.spec = spec;
    s.server.start(spec.rate, 0, 0);
    switches_.push_back(s);
    return static_cast<uint32_t>(switches_.size() - 1);
}

uint32_t World::add_rail(const RailSpec& spec) {
    Rail r;
    r.spec = spec;
    uint64_t rate = sched::mul_div(spec.rate, spec.reach_ppm, 1'000'000);
    r.out.start(rate, spec.burst, spec.line);
    r.in.start(rate, spec.burst, spec.line);
    r.responder = std::make_unique<proto::Responder>(std::max<uint64_t>(options_.sched.slice_min, 1 << 20));
    rails_.push_back(std::move(r));
    auto id = static_cast<uint32_t>(rails_.size() - 1);
    nodes_[spec.node].own.push_back(id);
    return id;
}

void World::add_workload(const WorkloadSpec& spec) {
    workloads_.push_back({spec, Random(options_.seed, 1000 + workloads_.size()), 0});
}

void World::add_churn(const ChurnSpec& spec) {
    Churn c;
    c.spec = spec;
    c.random = Random(options_.seed, 1'000'000 + churns_.size());
    churns_.push_back(std::move(c));
}

uint32_t World::session_for(uint32_t from, uint32_t to) {
    auto [it, fresh] = session_of_.emplace(std::pair{from, to}, static_cast<uint32_t>(sessions_.size()));
    if (fresh) {
        sessions_.emplace_back();
        sessions_.back().from = from;
        sessions_.back().to = to;
        nodes_[from].sessions.push_back(it->second);
        connect(it->second);
    }
    return it->second;
}

// The links of a pair: rails of one network, the same index first; or each with each.
void World::connect(uint32_t id) {
    Session& s = sessions_[id];
    Node& from = nodes_[s.from];
    const Node& to = nodes_[s.to];
    auto rail_spec = [&](uint32_t r, uint64_t share) {
        const RailSpec& spec = rails_[r].spec;
        sched::RailSpec out;
        out.name = nodes_[spec.node].spec.name + "/" + spec.name;
        out.rate_Bps = spec.known ? sched::mul_div(spec.rate, share, 1'000'000) : 0;
        return out;
    };
    if (from.rails.empty())
        for (uint32_t r : from.own)
            from.rails.push_back(from.sprayer->add_rail(rail_spec(r, rails_[r].spec.reach_ppm)));
    for (size_t j = 0; j < to.own.size(); ++j) {
        const RailSpec& far = rails_[to.own[j]].spec;
        RailId remote = from.sprayer->add_rail(rail_spec(to.own[j], far.reach_ppm));
        for (size_t i = 0; i < from.own.size(); ++i) {
            const RailSpec& near = rails_[from.own[i]].spec;
            if (near.network != far.network || (!options_.crossed && i != j)) continue;
            auto w = static_cast<uint32_t>(wires_.size());
            wires_.emplace_back();
            Wire& wire = wires_.back();
            wire.session = id;
            wire.near = from.own[i];
            wire.far = to.own[j];
            wire.latency = near.latency + far.latency + near.reach_latency + far.reach_latency;
            uint64_t rate = std::min(rails_[wire.near].out.base(), rails_[wire.far].in.base());
            // Long enough to cost little, short enough to share: what passes in 20 microseconds.
            wire.piece = std::clamp<uint64_t>(sched::bytes_in(20 * kMicrosecond, rate), 4096, 256 << 10);
            wire.window = (4 << 20) + 4 * wire.piece;  // socket buffers
            wire.names = {"sim", from.spec.name, near.name, to.spec.name, far.name};
            sched::LinkSpec spec;
            spec.peer = s.to;
            spec.local = from.rails[i];
            spec.remote = remote;
            spec.latency = wire.latency;
            spec.affinity = std::max(near.tier, far.tier);
            spec.name = near.name + "-" + far.name;
            wire.link = from.sprayer->add_link(spec, now_);
            for (auto& way : wire.lanes) way.fill(kNoId);
            from.wires.resize(wire.link + 1, kNoId);
            from.wires[wire.link] = w;
            s.wires.push_back(w);
            rails_[wire.near].wires.push_back(w);
            rails_[wire.far].wires.push_back(w);
            fresh_lanes(w);
        }
    }
    s.owner.emplace(options_.lease, now_);
    s.writer.emplace(options_.lease, now_);
    ++report_.sessions;
    if (s.wires.empty()) return;
    s.heard_on = s.wires.front();
    agenda_.add(now_ + options_.heartbeat, What::heartbeat, id);
    agenda_.add(s.writer->fenced_at(), What::lease_due, id);
}

void World::start() {
    started_ = true;
    for (uint32_t i = 0; i < workloads_.size(); ++i) {
        WorkloadSpec& spec = workloads_[i].spec;
        spec.start += kStart;
        if (spec.stop != kNever) spec.stop += kStart;
        uint32_t session = session_for(spec.from, spec.to);
        for (uint32_t n = 0; n < spec.concurrent; ++n) {
            Worker w;
            w.workload = i;
            w.session = session;
            workers_.push_back(w);
            ++busy_workers_;
            agenda_.add(spec.start, What::submit, static_cast<uint32_t>(workers_.size() - 1));
        }
    }
    place_plan();
}

void World::run(Nanos until) {
    if (!started_) start();
    until = until >= kNever - kStart ? kNever : until + kStart;
    while (!agenda_.empty() && !idle()) {
        if (agenda_.next() > until) {
            now_ = until;
            return;
        }
        Event e = agenda_.take();
        now_ = std::max(now_, e.when);
        ++report_.events;
        touched(static_cast<int>(e.what), e.a, e.b);
        if (!held_by_stop(e)) handle(e);
    }
}

// Everything that happens goes into the digest.
void World::touched(int what, uint64_t a, uint64_t b) {
    report_.digest.add(static_cast<uint64_t>(now_));
    report_.digest.add((static_cast<uint64_t>(what) << 48) ^ a);
    report_.digest.add(b);
}

uint32_t World::node_of(const Event& e) const {
    auto end = [&](uint32_t wire, Way way) {
        const Session& s = sessions_[wires_[wire].session];
        return way == kThere ? s.to : s.from;
    };
    switch (e.what) {
        case What::arrived: {
            const Lane& l = lanes_[pieces_[e.a].lane];
            return end(l.wire, l.way);
        }
        case What::message:
            return end(messages_[e.a].wire, messages_[e.a].way);
        case What::wake:
            return e.a;
        case What::ended:
            return attempts_[e.a].node;
        case What::submit:
            return sessions_[workers_[e.a].session].from;
        case What::cancel:
            return sessions_[transfers_[e.a].session].from;
        case What::heartbeat:
            return sessions_[e.a].to;
        case What::lease_due:
        case What::ask_again:
            return sessions_[e.a].from;
        case What::probed:
        case What::carrier:
            return sessions_[wires_[e.a].session].from;
        case What::granting:
            return unregisters_[e.a].node;
        default:
            return kNoId;  // of the network
    }
}

// A stopped process does nothing; the kernel keeps what comes for it.
bool World::held_by_stop(const Event& e) {
    uint32_t node = node_of(e);
    if (e.what == What::arrived && lanes_[pieces_[e.a].lane].way == kThere) {
        attempts_[pieces_[e.a].attempt].seen +=
            pieces_[e.a].bytes;  // the kernel's to say, whatever the process does
    }
    if (node == kNoId || nodes_[node].stops == 0) return false;
    nodes_[node].inbox.push_back(e);
    return true;
}

void World::handle(const Event& e) {
    switch (e.what) {
        case What::sent:
            return piece_sent(e.a);
        case What::through:
            return piece_through(e.a);
        case What::arrived:
            return piece_arrived(e.a);
        case What::message:
            return message_came(e.a);
        case What::wake: {
            nodes_[e.a].wake_at = kNever;
            sched::Sprayer& s = *nodes_[e.a].sprayer;
            progress(e.a);
            if (now_ >= s.next_wakeup()) s.tick(now_);
            return settle(e.a);
        }
        case What::resume:
            return resume(e.a);
        case What::ended:
            end_attempt(e.a, static_cast<sched::Outcome>(e.b), 0);
            return unhold(e.a);
        case What::submit:
            return submit(e.a);
        case What::cancel: {
            if (report_.transfers[e.a].fate != Fate::live) return;
            uint32_t node = sessions_[transfers_[e.a].session].from;
            transfer_over(e.a, Fate::cancelled, 0);
            nodes_[node].sprayer->cancel_flow(e.a + 1, now_);
            return settle(node);
        }
        case What::fault:
            return planned(e.a);
        case What::churn:
            return churn(e.a, e.b == 1);
        case What::granting:
            return e.b == 1 ? static_cast<void>(nodes_[unregisters_[e.a].node].granted = true)
                            : unregister(unregisters_[e.a].node);
        case What::heartbeat:
            return heartbeat(e.a);
        case What::lease_due:
            return lease_due(e.a);
        case What::ask_again:
            return ask_again(e.a);
        case What::probed:
            if (wires_[e.a].probe != e.b) return;
            nodes_[sessions_[wires_[e.a].session].from].sprayer->link_probe(wires_[e.a].link, false, now_);
            return settle(sessions_[wires_[e.a].session].from);
        case What::carrier:
            return carrier(e.a, e.b == 1);
    }
}

void World::check_accounts(uint32_t node) {
    if (!nodes_[node].sprayer->accounts_balance())
        report_.violate(9, now_, "the accounts of " + nodes_[node].spec.name + " do not balance");
}

const Report& World::finish() {
    report_.end = now_;
    report_.wires.clear();
    report_.hedged = 0;
    for (uint32_t n = 0; n < nodes_.size(); ++n) {
        check_accounts(n);
        report_.hedged += nodes_[n].sprayer->hedged();
    }
    for (const Wire& w : wires_) {
        const Session& s = sessions_[w.session];
        const sched::LinkView v = nodes_[s.from].sprayer->view(w.link);
        if (v.posted != v.used + v.superseded + v.revoked + v.failed + v.outstanding)
            report_.violate(9, now_, "attempts of a link do not add up");
        report_.wires.push_back({nodes_[s.from].spec.name + "/" + rails_[w.near].spec.name + " - " +
                                     nodes_[s.to].spec.name + "/" + rails_[w.far].spec.name,
                                 s.from, v});
    }
    for (const TransferRecord& t : report_.transfers) {
        // Nothing is left that could still end it.
        if (idle() && t.fate == Fate::live) report_.violate(9, now_, "a transfer never ended");
        if (idle() && t.fate != Fate::live && t.released == kNever)
            report_.violate(2, now_, "a transfer was never released");
    }
    return report_;
}

}  // namespace tent::sim
