// Progress: who holds the loop token turns events into sprayer events, and the sprayer's actions into
// postings.
#include <algorithm>
#include <set>

#include "base/fork_guard.h"
#include "engine/door.h"
#include "engine/engine.h"

namespace tent::engine {

using sched::Action;
using sched::Outcome;

namespace {
constexpr Nanos kIdleTick = 100 * kMillisecond;

// Between two looks. Not sched_yield: on a busy machine that gives away whole time slices, milliseconds each,
// and a spin is over in some dozen microseconds anyway.
void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// How long the progress thread stays away after a caller led: the next wait of that caller leads again, and a
// second thread woken by the same events would only be in its way. Short: a caller that has left for good
// wakes nobody.
constexpr Nanos kLeaderPause = 200 * kMicrosecond;
// After this the progress thread sleeps until the caller says that it leads no more.
constexpr Nanos kLongLead = kMillisecond;
}  // namespace

void Engine::loop() {
    Poller::Batch batch;
    Nanos spin_until = 0;
    while (!stop_) {
        Nanos before = monotonic_now();
        if (Nanos pause = others_lead(before); pause > 0) {
            stay_away(before, pause);
            continue;
        }
        // What has just come is often followed by more, and waking a core that has gone to sleep costs more
        // than the answer.
        bool spins = before < std::min(spin_until, next_wakeup_.load());
        Nanos timeout = spins ? 0 : std::clamp<Nanos>(next_wakeup_.load() - before, 0, kIdleTick);
        poller_.wait(batch, timeout);
        if (spins && batch.count == 0) {
            relax();
            continue;
        }
        if (others_lead(monotonic_now()) > 0) continue;  // level-triggered: the leader sees it, too
        std::lock_guard token(token_);
        Nanos late = monotonic_now() - before - timeout;  // whatever came meanwhile: we were not there
        lag_ = late > 2 * kMillisecond ? late : 0;
        if (lag_ > 0) sprayer_.own_lag(lag_);
        cycle(&batch);
        if (batch.count > 0) spin_until = worked_at_ + settings_.spin;
    }
}

// For how long the progress thread has nothing to do because a caller leads, or did so a moment ago.
Nanos Engine::others_lead(Nanos now) const {
    if (leading_.load(std::memory_order_acquire)) return kLeaderPause;
    Nanos until = led_at_.load(std::memory_order_relaxed) + kLeaderPause;
    return std::clamp<Nanos>(until - now, 0, kLeaderPause);
}

void Engine::stay_away(Nanos now, Nanos pause) {
    if (leading_.load() && now - leads_since_.load(std::memory_order_relaxed) > kLongLead) {
        std::unique_lock lock(away_mutex_);
        away_ = true;
        away_cv_.wait_for(lock, std::chrono::nanoseconds(kIdleTick),
                          [this] { return !leading_.load() || stop_.load(); });
        away_ = false;
        return;
    }
    timespec nap{0, pause};
    nanosleep(&nap, nullptr);
}

void Engine::stop_leading() {
    led_at_.store(monotonic_now(), std::memory_order_relaxed);
    leading_.store(false);
    if (!away_.load()) return;
    std::lock_guard lock(away_mutex_);
    away_cv_.notify_one();
}

void Engine::cycle(const Poller::Batch* batch) {
    pumping_ = true;
    if (batch != nullptr) poller_.dispatch(*batch);
    pumping_ = false;
    Nanos now = monotonic_now();
    if (now >= next_tick_ || now >= wake_at_) tick(now);
    pump();
    next_wakeup_.store(next_wakeup(now));
}

Nanos Engine::next_wakeup(Nanos now) {
    Nanos next = std::min({sprayer_.next_wakeup(), wake_at_, next_tick_});
    return std::max(next, now);
}

void Engine::tick(Nanos now) {
    wake_at_ = kNever;
    Nanos lease_now = boottime_now();
    door_->tick(now);
    bool busy = !transfers_.empty();
    for (auto it = sessions_.begin(); it != sessions_.end();) {
        it->second->tick(now, lease_now);
        busy = busy || it->second->busy(now);
        if (it->second->over()) {
            if (lender_) lender_->writer_gone(it->second->writer());
            observers_.session_over(it->first);
            it = sessions_.erase(it);
        } else {
            ++it;
        }
    }
    for (size_t i = 0; i < peers_.size(); ++i) {
        auto p = peers_[i];
        if (!p) continue;
        p->tick(now, lease_now);
        if (p->dead() && p->quiet() && forget(*p)) peers_[i].reset();
    }
    std::vector<std::shared_ptr<Transfer>> waiting = waiting_;
    for (const auto& t : waiting) {
        if (now < t->deadline_) {
            wake_at(t->deadline_);
            continue;
        }
        finish(t,
               {Code::deadline,
                "no link to node '" + t->peer_->descriptor().name + "' came up before the deadline"},
               RangeState::failed);
        release(t);
    }
    observers_.tick(now);
    offers_.tick(lease_now);
    make_room(now);
    next_tick_ = now + (busy ? kBusyTick : kIdleTick);
}

void Engine::drain_copies() {
    while (auto job = copier_->take_done()) {
        bool owned = false;
        for (auto& p : peers_) {
            if (p && p->shm() == job->owner && p->shm() != nullptr) {
                p->shm()->on_job(*job);
                owned = true;
                break;
            }
        }
        if (owned) continue;
        for (auto& [id, s] : sessions_) {
            if (s.get() == job->owner) s->on_job(*job);
        }
    }
}

void Engine::pump() {
    if (pumping_) return;  // called from inside: the outer one goes on
    pumping_ = true;
    Action action;
    do {
        drain_copies();
        Nanos now = monotonic_now();
        bool due = now >= sprayer_.next_wakeup();
        if (due || now - progressed_at_ >= kMillisecond) report_progress(now);
        share_rails(now);
        if (due) sprayer_.tick(now);
        while (sprayer_.next(action, now)) perform(action);
        for (auto& p : peers_) {
            if (p) p->flush();
        }
        responders_.serve();
        for (auto& [id, s] : sessions_) s->flush();
    } while (copier_->has_done());
    pumping_ = false;
}

// What the kernel knows of attempts under way, so that a slow link is told from a dead one.
void Engine::report_progress(Nanos now) {
    progressed_at_ = now;
    if (posted_.empty()) return;
    for (auto& p : peers_) {
        if (p) p->report_progress();
    }
}

void Engine::attempt_progress(AttemptId id, uint64_t bytes) {
    // Stamped after the kernel was asked: a thread held up in between must not make a link look fast.
    sprayer_.attempt_progress(id, bytes, monotonic_now());
}

void Engine::perform(const Action& a) {
    auto it = transfers_.find(a.flow);
    std::shared_ptr<Transfer> t = it == transfers_.end() ? nullptr : it->second;
    switch (a.kind) {
        case Action::Kind::post:
            return post(a);
        case Action::Kind::revoke: {
            auto p = posted_.find(a.attempt);
            if (p != posted_.end()) p->second->revoke(a.attempt);
            return;
        }
        case Action::Kind::flow_done:
            if (t && !t->done() && !t->doubted_.empty()) {
                t->reading_again_ = true;
                if (read_again(doubt(t, t->doubted_))) return;
                t->reading_again_ = false;
                for (uint32_t i : t->doubted_) t->fail_check(i);
            }
            if (t)
                finish(t, t->errors_.empty() ? Status::good() : t->errors_.front().status,
                       RangeState::failed);
            return;
        case Action::Kind::flow_failed: {
            if (!t) return;
            Code code = code_from_wire(a.reason);
            std::string what = code == Code::deadline ? "the transfer did not finish before its deadline"
                                                      : "the transfer failed";
            finish(t, {code, what + " (node '" + t->peer_->descriptor().name + "')"}, RangeState::failed);
            return;
        }
        case Action::Kind::flow_released:
            if (!t) return;
            t->in_sprayer_ = false;
            if (t->reading_again_) return;
            if (t->fail_when_released_ && !t->done()) finish(t, Status(t->result_), RangeState::failed);
            release(t);
            return;
        case Action::Kind::probe: {
            Peer* p = a.link < link_peer_.size() ? link_peer_[a.link] : nullptr;
            if (p != nullptr) p->probe(a.link);
            return;
        }
        case Action::Kind::link_state: {
            Peer* p = a.link < link_peer_.size() ? link_peer_[a.link] : nullptr;
            if (p != nullptr) p->link_state(a.link, a.state);
            if (a.state == sched::LinkState::down) note_fault(a.link);
            return;
        }
    }
}

void Engine::post(const Action& a) {
    auto it = transfers_.find(a.flow);
    Peer* peer = a.link < link_peer_.size() ? link_peer_[a.link] : nullptr;
    if (it == transfers_.end() || peer == nullptr) {
        sprayer_.attempt_ended(a.attempt, Outcome::link_error, 0, monotonic_now());
        return;
    }
    Peer::AttemptRecord r;
    r.transfer = it->second;
    r.begin = a.begin;
    r.end = a.end;
    r.link = a.link;
    if (!repost(*peer, a.attempt, std::move(r))) {
        sprayer_.attempt_ended(a.attempt, Outcome::link_error, static_cast<uint16_t>(Code::link_failed),
                               monotonic_now());
    }
}

// Posts what is still wanted of an attempt. False: its link cannot take it.
bool Engine::repost(Peer& peer, AttemptId id, Peer::AttemptRecord r) {
    uint64_t bytes = r.transfer->pieces(r.begin, r.end, r.exact, pieces_, local_, r.ranges);
    if (bytes == 0) {  // every range of it was refused
        sprayer_.attempt_ended(id, Outcome::done, 0, monotonic_now());
        return true;
    }
    Priority priority = r.transfer->priority_;
    posted_[id] = peer.shared_from_this();
    Status s = peer.post(id, std::move(r), pieces_, local_, bytes, priority);
    if (s.ok()) return true;
    posted_.erase(id);
    return false;
}

void Engine::attempt_ended(AttemptId id, transport::End end, Status status, uint32_t piece) {
    auto p = posted_.find(id);
    if (p == posted_.end()) return;
    std::shared_ptr<Peer> peer = std::move(p->second);
    posted_.erase(p);
    auto it = peer->attempts().find(id);
    if (it == peer->attempts().end()) return;
    Peer::AttemptRecord r = std::move(it->second);
    peer->attempts().erase(it);
    Nanos now = monotonic_now();
    note_work(now);
    auto reason = static_cast<uint16_t>(status.code());
    switch (end) {
        case transport::End::done:
            if (!r.transfer->done()) {
                if (r.transfer->op_ == Op::read) r.transfer->carried(r.begin, r.end, r.link);
                r.transfer->landed(r.begin, r.end);
            }
            sprayer_.attempt_ended(id, Outcome::done, 0, now);
            return;
        case transport::End::link:
            sprayer_.attempt_ended(id, Outcome::link_error, reason, now);
            return;
        case transport::End::revoked:
            sprayer_.attempt_ended(id, Outcome::revoked, reason, now);
            return;
        case transport::End::range:
            on_range_refused(*peer, id, std::move(r), status, piece);
    }
}

// The owner refused a piece: its range fails alone, the rest of the slice is posted again.
void Engine::on_range_refused(Peer& peer, AttemptId id, Peer::AttemptRecord r, const Status& status,
                              uint32_t piece) {
    Nanos now = monotonic_now();
    if (r.transfer->done()) {
        sprayer_.attempt_ended(id, Outcome::revoked, 0, now);
        return;
    }
    if (status.code() == Code::busy || status.code() == Code::cancelled) {
        // Not the link's fault: the bytes go back and are posted again.
        sprayer_.attempt_ended(id, Outcome::revoked, static_cast<uint16_t>(status.code()), now);
        return;
    }
    bool whole = piece >= r.ranges.size();
    if (!r.exact && !whole) {
        r.exact = true;  // pieces were merged: ask again, range by range
    } else {
        for (uint32_t range : r.ranges) {
            if (whole || range == r.ranges[piece]) r.transfer->fail_range(range, status);
        }
    }
    if (!repost(peer, id, std::move(r))) sprayer_.attempt_ended(id, Outcome::link_error, 0, now);
}

void Engine::channel_up(transport::Channel* channel) {
    for (auto& p : peers_) {
        if (p && p->owns(channel)) return p->channel_up(channel);
    }
}

void Engine::channel_down(transport::Channel* channel, const Status& why) {
    for (auto& p : peers_) {
        if (p && p->owns(channel)) return p->channel_down(channel, why);
    }
}

LinkId Engine::add_link(const sched::LinkSpec& spec, Peer* peer) {
    LinkId id = sprayer_.add_link(spec, monotonic_now());
    if (link_peer_.size() <= id) link_peer_.resize(id + 1, nullptr);
    link_peer_[id] = peer;
    return id;
}

void Engine::link_down(LinkId link) {
    sprayer_.link_down(link, monotonic_now());
}
void Engine::link_asleep(LinkId link) {
    sprayer_.link_asleep(link, monotonic_now());
}
void Engine::remove_link(LinkId link) {
    sprayer_.remove_link(link, monotonic_now());
    link_peer_[link] = nullptr;
}
// What the sprayer keeps of a peer that is gone: links, their ids, rails. False: something of it is under
// way.
bool Engine::forget(Peer& peer) {
    auto of_it = [&](const auto& t) { return t.second->peer_.get() == &peer; };
    if (std::any_of(transfers_.begin(), transfers_.end(), of_it)) return false;
    if (!peer.forget_links()) return false;
    for (Peer*& owner : link_peer_) {
        if (owner == &peer) owner = nullptr;
    }
    if (remote_rails_.size() >= rails_to_tidy_) forget_rails();
    return true;
}

// Rails are remembered for nodes that come back, but not those of all nodes that ever were.
void Engine::forget_rails() {
    std::set<RailId> used;  // those of links that have not come up yet, too
    for (const auto& p : peers_) {
        if (!p || p->dead()) continue;
        for (const Peer::Link& l : p->links()) used.insert(l.remote);
    }
    for (auto it = remote_rails_.begin(); it != remote_rails_.end();) {
        bool gone = !used.contains(it->second) && sprayer_.forget_rail(it->second);
        it = gone ? remote_rails_.erase(it) : std::next(it);
    }
    rails_to_tidy_ = remote_rails_.size() + kMostRemembered;
}

void Engine::link_probe(LinkId link, bool good) {
    sprayer_.link_probe(link, good, monotonic_now());
}

// ---- waiting

// The caller drives the loop until the flag it waits for is set: no hand-off between threads for a small
// transfer.
void Engine::lead(const std::atomic<bool>& flag, Nanos until) {
    Poller::Batch batch;
    Nanos spin_until = monotonic_now() + settings_.spin;
    while (!flag.load(std::memory_order_acquire)) {
        bool helped = copier_->help();
        if (helped || copier_->has_done()) {
            std::lock_guard token(token_);
            pump();
            continue;
        }
        Nanos now = monotonic_now();
        if (now >= until) return;
        Nanos timeout = now < spin_until
                            ? 0
                            : std::clamp<Nanos>(std::min(next_wakeup_.load(), until) - now, 0, kIdleTick);
        int n = poller_.wait(batch, timeout);
        if (n == 0 && timeout == 0 && now < next_wakeup_.load()) {
            relax();
            continue;
        }
        std::lock_guard token(token_);
        cycle(&batch);
    }
}

void Engine::wake_followers() {
    if (followers_.load() == 0) return;
    std::lock_guard lock(done_mutex_);
    done_cv_.notify_all();
}

bool Engine::wait_for(const std::atomic<bool>& flag, Nanos timeout) {
    if (flag.load(std::memory_order_acquire)) return true;
    if (fork_generation() != born_) return false;
    Nanos start = monotonic_now();
    Nanos until = timeout > kNever - start ? kNever : start + timeout;
    while (!flag.load(std::memory_order_acquire)) {
        bool nobody = false;
        if (!stop_ && leading_.compare_exchange_strong(nobody, true)) {
            leads_since_.store(monotonic_now(), std::memory_order_relaxed);
            lead(flag, until);
            stop_leading();
            wake_followers();  // one of them leads next
        } else {
            std::unique_lock lock(done_mutex_);
            ++followers_;
            auto pause =
                std::chrono::nanoseconds(std::clamp<Nanos>(until - monotonic_now(), 0, kMillisecond));
            if (!flag.load(std::memory_order_acquire)) done_cv_.wait_for(lock, pause);
            --followers_;
        }
        if (monotonic_now() >= until) break;
    }
    return flag.load(std::memory_order_acquire);
}

bool Engine::wait(Transfer& t, Nanos timeout) {
    return wait_for(t.done_, timeout);
}
bool Engine::wait_released(Transfer& t, Nanos timeout) {
    return wait_for(t.released_, timeout);
}

}  // namespace tent::engine
