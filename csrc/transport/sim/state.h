// What the world remembers: rails, wires, lanes, what travels on them, and what both ends know. Plain data;
// slots refer to each other by index.
#pragma once

#include <array>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "proto/attempts.h"
#include "proto/credits.h"
#include "proto/lease.h"
#include "proto/responder.h"
#include "sched/math.h"
#include "sched/sprayer.h"
#include "sched/tables.h"
#include "transport/sim/events.h"
#include "transport/sim/random.h"
#include "transport/sim/spec.h"

namespace tent::sim {

// One direction of a rail, or a switch: first come, first served, at a rate, after a burst.
class Server {
  public:
    void start(uint64_t rate, uint64_t burst, uint64_t line) {
        base_ = rate_ = std::max<uint64_t>(rate, 1);
        burst_ = burst;
        line_ = burst == 0 ? rate_ : std::max(rate_, line != 0 ? line : 16 * rate_);
    }
    void scale(uint64_t ppm) { rate_ = std::max<uint64_t>(1, sched::mul_div(base_, ppm, 1'000'000)); }
    uint64_t rate() const { return rate_; }
    uint64_t base() const { return base_; }
    // When `bytes` are through whose first one comes at `first`.
    Nanos serve(Nanos first, uint64_t bytes) {
        Nanos credit = burst_ == 0 ? 0 : sched::time_of(burst_, rate_);
        free_ = std::max(free_, first - credit) + sched::time_of(bytes, rate_);
        line_free_ = std::max(line_free_, first) + sched::time_of(bytes, std::max(line_, rate_));
        return std::max(free_, line_free_);
    }

  private:
    uint64_t base_ = 1, rate_ = 1, burst_ = 0, line_ = 1;
    Nanos free_ = 0, line_free_ = 0;
};

struct Switch {
    SwitchSpec spec;
    Server server;
};

struct Rail {
    RailSpec spec;
    Server out, in;
    uint32_t dead_out = 0, dead_in = 0;  // troubles under way
    std::vector<uint64_t> shares;        // of the rate, one for each that slows it down, in millionths
    std::vector<uint32_t> wires;
    std::unique_ptr<proto::Responder> responder;
    proto::WriterCredits credits;
};

enum Way : uint8_t { kThere = 0, kBack = 1 };  // to the owner, to the one who asks

// A link as both ends have it: a local rail of the one who asks, a rail of the owner.
struct Wire {
    uint32_t session = 0, near = 0, far = 0;
    LinkId link = 0;
    Nanos latency = 0;
    uint64_t piece = 0;   // bytes that travel together
    uint64_t window = 0;  // bytes under way that nobody has taken yet, at most
    std::array<uint32_t, 2> dead{};
    Nanos jitter = 0;
    uint64_t loss = 0;
    uint32_t corrupting = 0;      // faults under way that flip bytes of some attempts
    uint32_t factor = 1;          // slower than its rails
    std::array<Nanos, 2> free{};  // when it is slower: free for the next piece
    uint64_t attempts = 0;        // posted on it
    FaultLink names;
    std::array<std::array<uint32_t, 2>, 2> lanes{};  // by way, and interactive or not
    std::vector<uint32_t> made;                      // every lane that it ever had
    std::array<std::vector<uint32_t>, 2> waiting;    // messages that are held up
    uint64_t probe = 0;                              // number of the last one
    Nanos ailed = 0;                                 // when the last one ended
    uint32_t ailing = 0;                             // faults that touch it in any way
};

// What is to be sent of one attempt. A part of a read's answer is a frame, too.
struct Frame {
    uint32_t attempt = 0;
    uint64_t left = 0;
    bool last = false;  // with it the attempt is complete
};

// One direction of one connection: bytes arrive in order.
struct Lane {
    uint32_t wire = 0;
    Way way = kThere;
    bool closed = false, sending = false, resuming = false;
    std::deque<Frame> queue;
    uint64_t untaken = 0;
    uint64_t pieces = 0;  // sent so far
    uint64_t passed = 0;  // of them through all switches
    Nanos last_arrival = 0;
    std::vector<uint32_t> held;  // pieces that a fault holds up
};

struct Piece {
    uint32_t lane = 0, attempt = 0;
    uint64_t number = 0;  // on its lane
    uint64_t bytes = 0;
    Nanos first = 0;  // when its first byte comes
    bool last = false, bad = false, scratch = false;
    bool switched = false;
};

struct Message {
    enum class Kind : uint8_t {
        ask,      // a read's request
        placed,   // a write's bytes are in place
        refused,  // the owner takes or gives nothing of this attempt
        revoke,
        revoked,
        cancel,  // a read is not wanted any more
        token,
        echo,
        over,    // the owner's lease for the session ran out
        credit,  // what a writer may have under way on this wire
        probe,
        probe_answer,
    };
    Kind kind{};
    Way way = kThere;
    uint32_t wire = 0, attempt = kNoId;
    uint32_t generation = 0;
    uint64_t number = 0;  // attempt, token or probe
    uint64_t floor = 0;
};

// Alive as long as anything that travels or waits refers to it.
struct Attempt {
    AttemptId id = 0;
    uint32_t node = 0, transfer = 0, wire = 0, generation = 0;
    Op op = Op::read;
    uint64_t begin = 0, end = 0, landed = 0;
    uint64_t seen = 0;  // bytes of a write that the far kernel has
    uint32_t references = 0;
    bool ended = false;      // the sprayer was told
    bool revoked = false;    // given up
    bool cancelled = false;  // its owner knows
    bool started = false;    // a byte of it has left
    bool bad = false;        // a byte of it is wrong
    bool drained = false;    // some of it was kept out
    bool interactive = false;
    bool twice = false;  // its end is told twice
    Nanos delay = 0;     // its end is told so much later
    bool waits = false;  // in the owner's responder
    Nanos posted = 0, predicted = 0;
};

struct Node {
    NodeSpec spec;
    std::unique_ptr<sched::Sprayer> sprayer;
    sched::IdTable attempts;
    std::vector<RailId> rails;       // its own, as its sprayer knows them
    std::vector<uint32_t> wires;     // by its sprayer's link
    std::vector<uint32_t> sessions;  // in which it asks
    Nanos progressed_at = 0;         // when its sprayer last heard of bytes under way
    std::vector<uint32_t> own;       // the rails here
    uint32_t stops = 0;              // faults that hold it
    Nanos stopped_at = 0;
    std::vector<Event> inbox;  // came while it was stopped
    Nanos wake_at = kNever;
    bool settling = false;
    bool granted = true;  // does it take part as an owner?
    uint64_t actions = 0;
};

// From one who asks to one owner, both ends of it.
struct Session {
    uint32_t from = 0, to = 0;
    std::vector<uint32_t> wires;
    uint32_t generation = 1;
    bool dead = false;
    proto::AttemptTable table;
    std::optional<proto::OwnerLease> owner;
    std::optional<proto::WriterLease> writer;
    std::vector<uint32_t> outstanding;  // attempts
    AttemptId last = 0;
    uint32_t heard_on = 0;  // the wire on which the owner last heard something
    size_t turn = 0;        // of control messages that were not answered
    bool asking = false;    // ask_again is arranged
    uint32_t transfers = 0;
};

struct Transfer {
    uint32_t worker = 0, session = 0;
    uint64_t left = 0;  // bytes that have not been counted
};

struct Worker {
    uint32_t workload = 0, session = 0;
    uint32_t holder = kNoId;  // the transfer that its buffer belongs to; afterwards nobody
};

struct Workload {
    WorkloadSpec spec;
    Random random;
    uint64_t begun = 0;
};

struct Planned {
    std::vector<std::pair<uint32_t, FaultSide>> wires;  // that it hits, and whose end it names
    std::vector<uint32_t> rails;                        // that it slows down as a whole
    std::vector<uint32_t> nodes;                        // that it stops
    bool on = false;
    bool strikes = false;  // single attempts
};

struct Churn {
    ChurnSpec spec;
    Random random;
    uint32_t target = 0;
    uint64_t ppm = 0;
    bool on = false;
};

}  // namespace tent::sim
