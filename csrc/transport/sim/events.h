// What will happen, in order: by time, and at one time by when it was arranged.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/clock.h"

namespace tent::sim {

enum class What : uint8_t {
    sent,       // a piece has left its rail (a: piece)
    through,    // it comes to a switch or to the far rail (a: piece)
    arrived,    // it is at its node (a: piece)
    message,    // a control message is at its node (a: message)
    wake,       // a node's sprayer wants to be told the time (a: node)
    resume,     // a lane goes on after a fault (a: lane)
    ended,      // an attempt is over at its own end (a: attempt, b: outcome)
    submit,     // a worker begins a transfer (a: worker)
    cancel,     // (a: transfer)
    fault,      // a planned fault begins or ends (a: fault)
    churn,      // a trouble that comes by chance begins or ends (a: churn, b: 1 begins)
    granting,   // an owner unregisters, or registers again (a: which, b: 1 again)
    heartbeat,  // an owner renews a lease (a: session)
    lease_due,  // a writer looks at its own end of the lease (a: session)
    ask_again,  // revokes that nobody confirmed yet (a: session)
    probed,     // nothing came back in time (a: wire, b: which probe)
    carrier,    // the kernel says that a wire is gone or back (a: wire, b: 1 for back)
};

struct Event {
    Nanos when = 0;
    uint64_t order = 0;
    What what{};
    uint32_t a = 0;
    uint64_t b = 0;
};

class Agenda {
  public:
    bool empty() const { return heap_.empty(); }
    Nanos next() const { return heap_.empty() ? kNever : heap_.front().when; }
    void add(Nanos when, What what, uint32_t a, uint64_t b = 0) {
        if (when == kNever) return;
        heap_.push_back({when, order_++, what, a, b});
        std::push_heap(heap_.begin(), heap_.end(), later);
    }
    Event take() {
        std::pop_heap(heap_.begin(), heap_.end(), later);
        Event e = heap_.back();
        heap_.pop_back();
        return e;
    }

  private:
    static bool later(const Event& x, const Event& y) {
        return x.when != y.when ? x.when > y.when : x.order > y.order;
    }
    std::vector<Event> heap_;
    uint64_t order_ = 0;
};

}  // namespace tent::sim
