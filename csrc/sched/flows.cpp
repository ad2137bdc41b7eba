// Flows: their place in the queues, the bytes that are on no link, and their ends.
#include "base/status.h"
#include "base/switches.h"
#include "sched/core.h"

namespace tent::sched {

void Core::add_flow(FlowId id, const FlowSpec& spec) {
    if (flow_slots_.find(id) != kNoId) return;
    uint32_t slot = flow_pool_.take();
    flow_slots_.insert(id, slot);
    Flow& f = flow_pool_[slot];
    // Lists keep their room.
    std::vector<Span> returned = std::move(f.returned);
    std::vector<LinkId> links = std::move(f.spec.allowed);
    returned.clear();
    f = Flow{};
    f.returned = std::move(returned);
    f.spec.allowed = std::move(links);
    f.id = id;
    f.spec = spec;
    f.spec.priority = std::min(spec.priority, Priority::bulk);
    f.peer = peer_slot(spec.peer);
    // Links that are added later may carry it, too; without the protection only those that are there now.
    if (!protection_on(Protection::join) && spec.allowed.empty()) f.spec.allowed = peers_[f.peer].links;
    std::sort(f.spec.allowed.begin(), f.spec.allowed.end());
    f.order = next_order_++;
    f.last_served = now_;
    ++submitted_;
    if (spec.bytes == 0) {
        ++completed_;
        emit({.kind = Action::Kind::flow_done, .flow = id});
        end_flow(slot);
        return;
    }
    deadlines_.set(slot, spec.deadline);
    add_backlog(peers_[f.peer], f.priority(), spec.bytes);
    enqueue(slot);
}

void Core::set_priority(FlowId id, Priority priority) {
    uint32_t slot = flow_slots_.find(id);
    priority = std::min(priority, Priority::bulk);
    if (slot == kNoId) return;
    Flow& f = flow_pool_[slot];
    if (f.ending || f.spec.priority == priority) return;
    bool queued = f.queued;
    if (queued) dequeue(slot);
    drop_backlog(peers_[f.peer], f.priority(), f.unfinished());
    f.spec.priority = priority;
    add_backlog(peers_[f.peer], f.priority(), f.unfinished());
    if (queued) enqueue(slot);
}

void Core::cancel_flow(FlowId id) {
    uint32_t slot = flow_slots_.find(id);
    if (slot == kNoId || flow_pool_[slot].ending) return;
    ++cancelled_;
    end_flow(slot);
}

void Core::fail_flow(uint32_t slot, uint16_t reason) {
    if (flow_pool_[slot].ending) return;
    ++failed_;
    emit({.kind = Action::Kind::flow_failed, .flow = flow_pool_[slot].id, .reason = reason});
    end_flow(slot);
}

// Nothing more is posted; what is outstanding is revoked. The caller has counted the end.
void Core::end_flow(uint32_t slot) {
    Flow& f = flow_pool_[slot];
    f.ending = true;
    if (f.queued) dequeue(slot);
    deadlines_.set(slot, kNever);
    if (f.unfinished() != 0) drop_backlog(peers_[f.peer], f.priority(), f.unfinished());
    drop_shares(f);
    f.returned.clear();
    f.returned_bytes = 0;
    f.cursor = f.spec.bytes;
    for (uint32_t a = f.first; a != kNoId; a = attempt_pool_[a].flow_next) revoke(a);
    dirty_ = true;
    release_if_over(slot);
}

void Core::release_if_over(uint32_t slot) {
    Flow& f = flow_pool_[slot];
    if (!f.ending || f.attempts != 0) return;
    emit({.kind = Action::Kind::flow_released, .flow = f.id});
    flow_slots_.erase(f.id);
    f.spec.shape = nullptr;
    flow_pool_.give(slot);
}

// By deadline, then arrival. Most flows come with later deadlines than those before them: search from the
// back.
void Core::enqueue(uint32_t slot) {
    Flow& f = flow_pool_[slot];
    Queue& q = peers_[f.peer].queues[static_cast<size_t>(f.priority())];
    uint32_t before = q.last;
    while (before != kNoId) {
        const Flow& b = flow_pool_[before];
        if (b.spec.deadline < f.spec.deadline || (b.spec.deadline == f.spec.deadline && b.order < f.order))
            break;
        before = b.previous;
    }
    f.queued = true;
    f.previous = before;
    f.next = before == kNoId ? q.first : flow_pool_[before].next;
    (f.previous == kNoId ? q.first : flow_pool_[f.previous].next) = slot;
    (f.next == kNoId ? q.last : flow_pool_[f.next].previous) = slot;
    q.unbound += f.unbound();
    ++queued_[static_cast<size_t>(f.priority())];
    dirty_ = true;
}

void Core::dequeue(uint32_t slot) {
    Flow& f = flow_pool_[slot];
    Queue& q = peers_[f.peer].queues[static_cast<size_t>(f.priority())];
    (f.previous == kNoId ? q.first : flow_pool_[f.previous].next) = f.next;
    (f.next == kNoId ? q.last : flow_pool_[f.next].previous) = f.previous;
    f.previous = f.next = kNoId;
    f.queued = false;
    q.unbound -= f.unbound();
    --queued_[static_cast<size_t>(f.priority())];
}

void Core::add_backlog(Peer& p, int priority, uint64_t bytes) {
    if (bytes == 0) return;
    auto c = static_cast<size_t>(priority);
    if (p.unfinished[c] == 0) ++groups_[p.group].active[c];
    p.unfinished[c] += bytes;
    groups_[p.group].unfinished[c] += bytes;
}

void Core::drop_backlog(Peer& p, int priority, uint64_t bytes) {
    if (bytes == 0) return;
    auto c = static_cast<size_t>(priority);
    p.unfinished[c] -= bytes;
    groups_[p.group].unfinished[c] -= bytes;
    if (p.unfinished[c] == 0) --groups_[p.group].active[c];
}

// What goes out next: first what came back, so that the completed prefix grows.
Span Core::next_span(const Flow& f) const {
    if (!f.returned.empty()) return f.returned.front();
    return {f.cursor, f.spec.bytes};
}

// [begin of next_span, end) is taken.
void Core::take_span(Flow& f, uint32_t slot, uint64_t end) {
    Queue& q = peers_[f.peer].queues[static_cast<size_t>(f.priority())];
    uint64_t before = f.unbound();
    if (!f.returned.empty()) {
        Span& s = f.returned.front();
        f.returned_bytes -= end - s.begin;
        s.begin = end;
        if (s.begin == s.end) f.returned.erase(f.returned.begin());
    } else {
        f.cursor = end;
    }
    q.unbound -= before - f.unbound();
    if (f.unbound() == 0) dequeue(slot);
}

void Core::give_back(Flow& f, uint32_t slot, Span span) {
    if (f.ending) return;
    auto at = std::lower_bound(f.returned.begin(), f.returned.end(), span.begin,
                               [](const Span& s, uint64_t begin) { return s.begin < begin; });
    at = f.returned.insert(at, span);
    // Join what touches: one slice may carry it again.
    if (at + 1 != f.returned.end() && at->end == (at + 1)->begin) {
        at->end = (at + 1)->end;
        f.returned.erase(at + 1);
    }
    if (at != f.returned.begin() && (at - 1)->end == at->begin) {
        (at - 1)->end = at->end;
        f.returned.erase(at);
    }
    f.returned_bytes += span.end - span.begin;
    if (f.queued) {
        peers_[f.peer].queues[static_cast<size_t>(f.priority())].unbound += span.end - span.begin;
    } else {
        enqueue(slot);
    }
    dirty_ = true;
}

}  // namespace tent::sched
