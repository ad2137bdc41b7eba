// The sprayer: decides which bytes go over which link, when. Pure: no thread, no clock, no syscall, no float;
// events come in with the time they happened, actions come out in a deterministic order. The same code runs
// in the engine and in the simulator. Not thread-safe: one owner at a time.
//
// What it sees: rails (capacity), links (local rail x remote rail, towards one peer), flows (a byte stream of
// a transfer towards one peer, late-bound: cut into slices only when a link has room). What it does not see:
// memory, sockets, ranges, errors of ranges. A slice is [begin, end) of a flow's stream.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/status.h"
#include "model/types.h"
#include "sched/faults.h"

namespace tent::sched {

using PeerId = uint32_t;

enum class LinkState : uint8_t { down = 0, up = 1, suspect = 2, probation = 3 };

// Prior knowledge; what is measured takes over. Zero = unknown.
struct RailSpec {
    std::string name;
    uint64_t rate_Bps = 0;  // bytes per second
};

struct LinkSpec {
    PeerId peer = 0;
    RailId local = 0;
    RailId remote = 0;
    Nanos latency = 0;          // one way, prior
    uint32_t max_attempts = 0;  // attempts in flight at most (transport's queue depth); 0 = no limit
    // Links of a lower tier are used only while no link of a better (smaller) tier of the same peer can carry
    // the flow: 0 = memory bus, 1 = network. (Same-host TCP shares the memory bus with shm, so it is never an
    // extra rail.)
    uint8_t tier = 1;
    uint8_t affinity = 1;  // 1 affine, 2 across the PCIe root, 3 across NUMA: for Policy::paper alone
    std::string name;
};

// Where a flow's stream may be cut: pure callback of whoever knows the ranges. `end` <= flow size, > begin.
class SliceShape {
  public:
    virtual ~SliceShape() = default;
    // The largest end <= begin + want such that [begin, end) fits one attempt (piece limit, leaf alignment).
    virtual uint64_t cut(uint64_t begin, uint64_t want) const = 0;
};

struct FlowSpec {
    PeerId peer = 0;
    uint64_t bytes = 0;
    Op op = Op::read;
    Priority priority = Priority::normal;
    Nanos deadline = kNever;
    const SliceShape* shape = nullptr;  // outlives the flow; nullptr: cut anywhere
    // The best tier that reaches its memory: links of this one and lower ones (larger numbers), those that
    // come up later too.
    uint8_t from_tier = 0;
    std::vector<LinkId> allowed;  // of these, only so many; empty: all. Order has no meaning
};

enum class Outcome : uint8_t {
    done,        // every byte in place
    link_error,  // the link failed it: its bytes go elsewhere
    revoked,     // fenced after a revoke (answer to Action::revoke), the bytes did not count
    refused,     // the peer or a range said no: not the link's fault; the flow is told through
                 // Action::flow_failed
};

struct Action {
    enum class Kind : uint8_t {
        post,         // post attempt `attempt` = flow[begin, end) on `link`
        revoke,       // give up attempt `attempt` on `link`: transport fences it and reports Outcome::revoked
        flow_done,    // every byte of the flow is in place (result). Nothing more will be posted for it
        flow_failed,  // `reason`; everything outstanding is being revoked
        flow_released,  // after done/failed/cancelled: no attempt of it is outstanding any more. The flow is
                        // forgotten
        probe,          // please verify `link` with a fresh connection; answer with link_probe()
        link_state,     // `link` changed to `state` (for metrics and logs)
    };
    Kind kind{};
    FlowId flow = 0;
    AttemptId attempt = 0;
    LinkId link = 0;
    uint64_t begin = 0, end = 0;
    Nanos predicted = 0;  // post: when it should be done
    LinkState state{};
    uint16_t reason = 0;  // flow_failed: a tent::Code
    uint64_t limit = 0;   // post: where the slice would have ended, had the flow's shape allowed it
};

struct LinkView {  // a snapshot for metrics, `tent top`, predictions
    LinkState state{};
    uint64_t rate_Bps = 0, burst = 0, in_flight = 0;
    Nanos latency = 0;
    // Invariant 9: posted = used + superseded + revoked + failed + outstanding (attempts, and the same in
    // bytes).
    uint64_t posted = 0, used = 0, superseded = 0, revoked = 0, failed = 0, outstanding = 0;
    uint64_t bytes_posted = 0, bytes_used = 0, reissued = 0;
    uint32_t corrupting = 0;  // how often it was found to spoil bytes
    Nanos quiet_since = 0;    // its last sign of life
    uint32_t faults = 0;      // so many times suspected or down
    FaultTimes last_fault;
};

struct RailView {
    uint64_t rate_Bps = 0, in_flight = 0, delivered = 0;
    uint64_t others = 0;  // in flight, of other engines of this host
};

struct AttemptView {
    FlowId flow = 0;
    LinkId link = kNoId;  // kNoId: there is no such attempt
    uint64_t begin = 0, end = 0;
    Nanos posted_at = 0, predicted = 0;
    bool revoking = false;
};

struct Outline {
    struct Line {
        LinkId link = 0;
        LinkSpec spec;
        LinkState state{};
    };
    struct Posted {
        AttemptId attempt = 0;
        AttemptView view;
    };
    std::vector<RailSpec> rails;
    std::vector<Line> links;
    std::vector<Posted> posted;
};

// How bytes are given to links. Anything but `water` is there to be compared with.
enum class Policy : uint8_t {
    water,  // late binding, water filling
    robin,  // bound at submit, to each link in turn
    paper,  // bound at submit, in proportion to 1 / (queue / average rate x weight of the tier)
    fixed,  // bound at submit, in proportion to the rates that the local rails were given; equally, without
            // any
};

struct Settings {
    Policy policy = Policy::water;
    uint64_t slice_min = 64 << 10;
    uint64_t slice_max = 4 << 20;
    uint64_t initial_rate_Bps = 1'000'000'000;  // until a rail has shown its own
    Nanos suspect_floor = 5 * kMillisecond;     // least patience beyond the prediction
    Nanos probe_interval = 50 * kMillisecond;
    uint64_t window_slices = 2;  // slices in flight beyond the bandwidth-delay product
    uint32_t hedge_ppm = 0;      // of the bytes, in millionths, may be moved early from links that are late
};

class Sprayer {
  public:
    explicit Sprayer(const Settings& settings);
    ~Sprayer();

    RailId add_rail(const RailSpec& spec);
    // False: links of it are not forgotten yet. Otherwise its id will be used again: the smallest first.
    bool forget_rail(RailId rail);
    // A new link is `up` (its transport has connected it).
    LinkId add_link(const LinkSpec& spec, Nanos now);
    // Evidence from transport or kernel: down = error, carrier loss (outstanding attempts are revoked and
    // re-issued elsewhere); up = usable again (goes through probation).
    void link_down(LinkId link, Nanos now);
    void link_up(LinkId link, Nanos now);
    void link_probe(LinkId link, bool good, Nanos now);
    // It spoilt bytes: down, unless it is the last one, and left alone for longer each time it is found out
    // again. A probe that comes through says nothing of that.
    void link_corrupting(LinkId link, Nanos now);
    // It was closed for want of work: down, and not probed until somebody says that a probe came through, or
    // did not.
    void link_asleep(LinkId link, Nanos now);
    void remove_link(LinkId link, Nanos now);
    // It was removed, and nobody will name it any more: its id will be used again, the smallest first. False:
    // attempts on it are not over yet, or news of it waits to be asked for.
    bool forget_link(LinkId link);
    // Its owner's word to one of many writers: so many bytes of writes in flight on it at most, until
    // `until`; 0: as many as there is room for. One slice may always be.
    void link_window(LinkId link, uint64_t bytes, Nanos until, Nanos now);

    void add_flow(FlowId id, const FlowSpec& spec, Nanos now);
    void set_priority(FlowId id, Priority priority, Nanos now);
    // Ends the flow: nothing more is posted, outstanding attempts are revoked; flow_released follows.
    void cancel_flow(FlowId id, Nanos now);

    // Transport's answers. Each posted attempt gets exactly one, in any order; unknown ids are ignored.
    void attempt_ended(AttemptId attempt, Outcome outcome, uint16_t reason, Nanos now);
    // Optional progress of an attempt (bytes acknowledged so far): evidence for rate and health.
    void attempt_progress(AttemptId attempt, uint64_t bytes, Nanos now);
    // Other engines of this host have so much in flight over one of our rails, and so much has arrived at
    // them since the last such word.
    void rail_shared(RailId rail, uint64_t in_flight, uint64_t arrived, Nanos now);
    // Our own loop was not scheduled for `lag`: no link is to blame for that time.
    void own_lag(Nanos lag);

    // Time passes: deadlines, patience, probes. Call when now >= next_wakeup().
    void tick(Nanos now);
    Nanos next_wakeup() const;  // kNever when idle

    // Bind slices to links with room and drain what happened. False when there is nothing (left) to do. An
    // action is handed out once; the caller performs it before asking for the next one.
    bool next(Action& action, Nanos now);

    // How long `bytes` towards `peer` would take if submitted now, behind what is queued in its class and
    // above.
    Nanos predict(PeerId peer, uint64_t bytes, Priority priority, Nanos now) const;
    LinkView view(LinkId link) const;
    RailView rail(RailId rail) const;
    AttemptView attempt(AttemptId id) const;
    size_t flows() const;
    uint64_t outstanding() const;  // attempts
    uint64_t hedged() const;       // attempts that were moved early
    // Whether every sum agrees (invariant 9). Walks everything: for tests and debugging.
    bool accounts_balance() const;

    // For the flight recorder (recorder.h). What is known, by name: rails, links, attempts under way.
    void outline(Outline& out) const;
    // The whole state, appended to `out` (checkpoint.cpp); false, with nothing appended, if it were larger
    // than `most` bytes.
    bool checkpoint(Bytes& out, size_t most) const;
    // Into a new sprayer. The bytes are hostile: version_mismatch, protocol. Flows that had a shape are cut
    // by `shape` from then on, which outlives the sprayer.
    Status restore(ByteView checkpoint, const SliceShape& shape);

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace tent::sched
