#include "sched/recording.h"

#include <algorithm>

#include "base/digest.h"

namespace tent::sched {

namespace {

constexpr std::string_view kMagic = "TENTFLR1";
constexpr size_t kMaxSegments = 1024;
constexpr Nanos kLongestTime = Nanos{1} << 60;

uint64_t checksum(ByteView v) {
    return xxh3_64(v.data(), v.size(), 0);
}

bool sane(Nanos t) {
    return t >= -kLongestTime && t <= kLongestTime;
}

}  // namespace

void pack_recording(const RecordingHead& head, const std::vector<SegmentBytes>& segments, Bytes& out) {
    size_t begin = out.size(), bytes = 1024;
    for (const SegmentBytes& s : segments) bytes += s.bytes.size() + 16;
    out.reserve(begin + bytes);
    Writer w(out);
    w.raw(as_bytes(kMagic));
    w.u16(kRecordingVersion);
    w.str(std::string_view(head.node).substr(0, kMaxRecordedName));
    w.id(head.incarnation);
    w.u64(static_cast<uint64_t>(head.monotonic));
    w.u64(static_cast<uint64_t>(head.wall));
    w.str(std::string_view(head.reason).substr(0, kMaxRecordedName));
    w.u32(static_cast<uint32_t>(segments.size()));
    for (const SegmentBytes& s : segments) {
        w.u64(s.sequence);
        w.u32(static_cast<uint32_t>(s.bytes.size()));
        w.raw(s.bytes);
    }
    w.u64(checksum(ByteView(out).subspan(begin)));
}

Status open_recording(ByteView in, RecordingHead& head, std::vector<SegmentBytes>& segments) {
    Status damaged{Code::protocol, "the recording is damaged, or cut short"};
    segments.clear();
    if (in.size() < kMagic.size() || !std::equal(kMagic.begin(), kMagic.end(), in.begin()))
        return {Code::protocol, "not a recording of TENT's flight recorder"};
    if (in.size() > kMaxRecording) return {Code::protocol, "the recording is larger than 512 MiB"};
    Reader r(in.subspan(kMagic.size()));
    uint16_t version = r.u16();
    if (r.ok() && version != kRecordingVersion) {
        return {Code::version_mismatch, "the recording has format " + std::to_string(version) +
                                            ", this TENT reads format " + std::to_string(kRecordingVersion)};
    }
    if (r.left() < sizeof(uint64_t)) return damaged;
    ByteView all = in.first(in.size() - sizeof(uint64_t));
    Reader sum(in.subspan(all.size()));
    if (sum.u64() != checksum(all)) return damaged;
    head.node = r.str(kMaxRecordedName);
    head.incarnation = r.id();
    head.monotonic = static_cast<Nanos>(r.u64());
    head.wall = static_cast<Nanos>(r.u64());
    head.reason = r.str(kMaxRecordedName);
    size_t count = r.u32();
    if (!r.ok() || count > kMaxSegments || !sane(head.monotonic) || head.wall < 0) return damaged;
    for (size_t i = 0; i < count; ++i) {
        SegmentBytes s;
        s.sequence = r.u64();
        s.bytes = r.raw(r.u32());
        if (!r.ok() || (i > 0 && s.sequence <= segments.back().sequence)) return damaged;
        segments.push_back(s);
    }
    return r.left() == sizeof(uint64_t) ? Status::good() : damaged;
}

// ---- segments

SegmentReader::SegmentReader(ByteView bytes) : in_(bytes) {
    read_head();
}

void SegmentReader::read_link_spec(LinkSpec& spec) {
    auto& [peer, local, remote, latency, max_attempts, tier, affinity, name] = spec;
    affinity = LinkSpec{}.affinity;  // of a policy that no engine runs: not recorded
    peer = static_cast<PeerId>(in_.below(uint64_t{1} << 32));
    local = static_cast<RailId>(in_.below(uint64_t{1} << 32));
    remote = static_cast<RailId>(in_.below(uint64_t{1} << 32));
    latency = in_.i();
    max_attempts = static_cast<uint32_t>(in_.below(uint64_t{1} << 32));
    tier = static_cast<uint8_t>(in_.below(256));
    name = in_.str(kMaxRecordedName);
    if (latency < 0 || !sane(latency)) in_.fail();
}

void SegmentReader::read_head() {
    begins_ = now_ = in_.i();
    if (!sane(begins_)) in_.fail();
    for (uint64_t n = in_.below(in_.left() + 1); n > 0 && in_.ok(); --n) {
        RailSpec rail;
        rail.name = in_.str(kMaxRecordedName);
        rail.rate_Bps = in_.u();
        outline_.rails.push_back(std::move(rail));
    }
    for (uint64_t n = in_.below(in_.left() + 1); n > 0 && in_.ok(); --n) {
        Outline::Line l;
        l.link = static_cast<LinkId>(in_.below(kNoId));
        l.state = static_cast<LinkState>(in_.below(4));
        read_link_spec(l.spec);
        outline_.links.push_back(std::move(l));
    }
    for (uint64_t n = in_.below(in_.left() + 1); n > 0 && in_.ok(); --n) {
        Outline::Posted p;
        p.attempt = in_.u();
        p.view.flow = in_.u();
        p.view.link = static_cast<LinkId>(in_.below(kNoId));
        p.view.begin = in_.u();
        p.view.end = in_.u();
        p.view.posted_at = in_.i();
        p.view.predicted = in_.i();
        p.view.revoking = in_.below(2) == 1;
        outline_.posted.push_back(p);
    }
    ByteView length = in_.raw(4);
    if (!in_.ok()) return;
    checkpoint_ = in_.raw(Reader(length).u32());
}

void SegmentReader::read_flow_spec(Event& e) {
    auto& [peer, bytes, op, priority, deadline, shape, from_tier, allowed] = e.flow_spec;
    e.flow = in_.u();
    peer = static_cast<PeerId>(in_.below(uint64_t{1} << 32));
    bytes = in_.u();
    op = static_cast<Op>(in_.below(3));
    priority = static_cast<Priority>(in_.below(256));
    deadline = in_.i();
    e.shaped = in_.below(2) == 1;
    shape = nullptr;
    from_tier = static_cast<uint8_t>(in_.below(256));
    allowed.clear();
    for (uint64_t n = in_.below(in_.left() + 1); n > 0 && in_.ok(); --n)
        allowed.push_back(static_cast<LinkId>(in_.below(uint64_t{1} << 32)));
    if (deadline != kNever && !sane(deadline)) in_.fail();
}

void SegmentReader::read_action(Event& e) {
    Action& a = e.action;
    a = Action{};
    a.kind = static_cast<Action::Kind>(static_cast<uint8_t>(e.kind) - static_cast<uint8_t>(EventKind::post));
    bool of_flow = e.kind <= EventKind::flow_released;
    if (of_flow) a.flow = in_.u();
    if (e.kind == EventKind::flow_failed) a.reason = static_cast<uint16_t>(in_.below(65536));
    if (e.kind == EventKind::post || e.kind == EventKind::revoke) {
        a.attempt = last_attempt_ += static_cast<uint64_t>(in_.i());
        a.link = static_cast<LinkId>(in_.below(kNoId));
        a.begin = in_.u();
        a.end = a.begin + in_.u();
    }
    if (e.kind == EventKind::post) {
        a.limit = a.begin + in_.u();
        a.predicted = static_cast<Nanos>(static_cast<uint64_t>(in_.i()) + static_cast<uint64_t>(e.now));
    }
    if (!of_flow) a.link = static_cast<LinkId>(in_.below(kNoId));
    if (e.kind == EventKind::link_state) a.state = static_cast<LinkState>(in_.below(4));
}

bool SegmentReader::next(Event& e) {
    if (!in_.ok() || in_.left() == 0) return false;
    e.kind = static_cast<EventKind>(in_.below(256));
    // Both are below 2^61, or refused.
    Nanos step = in_.i();
    if (!sane(step)) in_.fail();
    e.now = now_ = in_.ok() ? now_ + step : now_;
    if (!sane(now_)) in_.fail();
    switch (e.kind) {
        case EventKind::add_rail:
            e.rail.rate_Bps = in_.u();
            e.rail.name = in_.str(kMaxRecordedName);
            break;
        case EventKind::add_link:
            read_link_spec(e.link_spec);
            break;
        case EventKind::link_down:
        case EventKind::link_up:
        case EventKind::probe_good:
        case EventKind::probe_bad:
        case EventKind::remove_link:
        case EventKind::corrupting:
        case EventKind::asleep:
        case EventKind::forget_link:
        case EventKind::link_id:
            e.link = static_cast<LinkId>(in_.below(uint64_t{1} << 32));
            break;
        case EventKind::window:
            e.link = static_cast<LinkId>(in_.below(uint64_t{1} << 32));
            e.value = in_.u();
            e.until = in_.i();
            if (!sane(e.until)) in_.fail();
            break;
        case EventKind::add_flow:
            read_flow_spec(e);
            break;
        case EventKind::set_priority:
            e.flow = in_.u();
            e.priority = static_cast<Priority>(in_.below(256));
            break;
        case EventKind::cancel_flow:
            e.flow = in_.u();
            break;
        case EventKind::ended:
            e.attempt = last_attempt_ += static_cast<uint64_t>(in_.i());
            e.outcome = static_cast<Outcome>(in_.below(4));
            e.reason = static_cast<uint16_t>(in_.below(65536));
            break;
        case EventKind::progress:
            e.attempt = last_attempt_ += static_cast<uint64_t>(in_.i());
            e.value = in_.u();
            break;
        case EventKind::own_lag:
            e.value = static_cast<uint64_t>(in_.i());
            break;
        case EventKind::forget_rail:
            e.rail_id = static_cast<RailId>(in_.below(uint64_t{1} << 32));
            break;
        case EventKind::rail_shared:
            e.rail_id = static_cast<RailId>(in_.below(uint64_t{1} << 32));
            e.value = in_.u();
            e.bytes = in_.u();
            break;
        case EventKind::tick:
        case EventKind::idle:
            break;
        case EventKind::predict:
            e.peer = static_cast<PeerId>(in_.below(uint64_t{1} << 32));
            e.bytes = in_.u();
            e.priority = static_cast<Priority>(in_.below(3));
            e.value = static_cast<uint64_t>(in_.i());
            break;
        case EventKind::post:
        case EventKind::revoke:
        case EventKind::flow_done:
        case EventKind::flow_failed:
        case EventKind::flow_released:
        case EventKind::probe:
        case EventKind::link_state:
            read_action(e);
            break;
        default:
            in_.fail();
    }
    return in_.ok();
}

}  // namespace tent::sched
