// The always-on flight recorder: everything that the sprayer is told and everything it decides goes into a
// ring of segments in memory. Each segment begins with a checkpoint of the sprayer, so that the oldest one
// still there can be replayed from its start. One writer: whoever holds the loop token. No event
// allocates; a segment's head does, and a segment whose place in the ring a snapshot still holds.
#pragma once

#include <memory>
#include <vector>

#include "sched/recording.h"
#include "sched/sprayer.h"

namespace tent::sched {

class Recorder {
  public:
    // `bytes` for all segments together; 0: records nothing.
    explicit Recorder(size_t bytes);

    bool on() const { return segment_bytes_ != 0; }
    size_t capacity() const { return segment_bytes_ * kSegments; }
    uint64_t events() const { return events_; }

    // Room for an event of up to `bytes`; begins a new segment where there is none, with the state as it is
    // now: so before the event takes effect. Between two of these one event is written.
    void room(const Sprayer& sprayer, Nanos now, size_t bytes = kMaxEvent) {
        if (at_ == nullptr || static_cast<size_t>(end_ - at_) < bytes) roll(sprayer, now, bytes);
    }
    // Each event's kind, time and fields, in the order in which SegmentReader reads them.
    template <class... Fields>
    void put(EventKind kind, Nanos now, Fields... fields) {
        if (at_ == nullptr) return;
        *at_++ = static_cast<uint8_t>(kind);
        at_ = put_varint(at_, zigzag(now - now_));
        now_ = now;
        ((at_ = put_varint(at_, static_cast<uint64_t>(fields))), ...);
        ++events_;
    }
    // Attempts mostly come one after the other.
    uint64_t attempt(AttemptId id) {
        auto step = static_cast<int64_t>(id - last_attempt_);
        last_attempt_ = id;
        return zigzag(step);
    }
    // A part of the event just put.
    void text(std::string_view s);
    void list(const std::vector<LinkId>& links) {
        if (at_ == nullptr) return;
        at_ = put_varint(at_, links.size());
        for (LinkId id : links) at_ = put_varint(at_, id);
    }

    static constexpr size_t kMaxEvent = 96;  // of those without names and lists
    static constexpr size_t kSegments = 8;

    struct Segment {
        uint64_t sequence = 0;
        std::unique_ptr<uint8_t[]> data;
        size_t used = 0;
    };
    // What is in the ring now, oldest first. Segments that are full are shared, not copied. Make and drop it
    // with the loop token held; read it whenever.
    struct Snapshot {
        std::vector<std::shared_ptr<const Segment>> segments;
        void pack(const RecordingHead& head, Bytes& out) const;
    };
    Snapshot snapshot() const;

  private:
    void roll(const Sprayer& sprayer, Nanos now, size_t bytes);
    void write_head(const Sprayer& sprayer, Nanos now);

    size_t segment_bytes_;
    std::vector<std::shared_ptr<Segment>> ring_;
    size_t current_ = 0;
    uint64_t sequence_ = 0, events_ = 0;
    uint8_t* at_ = nullptr;
    uint8_t* end_ = nullptr;
    Nanos now_ = 0;
    AttemptId last_attempt_ = 0;
    Bytes scratch_;
    Outline outline_;
};

// A sprayer with its recorder: the same face, for the engine. What is only asked of it (views) leaves no
// trace in it and is not recorded; predict() refreshes its belief, and is.
class RecordedSprayer {
  public:
    RecordedSprayer(const Settings& settings, size_t recorder_bytes)
        : sprayer_(settings), recorder_(recorder_bytes) {}

    RailId add_rail(const RailSpec& spec);
    bool forget_rail(RailId rail);
    LinkId add_link(const LinkSpec& spec, Nanos now);
    void link_down(LinkId link, Nanos now);
    void link_up(LinkId link, Nanos now);
    void link_probe(LinkId link, bool good, Nanos now);
    void link_corrupting(LinkId link, Nanos now);
    void link_asleep(LinkId link, Nanos now);
    void remove_link(LinkId link, Nanos now);
    bool forget_link(LinkId link);
    void link_window(LinkId link, uint64_t bytes, Nanos until, Nanos now);
    void add_flow(FlowId id, const FlowSpec& spec, Nanos now);
    void set_priority(FlowId id, Priority priority, Nanos now);
    void cancel_flow(FlowId id, Nanos now);
    void attempt_ended(AttemptId attempt, Outcome outcome, uint16_t reason, Nanos now);
    void attempt_progress(AttemptId attempt, uint64_t bytes, Nanos now);
    void rail_shared(RailId rail, uint64_t in_flight, uint64_t arrived, Nanos now);
    void own_lag(Nanos lag);
    void tick(Nanos now);
    bool next(Action& action, Nanos now);
    Nanos predict(PeerId peer, uint64_t bytes, Priority priority, Nanos now);

    Nanos next_wakeup() const { return sprayer_.next_wakeup(); }
    LinkView view(LinkId link) const { return sprayer_.view(link); }
    RailView rail(RailId rail) const { return sprayer_.rail(rail); }
    AttemptView attempt(AttemptId id) const { return sprayer_.attempt(id); }
    size_t flows() const { return sprayer_.flows(); }
    uint64_t outstanding() const { return sprayer_.outstanding(); }
    uint64_t hedged() const { return sprayer_.hedged(); }
    bool accounts_balance() const { return sprayer_.accounts_balance(); }
    const Recorder& recorder() const { return recorder_; }

  private:
    void record(const Action& action, Nanos now);

    Sprayer sprayer_;
    Recorder recorder_;
    Nanos now_ = 0;     // of the last event that had a time
    LinkId links_ = 0;  // that there have been at once
};

}  // namespace tent::sched
