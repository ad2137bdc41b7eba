// A fault plan: what goes wrong, on which links, when and for how long. One format for the fault injecting
// transport, the simulator and the test bed (docs/faults.md). Plain data and pure questions about it: the
// caller brings the clock and counts the attempts, so that a seed always means the same faults.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"

namespace tent {

enum class FaultKind : uint8_t {
    drop,         // an attempt is lost, and nobody is told
    delay,        // its end is told `delay` later (and up to `jitter` more)
    corrupt,      // `bytes` of it are flipped on the way
    stall,        // nothing moves; what waited goes on when the fault ends
    slow,         // the rate falls to 1/`factor`
    down,         // the link fails with an error, and cannot be made again until the fault ends
    silent,       // everything vanishes, for both directions, and nobody is told
    one_way,      // everything that `direction` says vanishes, and nobody is told
    flap,         // down for half a `period`, up for the other half
    fail_submit,  // an attempt is refused when it is posted
    fail_after,   // the link works for `count` attempts, then goes down
    duplicate,    // an attempt's end is told twice
    stop_node,    // the node stands still (SIGSTOP), and goes on when the fault ends
    count
};

// Seen from the end that `node` and `rail` name: what it sends, or what it receives.
enum class FaultDirection : uint8_t { out, in };

struct Fault {
    FaultKind kind = FaultKind::drop;
    // Patterns ('*' any run, '?' any one character). A link is hit if one of its ends is `node` and `rail`
    // and the other `peer` and `peer_rail`.
    std::string transport = "*", node = "*", rail = "*", peer = "*", peer_rail = "*";
    Nanos at = 0;               // since the start
    Nanos duration = 0;         // 0: for ever
    uint64_t from_attempt = 0;  // of those on a link, counted from 1; 0: from the first
    uint64_t attempts = 0;      // how many of them; 0: all
    uint32_t chance_ppm = 1'000'000;
    Nanos delay = 0, jitter = 0;
    uint32_t factor = 1;
    Nanos period = 0;
    uint64_t count = 0;
    uint32_t bytes = 1;
    FaultDirection direction = FaultDirection::out;
    std::string error;  // what `down` says
};

struct FaultPlan {
    uint64_t seed = 0;
    std::vector<Fault> faults;
};

// One link's names, seen from one of its ends.
struct FaultLink {
    std::string transport, node, rail, peer, peer_rail;
};

// '*' and '?' as in file names; everything else stands for itself.
bool matches(std::string_view pattern, std::string_view name);

enum class FaultSide : uint8_t {
    none,
    here,
    there
};  // whose end `node` and `rail` name; `here` where both fit
FaultSide hits(const Fault& fault, const FaultLink& link);

// Is the fault on, at a time since the start? A flap is on while its link is down.
bool on_at(const Fault& fault, Nanos since_start);
// When that changes next, after `since_start`; kNever: not any more.
Nanos next_change(const Fault& fault, Nanos since_start);
// Does it strike the link's `attempt`th attempt (counted from 1)? By number and chance alone; ask on_at(),
// too.
bool strikes(const FaultPlan& plan, size_t fault, const FaultLink& link, uint64_t attempt);
// A number that only the plan's seed, the fault, the link and the attempt decide: which byte, how much
// jitter.
uint64_t draw(const FaultPlan& plan, size_t fault, const FaultLink& link, uint64_t attempt);
// Does `one_way` swallow what this end of the link sends (`outgoing`) or receives?
bool swallows(const Fault& fault, FaultSide side, bool outgoing);

}  // namespace tent
