// How many connections there may be, and which ones go when there are too many. A node has one control
// connection and some for data to each peer that it uses, and as many from each that uses it; with a thousand
// peers that is more than a process may open. So there is a budget: above it the session that has been idle
// longest is closed, whoever began it, and made again on use. Never one with anything under way, nor one that
// holds a loan of a page store. What progress depends on (a first connection to somebody) is made even above
// the budget, up to what the kernel gives.
#include <sys/resource.h>

#include <algorithm>

#include "base/log.h"
#include "engine/engine.h"

namespace tent::engine {

namespace {
// Of a session that a peer began nobody here knows what it is about to be used for: it is not closed sooner
// than this, lest peers close each other's sessions for ever and nobody gets anything done.
constexpr Nanos kGrace = 200 * kMillisecond;
}  // namespace

size_t Engine::budget(Nanos now) {
    if (settings_.max_connections > 0) return static_cast<size_t>(settings_.max_connections);
    if (now < budget_asked_ + kSecond) return budget_;
    budget_asked_ = now;
    rlimit limit{};
    bool none = getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY;
    budget_ = none ? SIZE_MAX : std::max<size_t>(limit.rlim_cur / 2, 16);
    return budget_;
}

bool Engine::make_room(Nanos now) {
    size_t most = budget(now);
    while (poller_.size() >= most) {
        if (!close_idlest(kGrace)) return false;
    }
    return true;
}

// False: nothing is idle.
bool Engine::close_idlest(Nanos grace) {
    Nanos before = monotonic_now() - grace;
    Peer* peer = nullptr;
    OwnerSession* session = nullptr;
    Nanos oldest = kNever;
    for (const auto& [index, p] : live_peers_) {
        if (p->last_used() < std::min(oldest, before) && p->idle()) {
            oldest = p->last_used();
            peer = p.get();
        }
    }
    for (const auto& [id, s] : sessions_) {
        if (s->last_work() < std::min(oldest, before) && s->idle()) {
            oldest = s->last_work();
            session = s.get();
        }
    }
    if (peer == nullptr && session == nullptr) return false;
    ++counters_.sessions_parked;
    if (session != nullptr) {
        session->park();
    } else {
        peer->park();
    }
    return true;
}

}  // namespace tent::engine
