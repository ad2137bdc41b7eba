// A recording: what the sprayer was told and what it decided, as bytes (docs/design.md, "Flight recorder").
// Versioned; a golden file of it is in tests/native/sched/golden. Everything read here is hostile until it
// was checked.
//
//   "TENTFLR1", u16 version, node's name, incarnation, u64 monotonic and u64 wall clock at the dump, reason,
//   u32 number of segments, then each: u64 sequence, u32 bytes, the bytes; last, XXH3-64 of all before.
//
// A segment starts with a head (the time, rails, links, attempts under way), then the sprayer's checkpoint
// (or none, when it was too large), then events: a kind, the time since the event before, what the kind
// holds.
#pragma once

#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/status.h"
#include "sched/sprayer.h"
#include "sched/varint.h"

namespace tent::sched {

constexpr uint16_t kRecordingVersion = 1;
constexpr size_t kMaxRecording = 512 << 20;
constexpr size_t kMaxRecordedName = 512;  // longer ones are cut

// Appended to, never renumbered.
enum class EventKind : uint8_t {
    // What the sprayer was told.
    add_rail = 1,
    add_link = 2,
    link_down = 3,
    link_up = 4,
    probe_good = 5,
    probe_bad = 6,
    remove_link = 7,
    add_flow = 8,
    set_priority = 9,
    cancel_flow = 10,
    ended = 11,
    progress = 12,
    own_lag = 13,
    tick = 14,
    idle = 15,     // asked for an action: none
    predict = 16,  // asked, and what it answered
    corrupting = 17,
    window = 18,
    rail_shared = 19,
    asleep = 20,
    forget_link = 21,
    forget_rail = 22,
    link_id = 23,  // of the link just added, where it was another one's before
    // What it decided, when asked for an action.
    post = 32,
    revoke = 33,
    flow_done = 34,
    flow_failed = 35,
    flow_released = 36,
    probe = 37,
    link_state = 38,
};

struct Event {
    EventKind kind{};
    Nanos now = 0;
    RailSpec rail;       // add_rail
    LinkSpec link_spec;  // add_link
    FlowSpec flow_spec;  // add_flow; the shape is missing, `shaped` says whether there was one
    bool shaped = false;
    FlowId flow = 0;        // add_flow, set_priority, cancel_flow
    AttemptId attempt = 0;  // ended, progress
    LinkId link = 0;        // link events
    Nanos until = 0;        // window
    Priority priority{};    // set_priority, predict
    Outcome outcome{};      // ended
    uint16_t reason = 0;    // ended
    uint64_t value = 0;     // progress, rail_shared, window: bytes; own_lag, predict: nanoseconds
    PeerId peer = 0;        // predict
    uint64_t bytes = 0;     // predict; rail_shared: arrived
    RailId rail_id = 0;     // rail_shared
    Action action;          // post and after
};

struct RecordingHead {
    std::string node, reason;
    Id128 incarnation{};
    Nanos monotonic = 0, wall = 0;  // at the dump
};

class SegmentReader {
  public:
    // `bytes` outlives the reader.
    explicit SegmentReader(ByteView bytes);
    bool ok() const { return in_.ok(); }
    Nanos begins() const { return begins_; }
    const Outline& outline() const { return outline_; }
    // Empty: this segment cannot be replayed by itself.
    ByteView checkpoint() const { return checkpoint_; }
    // False at the end, or when the bytes are damaged: see ok().
    bool next(Event& event);

  private:
    void read_head();
    void read_link_spec(LinkSpec& spec);
    void read_flow_spec(Event& event);
    void read_action(Event& event);

    VarReader in_;
    Nanos begins_ = 0, now_ = 0;
    AttemptId last_attempt_ = 0;
    Outline outline_;
    ByteView checkpoint_;
};

struct SegmentBytes {
    uint64_t sequence = 0;
    ByteView bytes;
};

// Packs segments, oldest first.
void pack_recording(const RecordingHead& head, const std::vector<SegmentBytes>& segments, Bytes& out);
// Checks what surrounds the segments; they are views of `in`. version_mismatch, protocol.
Status open_recording(ByteView in, RecordingHead& head, std::vector<SegmentBytes>& segments);

}  // namespace tent::sched
