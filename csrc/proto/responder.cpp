#include "proto/responder.h"

#include <algorithm>
#include <array>
#include <deque>
#include <list>
#include <map>
#include <memory>

namespace tent::proto {
namespace {

struct Waiting {
    ReadRequest request;
    uint64_t done = 0;   // bytes handed out
    uint64_t order = 0;  // of arrival
};

// One session's requests of one class. Connections apart, so that one that takes no bytes costs one look.
struct Turn {
    struct Queue {
        uint64_t connection = 0;
        std::deque<Waiting> requests;
    };
    uint64_t session = 0;
    uint64_t deficit = 0;
    bool credited = false;  // in its present turn
    std::vector<Queue> queues;
};

using Ring = std::list<Turn>;

struct Class {
    Ring ring;  // the front is whose turn it is
    std::map<uint64_t, Ring::iterator> by_session;

    Turn& turn(uint64_t session) {
        auto it = by_session.find(session);
        if (it != by_session.end()) return *it->second;
        ring.emplace_back().session = session;
        by_session.emplace(session, std::prev(ring.end()));
        return ring.back();
    }
    void rotate() {
        ring.front().credited = false;
        ring.splice(ring.end(), ring, ring.begin());
    }
    void remove_if_empty(Ring::iterator it) {
        if (!it->queues.empty()) return;
        by_session.erase(it->session);
        ring.erase(it);
    }
};

Turn::Queue& queue_of(Turn& turn, uint64_t connection) {
    for (Turn::Queue& q : turn.queues)
        if (q.connection == connection) return q;
    return turn.queues.emplace_back(Turn::Queue{connection, {}});
}

}  // namespace

struct Responder::Impl {
    uint64_t chunk;
    uint64_t arrivals = 0;
    size_t waiting = 0;
    std::array<Class, kPriorities> classes;
    std::map<uint64_t, size_t> per_session;

    void forget(uint64_t session, size_t count) {
        waiting -= count;
        auto it = per_session.find(session);
        it->second -= count;
        if (it->second == 0) per_session.erase(it);
    }

    // Removes the requests of `turn` that `gone` names.
    template <class Gone>
    void sweep(Turn& turn, Gone gone) {
        size_t removed = 0;
        for (Turn::Queue& q : turn.queues)
            removed += std::erase_if(q.requests, [&](const Waiting& w) { return gone(w.request); });
        std::erase_if(turn.queues, [](const Turn::Queue& q) { return q.requests.empty(); });
        if (removed > 0) forget(turn.session, removed);
    }

    template <class Gone>
    void sweep_session(uint64_t session, Gone gone) {
        for (Class& c : classes) {
            auto it = c.by_session.find(session);
            if (it == c.by_session.end()) continue;
            Ring::iterator turn = it->second;
            sweep(*turn, gone);
            c.remove_if_empty(turn);
        }
    }

    bool next_of(Class& c, ReadGrant& grant, bool (*ready)(void*, uint64_t), void* context);
    void hand_out(Class& c, Turn::Queue& queue, uint64_t length, ReadGrant& grant);
};

namespace {

// The oldest request that a ready connection waits for.
Turn::Queue* oldest_ready(Turn& turn, bool (*ready)(void*, uint64_t), void* context) {
    Turn::Queue* best = nullptr;
    for (Turn::Queue& q : turn.queues) {
        if (best && best->requests.front().order < q.requests.front().order) continue;
        if (ready(context, q.connection)) best = &q;
    }
    return best;
}

}  // namespace

// Deficit round robin: each turn credits one chunk; as no piece is larger, two looks at each session suffice.
bool Responder::Impl::next_of(Class& c, ReadGrant& grant, bool (*ready)(void*, uint64_t), void* context) {
    for (size_t looks = 2 * c.ring.size(); looks > 0; --looks) {
        Turn& turn = c.ring.front();
        Turn::Queue* queue = oldest_ready(turn, ready, context);
        if (!queue) {
            c.rotate();
            continue;
        }
        const Waiting& w = queue->requests.front();
        uint64_t length = std::min(chunk, w.request.bytes - w.done);
        if (turn.deficit < length && turn.credited) {
            c.rotate();
            continue;
        }
        if (turn.deficit < length) {
            turn.credited = true;
            turn.deficit += chunk;
        }
        turn.deficit -= length;
        hand_out(c, *queue, length, grant);
        return true;
    }
    return false;
}

void Responder::Impl::hand_out(Class& c, Turn::Queue& queue, uint64_t length, ReadGrant& grant) {
    Waiting& w = queue.requests.front();
    grant.request = w.request;
    grant.offset = w.done;
    grant.length = length;
    w.done += length;
    grant.last = w.done == w.request.bytes;
    if (!grant.last) return;
    queue.requests.pop_front();
    Turn& turn = c.ring.front();
    std::erase_if(turn.queues, [](const Turn::Queue& q) { return q.requests.empty(); });
    forget(grant.request.session, 1);
    c.remove_if_empty(c.ring.begin());
}

Responder::Responder(uint64_t chunk) : impl_(std::make_unique<Impl>()) {
    impl_->chunk = std::max<uint64_t>(chunk, 1);
}

Responder::~Responder() = default;

bool Responder::add(const ReadRequest& request) {
    auto priority = static_cast<size_t>(request.priority);
    if (priority >= impl_->classes.size()) return false;
    size_t& count = impl_->per_session[request.session];
    if (count >= kMaxWaiting) return false;
    ++count;
    ++impl_->waiting;
    Turn& turn = impl_->classes[priority].turn(request.session);
    queue_of(turn, request.connection).requests.push_back({request, 0, impl_->arrivals++});
    return true;
}

bool Responder::next(ReadGrant& grant, bool (*ready)(void* context, uint64_t connection), void* context) {
    for (Class& c : impl_->classes)
        if (impl_->next_of(c, grant, ready, context)) return true;
    return false;
}

void Responder::cancel(uint64_t session, AttemptId attempt) {
    impl_->sweep_session(session, [attempt](const ReadRequest& r) { return r.attempt == attempt; });
}

void Responder::drop_connection(uint64_t connection) {
    for (Class& c : impl_->classes) {
        for (auto it = c.ring.begin(); it != c.ring.end();) {
            auto turn = it++;
            impl_->sweep(*turn, [connection](const ReadRequest& r) { return r.connection == connection; });
            c.remove_if_empty(turn);
        }
    }
}

void Responder::drop_session(uint64_t session) {
    impl_->sweep_session(session, [](const ReadRequest&) { return true; });
}

size_t Responder::waiting() const {
    return impl_->waiting;
}

}  // namespace tent::proto
