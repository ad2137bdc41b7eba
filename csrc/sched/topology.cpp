// Rails, links and peers, and what they carry together: capacity belongs to rails.
#include "sched/core.h"

namespace tent::sched {

namespace {
constexpr uint64_t kMostShared = uint64_t{1} << 40;  // bytes that one word of others may stand for
constexpr Nanos kLongestShare = 5 * kMillisecond;    // without a word of our own

// In the place of one that was forgotten, or behind all.
template <class T>
uint32_t place(T item, std::vector<T>& all, std::set<uint32_t>& free) {
    if (free.empty()) {
        all.push_back(std::move(item));
        return static_cast<uint32_t>(all.size() - 1);
    }
    uint32_t id = *free.begin();
    free.erase(free.begin());
    all[id] = std::move(item);
    return id;
}
}  // namespace

Core::Core(const Settings& settings) : settings_(settings) {
    settings_.slice_min = std::max<uint64_t>(settings_.slice_min, 1);
    settings_.slice_max = std::max(settings_.slice_max, settings_.slice_min);
    settings_.window_slices = std::max<uint64_t>(settings_.window_slices, 1);
    settings_.initial_rate_Bps = std::max<uint64_t>(settings_.initial_rate_Bps, 1);
    settings_.suspect_floor = std::max<Nanos>(settings_.suspect_floor, kMicrosecond);
    settings_.probe_interval = std::max<Nanos>(settings_.probe_interval, kMicrosecond);
    reissue_credit_ = 2 * settings_.slice_max;
}

RailId Core::add_rail(const RailSpec& spec) {
    Rail r;
    r.name = spec.name;
    bool known = spec.rate_Bps != 0;
    r.nominal = spec.rate_Bps;
    r.model.start(known ? spec.rate_Bps : settings_.initial_rate_Bps, known);
    return place(std::move(r), rails_, free_rails_);
}

bool Core::forget_rail(RailId id) {
    if (id >= rails_.size() || free_rails_.contains(id) || rails_[id].links != 0) return false;
    for (LinkId i = 0; i < links_.size(); ++i) {
        const LinkSpec& spec = links_[i].spec;
        if ((spec.local == id || spec.remote == id) && !free_links_.contains(i)) return false;
    }
    rails_[id] = {};
    free_rails_.insert(id);
    return true;
}

uint32_t Core::peer_slot(PeerId id) {
    auto [it, fresh] = peer_slots_.emplace(id, static_cast<uint32_t>(peers_.size()));
    if (fresh) {
        peers_.emplace_back();
        peers_.back().id = id;
    }
    return it->second;
}

LinkId Core::add_link(const LinkSpec& spec) {
    Link l;
    l.spec = spec;
    // A rail nobody named is the link's own.
    auto nobodys = [&](RailId id) { return id >= rails_.size() || free_rails_.contains(id); };
    if (nobodys(l.spec.local)) l.spec.local = add_rail({spec.name + " (local)", 0});
    if (nobodys(l.spec.remote)) l.spec.remote = add_rail({spec.name + " (remote)", 0});
    l.peer = peer_slot(spec.peer);
    l.latency.start(std::max<Nanos>(2 * spec.latency, 0));
    l.path.start(1, false);
    l.quiet_since = now_;
    l.quiet_lag = lag_;
    LinkId id = place(std::move(l), links_, free_links_);
    Link& link = links_[id];
    each_rail(link, [](Rail& r) { ++r.links; });
    if (rails_[link.spec.local].locals++ == 0) locals_.push_back(link.spec.local);
    link.pace = Pace(link.rate);
    peers_[link.peer].links.push_back(id);
    count_link(id, true);
    if (!rails_[link.spec.local].model.proven() || !rails_[link.spec.remote].model.proven())
        link.ramp = first_ramp();
    set_state(id, LinkState::up);
    return id;
}

void Core::remove_link(LinkId id) {
    if (id >= links_.size() || links_[id].removed) return;
    Link& l = links_[id];
    l.removed = true;
    go_down(id);
    each_rail(l, [](Rail& r) { --r.links; });
    if (--rails_[l.spec.local].locals == 0) std::erase(locals_, l.spec.local);
    checks_.set(id, kNever);
    std::erase(peers_[l.peer].links, id);
    std::erase(peers_[l.peer].usable, id);
    topology_changed();
}

bool Core::forget_link(LinkId id) {
    if (id >= links_.size() || free_links_.contains(id)) return false;
    const Link& l = links_[id];
    if (!l.removed || l.first != kNoId) return false;
    for (size_t i = 0; i < actions_.size(); ++i) {
        const Action& a = actions_.at(i);
        bool of_link = a.kind == Action::Kind::probe || a.kind == Action::Kind::link_state;
        if (of_link && a.link == id) return false;
    }
    // What it was is kept until another one takes its place: sums are taken over all.
    free_links_.insert(id);
    return true;
}

void Core::own_lag(Nanos lag) {
    if (lag <= 0) return;
    lag_ += lag;
    for (Rail& r : rails_) r.model.stalled(now_ + lag);
    for (Link& l : links_) l.path.stalled(now_ + lag);
}

void Core::link_window(LinkId id, uint64_t bytes, Nanos until) {
    if (id >= links_.size()) return;
    links_[id].window = bytes;
    links_[id].window_until = until;
    dirty_ = true;
}

bool Core::other_usable(LinkId id) const {
    for (LinkId other : peers_[links_[id].peer].links) {
        if (other != id && usable(links_[other])) return true;
    }
    return false;
}

void Core::topology_changed() {
    ++version_;
    dirty_ = true;
}

uint64_t Core::link_rate(const Link& l) const {
    uint64_t rate = std::min(rails_[l.spec.local].model.rate(now_), rails_[l.spec.remote].model.rate(now_));
    if (l.path_rate != 0) rate = std::min(rate, l.path_rate);
    return std::max<uint64_t>(rate, 1);
}

void Core::set_rate(Link& l, uint64_t rate) {
    if (l.rate != rate) {
        l.rate = rate;
        l.pace = Pace(rate);
    }
    set_pipe(l);
}

// A rail's pipe only ever grows between refreshes: it serves a test that may be too hopeful.
void Core::set_pipe(Link& l) {
    l.pipe = bytes_in(l.latency.get(), l.rate);
    each_rail(l, [&](Rail& r) { r.pipe = std::max(r.pipe, l.pipe); });
}

void Core::refresh(Peer& p) {
    if (p.refreshed == version_) return;
    p.refreshed = version_;
    p.usable.clear();
    for (LinkId id : p.links) {
        if (usable(links_[id])) p.usable.push_back(id);
    }
    if (p.usable.empty()) {  // better a suspect than nobody
        for (LinkId id : p.links) {
            if (links_[id].state == LinkState::suspect) p.usable.push_back(id);
        }
    }
    std::sort(p.usable.begin(), p.usable.end(), [&](LinkId a, LinkId b) {
        uint8_t ta = links_[a].spec.tier, tb = links_[b].spec.tier;
        return ta != tb ? ta < tb : a < b;
    });
    p.capacities.clear();
    for (LinkId id : p.usable) {
        Link& l = links_[id];
        set_rate(l, link_rate(l));
        each_rail(l, [&](Rail& r) { r.unfilled = r.model.rate(now_); });
    }
    // Filling links one after the other, in the order of ids, is exact where every local rail reaches every
    // remote one (the lesser of the two sums) and where each reaches its own.
    for (LinkId id : p.usable) {
        Link& l = links_[id];
        if (p.capacities.empty() || p.capacities.back().tier != l.spec.tier) {
            p.capacities.push_back({l.spec.tier, 0, {}, l.latency.get()});
        }
        Capacity& c = p.capacities.back();
        uint64_t got = l.rate;
        each_rail(l, [&](Rail& r) { got = std::min(got, r.unfilled); });
        each_rail(l, [&](Rail& r) { r.unfilled -= got; });
        c.rate += got;
        c.latency = std::min(c.latency, l.latency.get());
    }
    for (Capacity& c : p.capacities) {
        c.rate = std::max<uint64_t>(c.rate, 1);
        c.pace = Pace(c.rate);
    }
    set_group(p, p.capacities.empty() ? kTiers - 1 : std::min<size_t>(p.capacities.front().tier, kTiers - 1));
}

void Core::refresh_all() {
    if (now_ >= refresh_due_) {  // rates that nothing was heard of drift back
        refresh_due_ = add_time(now_, 200 * kMillisecond);
        ++version_;
    }
    if (groups_refreshed_ == version_) return;
    groups_refreshed_ = version_;
    for (Rail& r : rails_) r.pipe = 0;
    for (Peer& p : peers_) refresh(p);
    for (Group& g : groups_) g.rate = 0;
    for (Rail& r : rails_) r.in_groups = 0;
    for (const Peer& p : peers_) {
        for (LinkId id : p.usable) {
            size_t tier = std::min<size_t>(links_[id].spec.tier, kTiers - 1);
            Rail& r = rails_[links_[id].spec.local];
            if ((r.in_groups & (1u << tier)) != 0) continue;
            r.in_groups |= 1u << tier;
            groups_[tier].rate += r.model.rate(now_);
        }
    }
    for (Group& g : groups_) g.pace = Pace(std::max<uint64_t>(g.rate, 1));
}

void Core::set_group(Peer& p, size_t group) {
    if (p.group == group) return;
    for (int c = 0; c < kPriorities; ++c) {
        auto i = static_cast<size_t>(c);
        if (p.unfinished[i] == 0) continue;
        groups_[p.group].unfinished[i] -= p.unfinished[i];
        --groups_[p.group].active[i];
        groups_[group].unfinished[i] += p.unfinished[i];
        ++groups_[group].active[i];
    }
    p.group = group;
}

void Core::count_link(LinkId id, bool counted) {
    Link& l = links_[id];
    if (l.counted == counted) return;
    l.counted = counted;
    each_rail(l, [&](Rail& r) {
        for (size_t c = 0; c < kPriorities; ++c) {
            r.load.bytes[c] += counted ? l.load.bytes[c] : -l.load.bytes[c];
            r.load.attempts[c] += counted ? l.load.attempts[c] : -l.load.attempts[c];
        }
    });
}

void Core::load_add(Link& l, int priority, uint64_t bytes) {
    auto c = static_cast<size_t>(priority);
    auto add = [&](InFlight& load) {
        load.bytes[c] += bytes;
        ++load.attempts[c];
    };
    add(l.load);
    if (l.counted) each_rail(l, [&](Rail& r) { add(r.load); });
}

void Core::load_less(Link& l, int priority, uint64_t bytes, bool attempt) {
    auto c = static_cast<size_t>(priority);
    auto less = [&](InFlight& load) {
        load.bytes[c] -= bytes;
        if (attempt) --load.attempts[c];
    };
    less(l.load);
    if (l.counted) each_rail(l, [&](Rail& r) { less(r.load); });
}

// Bytes have arrived over a link (its load is already less): evidence for its rails and for the path itself.
void Core::delivered(LinkId id, uint64_t bytes, bool more) {
    Link& l = links_[id];
    uint64_t before = link_rate(l);
    Nanos latency = l.latency.get();
    each_rail(l, [&](Rail& r) {
        r.delivered += bytes;
        // What arrived meanwhile at others of this host, by what was last said of them, is rate that the rail
        // has.
        Nanos since = std::min(now_ - std::exchange(r.last_delivery, now_), kLongestShare);
        uint64_t with = r.others_rate == 0 ? 0 : bytes_in(since, r.others_rate);
        if (r.sampled_link != id && r.sampled_link != kNoId) r.several = true;
        r.sampled_link = id;
        auto verdict = r.model.deliver(bytes + with, now_, r.load.all() != 0 || more, latency);
        if (verdict == RateModel::Verdict::nothing) return;
        // One link of several saying that its rail is slow may mean its other end: the path takes the blame.
        if (verdict == RateModel::Verdict::low && (r.links == 1 || r.several)) r.model.believe_low();
        r.several = false;
        r.sampled_link = kNoId;
    });
    judge_path(l, l.path.deliver(bytes, now_, more, latency));
    uint64_t after = link_rate(l);
    if (after > before + before / 32 || after + before / 32 < before) topology_changed();
}

// Engines of one host share their rails: what the others have in flight is ahead of us, and what arrives at
// them while we are busy, too, is rate that the rail has.
void Core::rail_shared(RailId id, uint64_t in_flight, uint64_t arrived) {
    if (id >= rails_.size()) return;
    Rail& r = rails_[id];
    if (in_flight < r.others) dirty_ = true;
    r.others = std::min(in_flight, kMostShared);
    arrived = std::min(arrived, kMostShared);
    Nanos span = now_ - std::exchange(r.told_at, now_);
    if (span > 0) r.others_rate = rate_of(arrived, span);
    if (r.load.all() != 0) r.elsewhere += arrived;
}

// A path is slower than its rails only if both had room to spare while it was measured.
void Core::judge_path(Link& l, RateModel::Verdict verdict) {
    if (verdict == RateModel::Verdict::nothing) return;
    const Rail& a = rails_[l.spec.local];
    const Rail& b = rails_[l.spec.remote];
    Nanos span = now_ - l.marked_at;
    bool shared = a.links > 1 || b.links > 1;
    if (shared && l.marked_at != 0 && span > 0) {
        auto busy = [&](const Rail& r, uint64_t mark) {
            return rate_of(r.carried() - mark, span) >= mul_div(r.model.rate(now_), 7, 10);
        };
        if (busy(a, l.local_mark) || busy(b, l.remote_mark)) {
            l.path_rate = 0;
            l.path_lows = 0;
        } else if (++l.path_lows >= 2) {
            if (verdict == RateModel::Verdict::low) l.path.believe_low();
            l.path_rate = l.path.measured();
        }
    }
    l.marked_at = now_;
    l.local_mark = a.carried();
    l.remote_mark = b.carried();
}

}  // namespace tent::sched
