// What a checkpoint must be before the sprayer may run on it: a damaged or made-up one leads no index astray,
// overflows no time and ends every walk. That the sums agree is balanced()'s to say, afterwards.
#include <algorithm>
#include <set>

#include "sched/checkpoint.h"
#include "sched/core.h"

namespace tent::sched {

namespace {

constexpr Nanos kLongestSetting = Nanos{1} << 55;

// Which slots of a pool are in use.
std::vector<bool> used_slots(size_t items, const std::vector<uint32_t>& free) {
    std::vector<bool> used(items, true);
    for (uint32_t slot : free) used[slot] = false;
    return used;
}

// A doubly linked list through slots: each entry is `mine` and points back at the one before it. So it ends.
// Adds their number to `count`.
template <class Next, class Previous, class Mine>
bool walk(uint32_t first, uint32_t* last, size_t& count, Next next, Previous previous, Mine mine) {
    uint32_t before = kNoId;
    for (uint32_t i = first; i != kNoId; i = next(i)) {
        if (!mine(i) || previous(i) != before) return false;
        before = i;
        ++count;
    }
    return last == nullptr || before == *last;
}

}  // namespace

bool Checkpoint::sound(const Core& core) {
    const Settings& s = core.settings_;
    // Engines run this policy alone; the others trust what they are told.
    if (s.policy != Policy::water) return false;
    if (s.slice_min == 0 || s.slice_max < s.slice_min || s.window_slices == 0 || s.initial_rate_Bps == 0)
        return false;
    for (Nanos t : {s.suspect_floor, s.probe_interval}) {
        if (t <= 0 || t > kLongestSetting) return false;
    }
    auto is_rail = [&](RailId id) { return id < core.rails_.size(); };
    if (!std::all_of(core.locals_.begin(), core.locals_.end(), is_rail)) return false;
    return sound_links(core) && sound_free(core) && sound_flows(core) && sound_attempts(core) &&
           sound_peers(core);
}

bool Checkpoint::sound_links(const Core& core) {
    const auto& pool = core.attempt_pool_;
    std::vector<bool> used = used_slots(pool.items_.size(), pool.free_);
    size_t seen = 0;
    for (size_t id = 0; id < core.links_.size(); ++id) {
        const Link& l = core.links_[id];
        bool rails = l.spec.local < core.rails_.size() && l.spec.remote < core.rails_.size();
        if (!rails || l.peer >= core.peers_.size()) return false;
        uint32_t last = l.last;
        bool good = walk(
            l.first, &last, seen, [&](uint32_t i) { return pool[i].link_next; },
            [&](uint32_t i) { return pool[i].link_previous; },
            [&](uint32_t i) { return i < used.size() && used[i] && pool[i].link == id; });
        if (!good) return false;
    }
    return seen == pool.live();
}

// What is free is nobody's.
bool Checkpoint::sound_free(const Core& core) {
    for (LinkId id : core.free_links_) {
        if (id >= core.links_.size()) return false;
        const Link& l = core.links_[id];
        if (!l.removed || l.counted || l.first != kNoId || core.checks_.at(id) != kNever) return false;
    }
    auto free = [&](RailId id) { return core.free_rails_.contains(id); };
    for (LinkId id = 0; id < core.links_.size(); ++id) {
        const LinkSpec& spec = core.links_[id].spec;
        if (!core.free_links_.contains(id) && (free(spec.local) || free(spec.remote))) return false;
    }
    if (std::any_of(core.locals_.begin(), core.locals_.end(), free)) return false;
    return std::all_of(core.free_rails_.begin(), core.free_rails_.end(), [&](RailId id) {
        return id < core.rails_.size() && core.rails_[id].links == 0 && core.rails_[id].locals == 0;
    });
}

bool Checkpoint::sound_flows(const Core& core) {
    const auto& pool = core.attempt_pool_;
    std::vector<bool> attempt_used = used_slots(pool.items_.size(), pool.free_);
    std::vector<bool> used = used_slots(core.flow_pool_.items_.size(), core.flow_pool_.free_);
    std::set<FlowId> ids;
    size_t seen = 0;
    for (uint32_t slot = 0; slot < used.size(); ++slot) {
        bool timed = core.deadlines_.at(slot) != kNever;
        if (!used[slot] && timed) return false;
        if (!used[slot]) continue;
        const Flow& f = core.flow_pool_[slot];
        size_t count = 0;
        bool good = walk(
            f.first, nullptr, count, [&](uint32_t i) { return pool[i].flow_next; },
            [&](uint32_t i) { return pool[i].flow_previous; },
            [&](uint32_t i) { return i < attempt_used.size() && attempt_used[i] && pool[i].flow == slot; });
        if (!good || count != f.attempts || !ids.insert(f.id).second) return false;
        seen += count;
        if (f.peer >= core.peers_.size() || core.peers_[f.peer].id != f.spec.peer) return false;
        if (f.spec.priority > Priority::bulk || (f.ending && (f.queued || timed))) return false;
        if (!f.shares.empty()) return false;  // of the other policies
        uint64_t at = 0, returned = 0;
        for (const Span& span : f.returned) {
            if (span.begin < at || span.end <= span.begin) return false;
            at = span.end;
            returned += span.end - span.begin;
        }
        if (at > f.cursor || f.cursor > f.spec.bytes || f.done > f.spec.bytes) return false;
        if (returned != f.returned_bytes) return false;
    }
    return seen == pool.live();
}

bool Checkpoint::sound_attempts(const Core& core) {
    const auto& pool = core.attempt_pool_;
    std::vector<bool> used = used_slots(pool.items_.size(), pool.free_);
    std::set<AttemptId> ids;
    for (uint32_t slot = 0; slot < used.size(); ++slot) {
        if (!used[slot]) continue;
        const Attempt& a = pool[slot];
        bool bytes = a.end > a.begin && a.progress < a.end - a.begin;
        if (!bytes || a.priority < 0 || a.priority >= kPriorities) return false;
        if (a.id >= core.next_attempt_ || !ids.insert(a.id).second) return false;
    }
    return true;
}

bool Checkpoint::sound_peers(const Core& core) {
    const auto& pool = core.flow_pool_;
    std::vector<bool> used = used_slots(pool.items_.size(), pool.free_);
    std::set<PeerId> ids;
    size_t queued = 0, in_queues = 0;
    for (size_t slot = 0; slot < core.peers_.size(); ++slot) {
        const Peer& p = core.peers_[slot];
        auto mine = [&](LinkId id) {
            return id < core.links_.size() && core.links_[id].peer == slot && !core.free_links_.contains(id);
        };
        if (!ids.insert(p.id).second || p.group >= kTiers) return false;
        if (!std::all_of(p.links.begin(), p.links.end(), mine)) return false;
        if (!std::all_of(p.usable.begin(), p.usable.end(), mine)) return false;
        for (int c = 0; c < kPriorities; ++c) {
            Queue q = p.queues[static_cast<size_t>(c)];
            bool good = walk(
                q.first, &q.last, in_queues, [&](uint32_t i) { return pool[i].next; },
                [&](uint32_t i) { return pool[i].previous; },
                [&](uint32_t i) {
                    return i < used.size() && used[i] && pool[i].queued && pool[i].peer == slot &&
                           pool[i].priority() == c;
                });
            if (!good) return false;
        }
    }
    for (uint32_t slot = 0; slot < used.size(); ++slot) queued += used[slot] && pool[slot].queued ? 1 : 0;
    return queued == in_queues;
}

}  // namespace tent::sched
