// What a simulated world is made of: plain data, said by whoever describes it (a file, a test).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"
#include "model/fault_plan.h"
#include "model/types.h"
#include "sched/sprayer.h"

namespace tent::sim {

struct NodeSpec {
    std::string name;
};

// Two resources, one each way. A burst of 0: nothing passes faster than the rate.
struct RailSpec {
    uint32_t node = 0;
    std::string name;
    uint64_t rate = 0;   // bytes per second
    uint64_t burst = 0;  // bytes that pass at line speed after idling
    uint64_t line = 0;   // that speed; 0: 16 times the rate
    Nanos latency = 10 * kMicrosecond;
    uint32_t network = 0;      // rails of one network reach each other
    uint32_t through = kNoId;  // a shared switch
    // Affinity: what crosses to memory that is not the rail's own gets this share of the rate, and arrives
    // later.
    uint64_t reach_ppm = 1'000'000;
    Nanos reach_latency = 0;
    uint8_t tier = 1;    // what the paper's policy is told: 1 affine, 2, 3
    bool known = false;  // is the sprayer told its rate?
};

struct SwitchSpec {
    std::string name;
    uint64_t rate = 0;
    Nanos latency = 0;
};

// Comes and goes by chance: background traffic (slow), starved processors (stop), weather (loss, jitter).
// What is planned is a FaultPlan.
struct ChurnSpec {
    enum class Kind : uint8_t { slow, jitter, loss, silent, stop };
    Kind kind{};
    std::vector<uint32_t> targets;       // rails, or nodes that stop: one of them at a time
    Nanos on = 0, off = 0;               // mean lengths, exponentially distributed
    uint64_t low_ppm = 0, high_ppm = 0;  // slow: what is left of the rate; loss: of the pieces
    Nanos extra = 0;                     // jitter: at most so much later
    Nanos start = 0, stop = kNever;
};

// The node's segment is not registered from `at` until `back`.
struct UnregisterSpec {
    uint32_t node = 0;
    Nanos at = 0, back = kNever;
};

struct WorkloadSpec {
    uint32_t from = 0, to = 0;  // the node that asks, the node that owns
    Op op = Op::read;
    Priority priority = Priority::normal;
    uint64_t bytes_low = 0, bytes_high = 0;
    uint32_t concurrent = 1;  // each with a buffer of its own, which it uses again as soon as it is released
    uint64_t count = 0;       // transfers in all; 0: until `stop`
    Nanos start = 0, stop = kNever;
    Nanos pause = 0;          // mean, between a release and the next submit
    Nanos deadline = kNever;  // after the submit
    uint64_t cancel_ppm = 0;  // so many are cancelled at a random moment
};

struct Options {
    uint64_t seed = 1;
    sched::Settings sched;
    Nanos lease = 3 * kSecond;
    Nanos heartbeat = 10 * kMillisecond;
    Nanos bin = kMillisecond;         // of the goodput
    Nanos late = 200 * kMillisecond;  // what a silence held up arrives so long after its end, at most
    Nanos warm = 0;                   // records and bins begin here
    bool crossed = false;  // every local rail reaches every remote one, not only that of the same index
    bool credits = true;   // an owner tells many writers how much each may have under way
    bool fencing = true;   // off: a given-up attempt counts as fenced at once
    bool drawn = false;    // keep what a trace shows
    uint64_t check_every = 4096;  // actions between two sums of all accounts
};

}  // namespace tent::sim
