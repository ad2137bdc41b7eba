#include "sched/recorder.h"

#include <algorithm>

namespace tent::sched {

namespace {
constexpr size_t kLeastSegment = 4 << 10;
// What a name or a list adds to an event.
size_t room_for(const std::string& name) {
    return Recorder::kMaxEvent + kMaxVarint + std::min(name.size(), kMaxRecordedName);
}
}  // namespace

Recorder::Recorder(size_t bytes)
    : segment_bytes_(bytes == 0 ? 0 : std::max(bytes / kSegments, kLeastSegment)), ring_(kSegments) {}

void Recorder::text(std::string_view s) {
    if (at_ == nullptr) return;
    s = s.substr(0, kMaxRecordedName);
    at_ = put_varint(at_, s.size());
    at_ = std::copy(s.begin(), s.end(), at_);
}

// The next segment, in the place of the oldest. An event that fits into none is lost, and whoever replays
// sees that one segment is missing there.
void Recorder::roll(const Sprayer& sprayer, Nanos now, size_t bytes) {
    if (!on()) return;
    if (at_ != nullptr) ring_[current_]->used = segment_bytes_ - static_cast<size_t>(end_ - at_);
    at_ = end_ = nullptr;
    if (bytes > segment_bytes_ / 4) {
        ++sequence_;
        return;
    }
    current_ = sequence_ == 0 ? 0 : (current_ + 1) % kSegments;
    auto& segment = ring_[current_];
    if (!segment || segment.use_count() > 1) {  // a snapshot has it
        segment = std::make_shared<Segment>();
        segment->data = std::make_unique_for_overwrite<uint8_t[]>(segment_bytes_);
    }
    segment->sequence = ++sequence_;
    segment->used = 0;
    at_ = segment->data.get();
    end_ = at_ + segment_bytes_;
    write_head(sprayer, now);
}

void Recorder::write_head(const Sprayer& sprayer, Nanos now) {
    now_ = now;
    last_attempt_ = 0;
    scratch_.clear();
    outline_ = {};
    sprayer.outline(outline_);
    auto u = [this](uint64_t v) {
        uint8_t b[kMaxVarint];
        scratch_.insert(scratch_.end(), b, put_varint(b, v));
    };
    auto name = [&](std::string_view s) {
        s = s.substr(0, kMaxRecordedName);
        u(s.size());
        scratch_.insert(scratch_.end(), s.begin(), s.end());
    };
    auto t = [&](Nanos v) { u(zigzag(v)); };
    t(now);
    u(outline_.rails.size());
    for (const RailSpec& r : outline_.rails) {
        name(r.name);
        u(r.rate_Bps);
    }
    u(outline_.links.size());
    for (const Outline::Line& l : outline_.links) {
        u(l.link);
        u(static_cast<uint64_t>(l.state));
        for (uint64_t v : {uint64_t{l.spec.peer}, uint64_t{l.spec.local}, uint64_t{l.spec.remote}}) u(v);
        t(l.spec.latency);
        u(l.spec.max_attempts);
        u(l.spec.tier);
        name(l.spec.name);
    }
    u(outline_.posted.size());
    for (const Outline::Posted& p : outline_.posted) {
        for (uint64_t v : {p.attempt, p.view.flow, uint64_t{p.view.link}, p.view.begin, p.view.end}) u(v);
        t(p.view.posted_at);
        t(p.view.predicted);
        u(p.view.revoking ? 1 : 0);
    }
    size_t half = segment_bytes_ / 2;
    if (scratch_.size() > half) {  // too much to name: the events alone
        scratch_.clear();
        t(now);
        for (int i = 0; i < 3; ++i) u(0);
    }
    size_t head = scratch_.size();
    // The checkpoint's length goes in front of it: four bytes, whatever it is.
    scratch_.resize(head + 4);
    sprayer.checkpoint(scratch_, half - std::min(half, head));
    auto length = static_cast<uint32_t>(scratch_.size() - head - 4);
    for (size_t i = 0; i < 4; ++i) scratch_[head + i] = static_cast<uint8_t>(length >> (8 * i));
    at_ = std::copy(scratch_.begin(), scratch_.end(), at_);
}

Recorder::Snapshot Recorder::snapshot() const {
    Snapshot s;
    for (size_t i = 1; i <= kSegments; ++i) {
        const auto& segment = ring_[(current_ + i) % kSegments];
        if (!segment) continue;
        bool written = i == kSegments && at_ != nullptr;
        if (!written) {
            s.segments.push_back(segment);
            continue;
        }
        auto copy = std::make_shared<Segment>();
        copy->sequence = segment->sequence;
        copy->used = segment_bytes_ - static_cast<size_t>(end_ - at_);
        copy->data = std::make_unique_for_overwrite<uint8_t[]>(copy->used);
        std::copy_n(segment->data.get(), copy->used, copy->data.get());
        s.segments.push_back(std::move(copy));
    }
    return s;
}

void Recorder::Snapshot::pack(const RecordingHead& head, Bytes& out) const {
    std::vector<SegmentBytes> views;
    for (const auto& s : segments) views.push_back({s->sequence, ByteView(s->data.get(), s->used)});
    pack_recording(head, views, out);
}

// ---- the sprayer's face

RailId RecordedSprayer::add_rail(const RailSpec& spec) {
    recorder_.room(sprayer_, now_, room_for(spec.name));
    recorder_.put(EventKind::add_rail, now_, spec.rate_Bps);
    recorder_.text(spec.name);
    return sprayer_.add_rail(spec);
}

bool RecordedSprayer::forget_rail(RailId rail) {
    recorder_.room(sprayer_, now_);
    recorder_.put(EventKind::forget_rail, now_, rail);
    return sprayer_.forget_rail(rail);
}

LinkId RecordedSprayer::add_link(const LinkSpec& spec, Nanos now) {
    now_ = now;
    recorder_.room(sprayer_, now, room_for(spec.name));
    auto& [peer, local, remote, latency, max_attempts, tier, affinity, name] = spec;
    (void)affinity;  // of a policy that no engine runs
    recorder_.put(EventKind::add_link, now, peer, local, remote, zigzag(latency), max_attempts, tier);
    recorder_.text(name);
    LinkId id = sprayer_.add_link(spec, now);
    if (id == links_) {
        ++links_;
    } else {
        recorder_.room(sprayer_, now);
        recorder_.put(EventKind::link_id, now, id);
    }
    return id;
}

void RecordedSprayer::link_down(LinkId link, Nanos now) {
    recorder_.room(sprayer_, now_ = now);
    recorder_.put(EventKind::link_down, now, link);
    sprayer_.link_down(link, now);
}
void RecordedSprayer::link_up(LinkId link, Nanos now) {
    recorder_.room(sprayer_, now_ = now);
    recorder_.put(EventKind::link_up, now, link);
    sprayer_.link_up(link, now);
}
void RecordedSprayer::link_probe(LinkId link, bool good, Nanos now) {
    recorder_.room(sprayer_, now_ = now);
    recorder_.put(good ? EventKind::probe_good : EventKind::probe_bad, now, link);
    sprayer_.link_probe(link, good, now);
}
void RecordedSprayer::link_corrupting(LinkId link, Nanos now) {
    recorder_.room(sprayer_, now_ = now);
    recorder_.put(EventKind::corrupting, now, link);
    sprayer_.link_corrupting(link, now);
}
void RecordedSprayer::remove_link(LinkId link, Nanos now) {
    recorder_.room(sprayer_, now_ = now);
    recorder_.put(EventKind::remove_link, now, link);
    sprayer_.remove_link(link, now);
}
bool RecordedSprayer::forget_link(LinkId link) {
    recorder_.room(sprayer_, now_);
    recorder_.put(EventKind::forget_link, now_, link);
    return sprayer_.forget_link(link);
}
void RecordedSprayer::link_window(LinkId link, uint64_t bytes, Nanos until, Nanos now) {
    recorder_.room(sprayer_, now_ = now);
    recorder_.put(EventKind::window, now, link, bytes, zigzag(until));
    sprayer_.link_window(link, bytes, until, now);
}

void RecordedSprayer::add_flow(FlowId id, const FlowSpec& spec, Nanos now) {
    auto& [peer, bytes, op, priority, deadline, shape, from_tier, allowed] = spec;
    recorder_.room(sprayer_, now_ = now, Recorder::kMaxEvent + kMaxVarint * (2 + allowed.size()));
    recorder_.put(EventKind::add_flow, now, id, peer, bytes, op, priority, zigzag(deadline),
                  shape != nullptr ? 1 : 0, from_tier);
    recorder_.list(allowed);
    sprayer_.add_flow(id, spec, now);
}

void RecordedSprayer::set_priority(FlowId id, Priority priority, Nanos now) {
    recorder_.room(sprayer_, now_ = now);
    recorder_.put(EventKind::set_priority, now, id, priority);
    sprayer_.set_priority(id, priority, now);
}
void RecordedSprayer::cancel_flow(FlowId id, Nanos now) {
    recorder_.room(sprayer_, now_ = now);
    recorder_.put(EventKind::cancel_flow, now, id);
    sprayer_.cancel_flow(id, now);
}

void RecordedSprayer::attempt_ended(AttemptId attempt, Outcome outcome, uint16_t reason, Nanos now) {
    recorder_.room(sprayer_, now_ = now);
    recorder_.put(EventKind::ended, now, recorder_.attempt(attempt), outcome, reason);
    sprayer_.attempt_ended(attempt, outcome, reason, now);
}
void RecordedSprayer::attempt_progress(AttemptId attempt, uint64_t bytes, Nanos now) {
    recorder_.room(sprayer_, now_ = now);
    recorder_.put(EventKind::progress, now, recorder_.attempt(attempt), bytes);
    sprayer_.attempt_progress(attempt, bytes, now);
}
void RecordedSprayer::link_asleep(LinkId link, Nanos now) {
    recorder_.room(sprayer_, now_ = now);
    recorder_.put(EventKind::asleep, now, link);
    sprayer_.link_asleep(link, now);
}
void RecordedSprayer::rail_shared(RailId rail, uint64_t in_flight, uint64_t arrived, Nanos now) {
    recorder_.room(sprayer_, now_ = now);
    recorder_.put(EventKind::rail_shared, now, rail, in_flight, arrived);
    sprayer_.rail_shared(rail, in_flight, arrived, now);
}
void RecordedSprayer::own_lag(Nanos lag) {
    recorder_.room(sprayer_, now_);
    recorder_.put(EventKind::own_lag, now_, zigzag(lag));
    sprayer_.own_lag(lag);
}
void RecordedSprayer::tick(Nanos now) {
    recorder_.room(sprayer_, now_ = now);
    recorder_.put(EventKind::tick, now);
    sprayer_.tick(now);
}

bool RecordedSprayer::next(Action& action, Nanos now) {
    recorder_.room(sprayer_, now_ = now);
    if (!sprayer_.next(action, now)) {
        recorder_.put(EventKind::idle, now);
        return false;
    }
    record(action, now);
    return true;
}

void RecordedSprayer::record(const Action& a, Nanos now) {
    switch (a.kind) {
        case Action::Kind::post:
            return recorder_.put(
                EventKind::post, now, a.flow, recorder_.attempt(a.attempt), a.link, a.begin, a.end - a.begin,
                a.limit - a.begin,
                zigzag(static_cast<Nanos>(static_cast<uint64_t>(a.predicted) - static_cast<uint64_t>(now))));
        case Action::Kind::revoke:
            return recorder_.put(EventKind::revoke, now, a.flow, recorder_.attempt(a.attempt), a.link,
                                 a.begin, a.end - a.begin);
        case Action::Kind::flow_done:
            return recorder_.put(EventKind::flow_done, now, a.flow);
        case Action::Kind::flow_failed:
            return recorder_.put(EventKind::flow_failed, now, a.flow, a.reason);
        case Action::Kind::flow_released:
            return recorder_.put(EventKind::flow_released, now, a.flow);
        case Action::Kind::probe:
            return recorder_.put(EventKind::probe, now, a.link);
        case Action::Kind::link_state:
            return recorder_.put(EventKind::link_state, now, a.link, a.state);
    }
}

Nanos RecordedSprayer::predict(PeerId peer, uint64_t bytes, Priority priority, Nanos now) {
    recorder_.room(sprayer_, now_ = now);
    Nanos answer = sprayer_.predict(peer, bytes, priority, now);
    recorder_.put(EventKind::predict, now, peer, bytes, priority, zigzag(answer));
    return answer;
}

}  // namespace tent::sched
