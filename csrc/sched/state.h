// What the sprayer remembers: rails, links, peers, flows, attempts. Plain data; slots refer to each other by
// index.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "sched/math.h"
#include "sched/model.h"
#include "sched/sprayer.h"

namespace tent::sched {

constexpr size_t kTiers = 4;  // groups of peers that compete for the same kind of rail

using PerClass = std::array<uint64_t, kPriorities>;

// Bytes and attempts in flight, by class.
struct InFlight {
    PerClass bytes{};
    PerClass attempts{};
    // Of class `c` and those above it.
    uint64_t bytes_to(int c) const {
        uint64_t sum = 0;
        for (int i = 0; i <= c; ++i) sum += bytes[static_cast<size_t>(i)];
        return sum;
    }
    uint64_t attempts_to(int c) const {
        uint64_t sum = 0;
        for (int i = 0; i <= c; ++i) sum += attempts[static_cast<size_t>(i)];
        return sum;
    }
    uint64_t all() const { return bytes_to(kPriorities - 1); }
};

struct Rail {
    std::string name;
    RateModel model;
    uint64_t nominal = 0;  // what it was said to carry; 0: unknown
    InFlight load;         // of the links that count
    uint64_t pipe = 0;     // the largest of its links'
    uint64_t delivered = 0;
    // Other engines of this host: bytes in flight over it; what arrives there, by the second, and in all
    // while it was busy here, too.
    uint64_t others = 0, others_rate = 0, elsewhere = 0;
    Nanos told_at = 0;
    uint32_t links = 0;   // that exist
    uint32_t locals = 0;  // of those, the ones that start here
    Nanos last_delivery = 0;
    // Who delivered since the last sample: one link only, or several.
    LinkId sampled_link = kNoId;
    bool several = false;
    uint64_t carried() const { return delivered + elsewhere; }
    // Scratch of refresh(): rate not yet given to a link; the groups it counts in.
    uint64_t unfilled = 0;
    unsigned in_groups = 0;
};

struct Counts {
    uint64_t attempts = 0, bytes = 0;
    void add(uint64_t n) {
        ++attempts;
        bytes += n;
    }
};

struct Link {
    LinkSpec spec;
    uint32_t peer = kNoId;
    LinkState state = LinkState::down;
    bool removed = false;
    bool counted = false;  // its load is part of its rails' load (a stalled link's is not)
    InFlight load;
    uint32_t first = kNoId, last = kNoId;  // attempts in the order they were posted
    // Rate: the lesser of its rails', unless the path itself was seen to be slower.
    RateModel path;
    uint64_t path_rate = 0;  // 0: not limited
    uint32_t path_lows = 0;  // samples in a row that say so
    uint64_t local_mark = 0, remote_mark = 0;
    Nanos marked_at = 0;
    // As of the last refresh: its rate, and what must be in flight for it never to run dry.
    uint64_t rate = 1, pipe = 0;
    Pace pace;
    LatencyModel latency;
    uint64_t ramp = 0;  // largest slice until it has proved itself; 0: no limit
    // Its owner's word: bytes of writes in flight at most; 0: no limit.
    uint64_t window = 0;
    Nanos window_until = 0;
    // Health.
    Nanos quiet_since = 0, quiet_lag = 0;  // last sign of life, and the sum of our own lag then
    Nanos jitter = 0;                      // patience learned from false alarms
    Nanos suspect_since = 0, down_since = 0, probation_since = 0, next_probe = 0, probe_gap = 0;
    bool shows_progress = false;
    bool condemned = false;   // down for its silence, not for an error
    uint32_t corrupting = 0;  // how often it was found to spoil bytes
    Nanos tainted_until = 0;
    // Invariant 9.
    Counts posted, used, superseded, revoked, failed, outstanding;
    uint64_t reissued = 0;
    // Policies that bind at submit.
    uint64_t bound = 0, average = 0;  // bytes given to it and not posted; rate of its slices
    Nanos last_done = 0;
};

struct Span {
    uint64_t begin = 0, end = 0;
};

struct Share {
    LinkId link = kNoId;
    uint64_t bytes = 0;
};

struct Flow {
    FlowId id = 0;
    FlowSpec spec;
    uint32_t peer = kNoId;
    uint64_t order = 0;   // of arrival
    bool ending = false;  // done, failed or cancelled: waits for its attempts
    bool queued = false;
    uint32_t previous = kNoId, next = kNoId;  // in the peer's queue of its class
    uint64_t cursor = 0;                      // nothing from here on was ever posted
    std::vector<Span> returned;               // came back unsent, in stream order
    uint64_t returned_bytes = 0;
    uint64_t done = 0, in_flight = 0;
    std::vector<Share> shares;  // policies that bind at submit: what each link is to carry yet
    uint32_t first = kNoId;     // its attempts
    uint32_t attempts = 0;
    Nanos last_served = 0;

    int priority() const { return static_cast<int>(spec.priority); }
    uint64_t unbound() const { return spec.bytes - cursor + returned_bytes; }
    uint64_t unfinished() const { return spec.bytes - done; }
};

struct Attempt {
    AttemptId id = 0;
    uint32_t flow = kNoId;
    LinkId link = kNoId;
    int priority = 0;
    uint64_t begin = 0, end = 0, progress = 0;
    Nanos posted_at = 0, predicted = 0;
    bool revoking = false;
    bool alone = false;  // the link was idle when it was posted
    uint32_t link_previous = kNoId, link_next = kNoId;
    uint32_t flow_previous = kNoId, flow_next = kNoId;

    uint64_t bytes() const { return end - begin; }
    uint64_t left() const { return end - begin - progress; }
};

struct Queue {
    uint32_t first = kNoId, last = kNoId;
    uint64_t unbound = 0;  // bytes of the flows in it that are on no link
};

// What the links of one tier carry together.
struct Capacity {
    uint8_t tier = 0;
    uint64_t rate = 0;
    Pace pace;
    Nanos latency = 0;
};

struct Peer {
    PeerId id = 0;
    std::vector<LinkId> links;
    std::array<Queue, kPriorities> queues;
    uint32_t robin = 0;     // Policy::robin: link that is next
    PerClass unfinished{};  // bytes of live flows, in flight or not
    // Refreshed when a link or a rate changed.
    uint64_t refreshed = 0;
    std::vector<LinkId> usable;  // by tier, then id
    std::vector<Capacity> capacities;
    size_t group = kTiers - 1;  // tier of its best links

    uint64_t backlog(int c) const {
        uint64_t sum = 0;
        for (int i = 0; i <= c; ++i) sum += unfinished[static_cast<size_t>(i)];
        return sum;
    }
};

// What the peers of one tier share: the local rails of that tier.
struct Group {
    uint64_t rate = 0;
    Pace pace;
    PerClass unfinished{};
    std::array<uint32_t, kPriorities> active{};  // peers with a backlog in the class
};

}  // namespace tent::sched
