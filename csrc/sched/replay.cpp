#include "sched/replay.h"

#include <algorithm>
#include <memory>

namespace tent::sched {

namespace {

// Slices end where they ended then: the ranges that decided it are not in the recording.
class RecordedShape final : public SliceShape {
  public:
    uint64_t cut(uint64_t begin, uint64_t want) const override {
        asked = true;
        agrees = begin == expected.begin && begin + want == expected.limit;
        return agrees ? expected.end : begin + want;
    }
    Action expected;
    mutable bool asked = false, agrees = true;
};

bool same(const Action& a, const Action& b) {
    const auto& [kind, flow, attempt, link, begin, end, predicted, state, reason, limit] = a;
    return kind == b.kind && flow == b.flow && attempt == b.attempt && link == b.link && begin == b.begin &&
           end == b.end && predicted == b.predicted && state == b.state && reason == b.reason &&
           limit == b.limit;
}

std::string in_words(const Action& a) {
    static constexpr const char* kNames[] = {"post",          "revoke", "flow_done", "flow_failed",
                                             "flow_released", "probe",  "link_state"};
    return std::string(kNames[static_cast<size_t>(a.kind)]) + " flow " + std::to_string(a.flow) +
           " attempt " + std::to_string(a.attempt) + " link " + std::to_string(a.link) + " [" +
           std::to_string(a.begin) + ", " + std::to_string(a.end) + ") predicted " +
           std::to_string(a.predicted) + " state " + std::to_string(static_cast<int>(a.state)) + " reason " +
           std::to_string(a.reason);
}

class Player {
  public:
    explicit Player(Replay& result) : result_(result) {}
    Status segment(const SegmentBytes& bytes);

  private:
    Status start(const SegmentReader& reader);
    void compare_state(const SegmentReader& reader);
    void play(const Event& e);
    void play_next(const Event& e);
    void differs(const std::string& what) {
        if (result_.identical) {
            result_.difference =
                "event " + std::to_string(result_.events) + " at " + std::to_string(now_) + " ns: " + what;
        }
        result_.identical = false;
    }

    static constexpr Nanos kMostLag = Nanos{1} << 58;
    Replay& result_;
    RecordedShape shape_;
    std::unique_ptr<Sprayer> sprayer_;
    uint64_t sequence_ = 0;
    LinkId added_ = kNoId;  // the last one
    Nanos now_ = 0, lag_ = 0;
    Bytes state_;
};

Status Player::segment(const SegmentBytes& bytes) {
    SegmentReader reader(bytes.bytes);
    if (!reader.ok()) return {Code::protocol, "a segment of the recording is damaged"};
    if (sprayer_ && bytes.sequence != sequence_ + 1) sprayer_.reset();
    sequence_ = bytes.sequence;
    if (sprayer_) {
        compare_state(reader);
    } else if (reader.checkpoint().empty()) {
        ++result_.skipped;
        return Status::good();
    } else if (Status s = start(reader); !s.ok()) {
        return s;
    }
    ++result_.segments;
    Event e;
    while (result_.identical && reader.next(e)) play(e);
    if (!reader.ok()) return {Code::protocol, "a segment of the recording is damaged"};
    if (lag_ > kMostLag) return {Code::protocol, "the recording holds times that cannot be"};
    return Status::good();
}

Status Player::start(const SegmentReader& reader) {
    sprayer_ = std::make_unique<Sprayer>(Settings{});
    return sprayer_->restore(reader.checkpoint(), shape_);
}

void Player::compare_state(const SegmentReader& reader) {
    if (reader.checkpoint().empty()) return;
    state_.clear();
    sprayer_->checkpoint(state_, kMaxRecording);
    ++result_.checkpoints;
    if (!std::equal(state_.begin(), state_.end(), reader.checkpoint().begin(), reader.checkpoint().end()))
        differs("the sprayer's state is not the one that was recorded");
}

void Player::play_next(const Event& e) {
    Action got;
    shape_.expected = e.action;
    shape_.asked = false;
    shape_.agrees = true;
    bool any = sprayer_->next(got, e.now);
    if (e.kind == EventKind::idle) {
        if (any) differs("decided " + in_words(got) + ", where nothing was decided");
        return;
    }
    ++result_.actions;
    if (!any) return differs("decided nothing, where it was " + in_words(e.action));
    if (!same(got, e.action)) differs("decided " + in_words(got) + ", where it was " + in_words(e.action));
}

void Player::play(const Event& e) {
    ++result_.events;
    now_ = e.now;
    switch (e.kind) {
        case EventKind::add_rail:
            sprayer_->add_rail(e.rail);
            return;
        case EventKind::add_link:
            added_ = sprayer_->add_link(e.link_spec, e.now);
            return;
        case EventKind::link_id:
            if (e.link != added_)
                differs("link " + std::to_string(e.link) + " is link " + std::to_string(added_));
            return;
        case EventKind::forget_link:
            sprayer_->forget_link(e.link);
            return;
        case EventKind::forget_rail:
            sprayer_->forget_rail(e.rail_id);
            return;
        case EventKind::link_down:
            return sprayer_->link_down(e.link, e.now);
        case EventKind::link_up:
            return sprayer_->link_up(e.link, e.now);
        case EventKind::probe_good:
        case EventKind::probe_bad:
            return sprayer_->link_probe(e.link, e.kind == EventKind::probe_good, e.now);
        case EventKind::corrupting:
            return sprayer_->link_corrupting(e.link, e.now);
        case EventKind::asleep:
            return sprayer_->link_asleep(e.link, e.now);
        case EventKind::remove_link:
            return sprayer_->remove_link(e.link, e.now);
        case EventKind::window:
            return sprayer_->link_window(e.link, e.value, e.until, e.now);
        case EventKind::add_flow: {
            FlowSpec spec = e.flow_spec;
            spec.shape = e.shaped ? &shape_ : nullptr;
            return sprayer_->add_flow(e.flow, spec, e.now);
        }
        case EventKind::set_priority:
            return sprayer_->set_priority(e.flow, e.priority, e.now);
        case EventKind::cancel_flow:
            return sprayer_->cancel_flow(e.flow, e.now);
        case EventKind::ended:
            return sprayer_->attempt_ended(e.attempt, e.outcome, e.reason, e.now);
        case EventKind::progress:
            return sprayer_->attempt_progress(e.attempt, e.value, e.now);
        case EventKind::own_lag: {
            // Sums of what one event may say cannot overflow before this does.
            auto lag = static_cast<Nanos>(e.value);
            if (lag < 0 || lag > kMostLag || lag_ > kMostLag) {
                lag_ = kMostLag + 1;
                return;
            }
            lag_ += lag;
            return sprayer_->own_lag(lag);
        }
        case EventKind::rail_shared:
            return sprayer_->rail_shared(e.rail_id, e.value, e.bytes, e.now);
        case EventKind::tick:
            return sprayer_->tick(e.now);
        case EventKind::predict: {
            Nanos answer = sprayer_->predict(e.peer, e.bytes, e.priority, e.now);
            if (answer != static_cast<Nanos>(e.value)) {
                differs("predicted " + std::to_string(answer) + " ns, where it was " +
                        std::to_string(static_cast<Nanos>(e.value)));
            }
            return;
        }
        default:
            return play_next(e);
    }
}

}  // namespace

Result<Replay> replay(ByteView recording) {
    Replay result;
    std::vector<SegmentBytes> segments;
    if (Status s = open_recording(recording, result.head, segments); !s.ok()) return s;
    Player player(result);
    for (const SegmentBytes& s : segments) {
        if (Status status = player.segment(s); !status.ok()) return status;
        if (!result.identical) break;
    }
    return result;
}

}  // namespace tent::sched
