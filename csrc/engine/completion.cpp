// How transfers end (result, then release) and how grants do.
#include <unistd.h>

#include <algorithm>

#include "base/fork_guard.h"
#include "base/switches.h"
#include "engine/engine.h"

namespace tent::engine {

void Engine::finish(const std::shared_ptr<Transfer>& t, Status result, RangeState rest) {
    if (t->done()) return;
    for (uint32_t i = 0; i < t->ranges(); ++i) {
        if (t->state(i) != RangeState::pending) continue;
        if (result.ok()) result = {Code::internal, "a range was never moved"};
        if (rest == RangeState::failed) {
            t->fail_range(i, result);
        } else {
            t->set(i, rest);
        }
    }
    bool good = result.ok() && t->errors_.empty();
    if (t->doubt_) {
        // A second reading is part of the transfer that it is for.
    } else if (good) {
        ++counters_.completed;
        (t->op_ == Op::read ? counters_.bytes_read : counters_.bytes_written) += t->total_;
        if (t->has_notify_) t->peer_->notify(std::move(t->notify_));
    } else if (rest == RangeState::cancelled) {
        ++counters_.cancelled;
    } else {
        ++counters_.failed;
    }
    for (const auto& e : t->errors_)
        counters_.check_failures += e.status.code() == Code::check_failed ? 1 : 0;
    t->result_ = std::move(result);
    t->finished_at_ = monotonic_now();
    t->done_.store(true, std::memory_order_release);
    if (t->event_) {
        uint64_t one = 1;
        [[maybe_unused]] ssize_t n = ::write(t->event_.get(), &one, sizeof one);
    }
    wake_followers();
    if (t->has_callback_.load()) {
        {
            std::lock_guard lock(news_mutex_);
            finished_.push_back(t->id_);
        }
        news_cv_.notify_all();
    }
}

void Engine::release(const std::shared_ptr<Transfer>& t) {
    if (t->released()) return;
    destinations_.leave(t->destination_space_, t->destinations_);
    for (SegmentId id : t->used_) {
        if (auto s = registry_.find(id)) --s->transfers;
    }
    auto keep = t;
    if (!t->doubt_) ++counters_.released;
    transfers_.erase(t->id_);
    std::erase(waiting_, keep);
    keep->released_.store(true, std::memory_order_release);
    wake_followers();
    if (keep->doubt_) read_again_ended(*keep);
}

bool Engine::cancel(Transfer& t) {
    std::lock_guard token(token_);
    if (t.done()) return false;
    auto self = t.shared_from_this();
    finish(self, {Code::cancelled, "cancelled by the caller"}, RangeState::cancelled);
    if (t.reading_again_) {
        stop_reading_again(t);
        pump();
    }
    if (t.in_sprayer_) {
        sprayer_.cancel_flow(t.id_, monotonic_now());
        pump();
    } else if (std::find(waiting_.begin(), waiting_.end(), self) != waiting_.end()) {
        release(self);
    }
    return true;
}

void Engine::peer_died(Peer& peer) {
    Nanos now = monotonic_now();
    live_peers_.erase(peer.index());
    std::vector<std::shared_ptr<Transfer>> hit;
    for (const auto& [id, t] : transfers_) {
        if (t->peer_.get() == &peer) hit.push_back(t);
    }
    for (const auto& t : hit) {
        if (!t->in_sprayer_) {
            if (std::find(waiting_.begin(), waiting_.end(), t) == waiting_.end()) continue;  // runs inline
            finish(t, peer.why_dead(), RangeState::failed);
            release(t);
            continue;
        }
        if (t->op_ == Op::read) {
            finish(t, peer.why_dead(), RangeState::failed);
        } else if (!t->done()) {
            t->fail_when_released_ = true;
            t->result_ = peer.why_dead();
        }
        sprayer_.cancel_flow(t->id_, now);
    }
}

// ---- segments

Result<std::shared_ptr<Segment>> Engine::allocate(uint64_t bytes, uint64_t extent, const std::string& name,
                                                  Rights exposed) {
    if (Status s = usable(); !s.ok()) return s;
    // Without the loop token: leases go on while the kernel clears what a store takes.
    auto made = Registry::make(bytes, extent, name, exposed);
    if (!made.ok()) return made.status();
    std::lock_guard token(token_);
    return registry_.enter(std::move(*made));
}

Result<std::shared_ptr<Segment>> Engine::add(uint8_t* base, uint64_t bytes, const std::string& name,
                                             Rights exposed, bool writable, uint64_t extent) {
    if (Status s = usable(); !s.ok()) return s;
    std::lock_guard token(token_);
    return registry_.add(base, bytes, name, exposed, writable, extent);
}

void Engine::revoke_grant(Segment& s) {
    if (s.revoked) return;
    s.revoked = true;
    if (s.face != nullptr) s.face->alive.store(0, std::memory_order_seq_cst);
    offers_.memory_gone(s);
    for (auto& [id, session] : sessions_) session->revoke_segment(s);
    Nanos now = monotonic_now();
    std::vector<std::shared_ptr<Transfer>> users;
    for (const auto& [id, t] : transfers_) {
        if (std::find(t->used_.begin(), t->used_.end(), s.id) != t->used_.end()) users.push_back(t);
    }
    for (const auto& t : users) {
        finish(t, {Code::segment_gone, "segment '" + s.name + "' was unregistered"}, RangeState::failed);
        if (t->in_sprayer_) {
            sprayer_.cancel_flow(t->id_, now);
        } else if (std::find(waiting_.begin(), waiting_.end(), t) != waiting_.end()) {
            release(t);
        }
    }
    pump();
}

// Receives and sends happen under the loop token only: once its sessions have dropped theirs, none is under
// way.
void Engine::revoke_offer(Segment& view) {
    view.revoked = true;
    for (auto& [id, session] : sessions_) session->revoke_segment(view);
}

bool Engine::segment_idle(const Segment& s) const {
    if (s.transfers != 0) return false;
    for (const auto& peer : peers_) {
        if (peer && peer->touches(s.base, s.length)) return false;
    }
    for (const auto& [id, session] : sessions_) {
        if (session->touches(s.id, s.base, s.length)) return false;
    }
    return true;
}

// What a peer's adapter, or ours, may touch of it is over when its registrations are.
bool Engine::adapters_let_go(const Segment& s) {
    return !fabric_ || fabric_->memory().forget(s.id);
}

transport::rdma::Region Engine::region_of(const Segment& s) const {
    transport::rdma::Region r;
    r.segment = s.id;
    r.base = s.base;
    r.length = s.length;
    r.writable = s.writable;
    r.remote = s.exposed;
    // An adapter does not ask what is lent to whom: what is lent is written over other links.
    if (s.lender && protection_on(Protection::grant))
        r.remote = allows(r.remote, Op::read) ? Rights::read : Rights::none;
    return r;
}

bool Engine::RegionsOfEngine::region_at(const uint8_t* address, transport::rdma::Region& out) const {
    const Segment* s = engine.registry_.locate(address, 1);
    if (s == nullptr) return false;
    out = engine.region_of(*s);
    return true;
}

Status Engine::unregister(SegmentId id, Nanos timeout) {
    Nanos until = monotonic_now() + timeout;
    std::shared_ptr<Segment> s;
    {
        std::lock_guard token(token_);
        s = registry_.find(id);
        if (!s) return {Code::segment_gone, "no such segment: it was unregistered before"};
        if (fork_generation() != born_) return {Code::forked, "this engine belongs to the parent process"};
        revoke_grant(*s);
    }
    for (Nanos pause = 20 * kMicrosecond;; pause = std::min<Nanos>(pause * 2, kMillisecond)) {
        {
            std::lock_guard token(token_);
            if (segment_idle(*s) && adapters_let_go(*s)) {
                if (lender_ == s->lender) lender_.reset();
                registry_.remove(id);
                return Status::good();
            }
        }
        if (monotonic_now() >= until) {
            return {Code::busy,
                    "segment '" + s->name +
                        "' is still inside a peer's or our own attempt: keep the memory and try again"};
        }
        poller_.wake();
        timespec nap{0, pause};
        nanosleep(&nap, nullptr);
    }
}

}  // namespace tent::engine
