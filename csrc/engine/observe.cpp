#include "engine/observe.h"

#include <time.h>

#include <algorithm>

#include "engine/engine.h"

namespace tent::engine {

using proto::ObserveMethod;

namespace {

Nanos wall_clock() {
    timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec * kSecond + t.tv_nsec;
}

Status refusal(Code code) {
    if (code == Code::version_mismatch) {
        return {code, "this node speaks version " + std::to_string(proto::kObserveVersion) +
                          " of the observers' messages, you another one: use the same TENT on both"};
    }
    return {code, "a malformed request of an observer"};
}

template <class M>
Status decode_reply(const Peer& peer, ByteView body, M& m) {
    Code code = proto::decode(body, m);
    if (code == Code::ok) return Status::good();
    return {code, "node '" + peer.descriptor().name + "' answered in a way that is not understood (" +
                      std::string(code_name(code)) + "): is it another version of TENT?"};
}

proto::ObservedLink observed(const LinkRow& row) {
    const sched::LinkView& v = row.view;
    proto::ObservedLink l;
    l.peer = row.peer;
    l.transport = row.transport;
    l.name = row.name;
    l.state = row.state;
    l.rate = v.rate_Bps;
    l.burst = v.burst;
    l.in_flight = v.in_flight;
    l.latency = v.latency;
    l.posted = v.posted;
    l.used = v.used;
    l.superseded = v.superseded;
    l.revoked = v.revoked;
    l.failed = v.failed;
    l.outstanding = v.outstanding;
    l.bytes_posted = v.bytes_posted;
    l.bytes_used = v.bytes_used;
    l.bytes_reissued = v.reissued;
    l.faults = v.faults;
    l.last_fault = {v.last_fault.at, v.last_fault.detect, v.last_fault.reroute, v.last_fault.fence,
                    v.last_fault.readmit};
    return l;
}

constexpr uint64_t kProbeBytes = 1 << 20;
constexpr const char* kProbeSegment = "tent-probe";

// What others read to try the rails towards this node: zeros, and as much as one frame carries well.
Result<Bytes> probe_memory(Registry& registry, ByteView request) {
    proto::ProbeMemory asked;
    if (Code c = proto::decode(request, asked); c != Code::ok) return refusal(c);
    proto::ProbeTicket ticket;
    for (const auto& [id, segment] : registry.all()) {
        if (segment->name == kProbeSegment && !segment->revoked) ticket.id = id;
    }
    if (ticket.id == 0) {
        Result<std::shared_ptr<Segment>> made =
            registry.allocate(kProbeBytes, 0, kProbeSegment, Rights::read);
        if (!made.ok()) return made.status();
        ticket.id = (*made)->id;
    }
    Bytes out;
    proto::encode(ticket, out);
    return out;
}

}  // namespace

// ---- the owner's side

Result<Bytes> Observers::answer(uint64_t session, uint64_t method, ByteView request, Nanos now) {
    switch (static_cast<ObserveMethod>(std::min<uint64_t>(method, UINT16_MAX))) {
        case ObserveMethod::stats:
            return stats(request);
        case ObserveMethod::recording:
            return recording(session, request, now);
        case ObserveMethod::probe:
            return probe(request, now);
        case ObserveMethod::probe_result:
            return probe_result(request, now);
        case ObserveMethod::probe_memory:
            return probe_memory(engine_.registry(), request);
    }
    return {Code::unsupported, "this node knows no method " + std::to_string(method)};
}

Result<Bytes> Observers::stats(ByteView request) {
    proto::StatsRequest asked;
    if (Code c = proto::decode(request, asked); c != Code::ok) return refusal(c);
    Bytes out;
    proto::encode(engine_.stats_from(asked.first), out);
    return out;
}

Result<Bytes> Observers::recording(uint64_t session, ByteView request, Nanos now) {
    proto::RecordingRequest asked;
    if (Code c = proto::decode(request, asked); c != Code::ok) return refusal(c);
    auto it = snapshots_.find(session);
    if (asked.handle == 0) {
        if (it == snapshots_.end() && snapshots_.size() >= kMaxSnapshots)
            return {Code::busy, "others fetch this node's recording: try again in a moment"};
        it = snapshots_.insert_or_assign(session, Snapshot{next_++, now, wall_clock(), now, {}}).first;
        it->second.ring = engine_.recorder().snapshot();
    }
    if (it == snapshots_.end() || (asked.handle != 0 && it->second.handle != asked.handle))
        return {Code::invalid_argument, "that snapshot is gone: take a new one"};
    Snapshot& s = it->second;
    s.used_at = now;
    proto::RecordingPart part;
    part.handle = s.handle;
    part.monotonic = s.monotonic;
    part.wall = s.wall;
    part.segments = static_cast<uint32_t>(s.ring.segments.size());
    part.segment = asked.segment;
    if (part.segments != 0) {
        if (asked.segment >= part.segments) return {Code::invalid_argument, "no such segment"};
        const sched::Recorder::Segment& segment = *s.ring.segments[asked.segment];
        if (asked.offset > segment.used) return {Code::invalid_argument, "past the segment's end"};
        part.sequence = segment.sequence;
        part.segment_bytes = segment.used;
        part.offset = asked.offset;
        size_t n = std::min<size_t>(proto::kMaxRecordingPart, segment.used - asked.offset);
        part.bytes.assign(segment.data.get() + asked.offset, segment.data.get() + asked.offset + n);
    }
    Bytes out;
    proto::encode(part, out);
    if (part.segments == 0 ||
        (asked.segment + 1 == part.segments && part.offset + part.bytes.size() == part.segment_bytes))
        snapshots_.erase(it);  // all of it was handed out
    return out;
}

Result<Bytes> Observers::probe(ByteView request, Nanos now) {
    proto::ProbeRequest asked;
    if (Code c = proto::decode(request, asked); c != Code::ok) return refusal(c);
    if (asked.milliseconds < 1 || asked.milliseconds > 10'000)
        return {Code::invalid_argument, "a probe takes 1 ms to 10 s of each link"};
    if (probes_.size() >= kMaxProbes) return {Code::busy, "this node has many probes to do already"};
    proto::ProbeTicket ticket{next_++};
    probes_[ticket.id] = {
        {ticket.id, std::move(asked.descriptor), asked.milliseconds}, false, false, now, {}};
    engine_.tell_news();
    Bytes out;
    proto::encode(ticket, out);
    return out;
}

Result<Bytes> Observers::probe_result(ByteView request, Nanos now) {
    proto::ProbeTicket ticket;
    if (Code c = proto::decode(request, ticket); c != Code::ok) return refusal(c);
    auto it = probes_.find(ticket.id);
    if (it == probes_.end()) return {Code::invalid_argument, "this node knows of no such probe (any more)"};
    it->second.asked_at = now;
    proto::ProbeReport report{it->second.finished, std::move(it->second.report)};
    if (report.finished) probes_.erase(it);
    Bytes out;
    proto::encode(report, out);
    return out;
}

bool Observers::take_probe(ProbeJob& job) {
    for (auto& [id, p] : probes_) {
        if (p.taken) continue;
        p.taken = true;
        job = p.job;
        return true;
    }
    return false;
}

void Observers::probe_done(uint64_t id, std::string report) {
    auto it = probes_.find(id);
    if (it == probes_.end()) return;
    it->second.finished = true;
    it->second.report = std::move(report);
}

void Observers::tick(Nanos now) {
    std::erase_if(snapshots_, [&](const auto& s) { return now - s.second.used_at > kSnapshotLife; });
    std::erase_if(probes_, [&](const auto& p) { return now - p.second.asked_at > kProbeLife; });
}

// ---- the engine about itself

proto::NodeStats Engine::stats_from(uint32_t first) const {
    proto::NodeStats s;
    s.name = settings_.name;
    s.incarnation = incarnation_;
    s.now = monotonic_now();
    s.uptime = s.now - started_at_;
    const Counters& c = counters_;
    uint64_t in_flight_elsewhere = 0;
    for (const LocalRail& r : rails_) in_flight_elsewhere += r.others;
    s.counters = {{"submitted", c.submitted},
                  {"completed", c.completed},
                  {"failed", c.failed},
                  {"cancelled", c.cancelled},
                  {"released", c.released},
                  {"inline_transfers", c.inline_transfers},
                  {"bytes_read", c.bytes_read},
                  {"bytes_written", c.bytes_written},
                  {"check_failures", c.check_failures},
                  {"connections_accepted", c.connections_accepted},
                  {"handshakes_refused", c.handshakes_refused},
                  {"sessions_parked", c.sessions_parked},
                  {"connections", poller_.size()},
                  {"neighbours", neighbours_ ? neighbours_->count() : 0},
                  {"neighbours_in_flight", in_flight_elsewhere},
                  {"sessions", sessions_.size()},
                  {"peers", live_peers_.size()},
                  {"transfers", transfers_.size()},
                  {"loop_lag_ns", static_cast<uint64_t>(std::max<Nanos>(lag_, 0))},
                  {"recorder_events", sprayer_.recorder().events()},
                  {"recorder_bytes", sprayer_.recorder().capacity()}};
    s.first = first;
    each_link([&](const Peer& p, const Peer::Link& l) {
        if (s.links_in_all++ < first || s.links.size() >= proto::kMaxObservedLinks) return;
        s.links.push_back(observed(link_row(p, l)));
    });
    s.first = std::min(first, s.links_in_all);
    return s;
}

proto::NodeStats Engine::stats() {
    std::lock_guard token(token_);
    proto::NodeStats all = stats_from(0);
    while (all.links.size() < all.links_in_all) {
        proto::NodeStats more = stats_from(static_cast<uint32_t>(all.links.size()));
        if (more.links.empty()) break;
        all.links.insert(all.links.end(), more.links.begin(), more.links.end());
    }
    return all;
}

Bytes Engine::recording(const std::string& reason) {
    sched::RecordingHead head{settings_.name, reason, incarnation_, 0, 0};
    sched::Recorder::Snapshot snapshot;
    {
        std::lock_guard token(token_);
        snapshot = sprayer_.recorder().snapshot();
        head.monotonic = monotonic_now();
    }
    head.wall = wall_clock();
    Bytes out;
    snapshot.pack(head, out);
    std::lock_guard token(token_);  // the ring's writer sees at once that nobody reads its segments any more
    snapshot = {};
    return out;
}

bool Engine::take_fault(std::string& what) {
    std::lock_guard lock(news_mutex_);
    what = std::exchange(fault_, {});
    return !what.empty();
}

bool Engine::take_probe(ProbeJob& job) {
    std::lock_guard token(token_);
    return observers_.take_probe(job);
}

void Engine::probe_done(uint64_t id, std::string report) {
    std::lock_guard token(token_);
    observers_.probe_done(id, std::move(report));
}

void Engine::tell_news() {
    {
        std::lock_guard lock(news_mutex_);
        news_ = true;
    }
    news_cv_.notify_all();
}

// A link went down under a peer that is still there: whoever keeps recordings is told.
void Engine::note_fault(LinkId link) {
    const Peer* peer = link < link_peer_.size() ? link_peer_[link] : nullptr;
    if (peer == nullptr || peer->dead() || closed_.load(std::memory_order_relaxed)) return;
    std::string name;
    each_link([&](const Peer&, const Peer::Link& l) {
        if (l.id == link) name = l.name;
    });
    {
        std::lock_guard lock(news_mutex_);
        fault_ = "link " + name + " is down";
        news_ = true;
    }
    news_cv_.notify_all();
}

// ---- the engine about its peers

Result<proto::NodeStats> Engine::stats_of(Peer& peer, Nanos timeout) {
    Nanos until = monotonic_now() + timeout;
    proto::NodeStats all;
    do {
        Bytes request;
        proto::encode(proto::StatsRequest{static_cast<uint32_t>(all.links.size())}, request);
        auto method = static_cast<uint16_t>(ObserveMethod::stats);
        Result<Bytes> reply = call(peer, method, request, std::max<Nanos>(until - monotonic_now(), 0));
        if (!reply.ok()) return reply.status();
        proto::NodeStats part;
        if (Status s = decode_reply(peer, *reply, part); !s.ok()) return s;
        if (part.links.empty()) {
            if (all.links.empty()) all = std::move(part);
            break;
        }
        std::vector<proto::ObservedLink> links = std::move(all.links);
        links.insert(links.end(), part.links.begin(), part.links.end());
        all = std::move(part);
        all.links = std::move(links);
    } while (all.links.size() < all.links_in_all && all.links.size() < kMostLinksOfPeer);
    all.first = 0;
    return all;
}

Result<Bytes> Engine::recording_of(Peer& peer, const std::string& reason, Nanos timeout) {
    Nanos until = monotonic_now() + timeout;
    proto::RecordingRequest ask;
    proto::RecordingPart part;
    std::vector<Bytes> segments;
    std::vector<sched::SegmentBytes> views;
    do {
        Bytes request;
        proto::encode(ask, request);
        auto method = static_cast<uint16_t>(ObserveMethod::recording);
        Result<Bytes> reply = call(peer, method, request, std::max<Nanos>(until - monotonic_now(), 0));
        if (!reply.ok()) return reply.status();
        if (Status s = decode_reply(peer, *reply, part); !s.ok()) return s;
        if (part.segments == 0) break;
        bool expected = part.segment == ask.segment && part.offset == ask.offset &&
                        (ask.handle == 0 || part.handle == ask.handle) && part.segments <= 1024;
        if (!expected)
            return {Code::protocol,
                    "node '" + peer.descriptor().name + "' sent another part than was asked for"};
        if (part.offset == 0) {
            segments.emplace_back();
            views.push_back({part.sequence, {}});
        }
        Bytes& into = segments.back();
        into.insert(into.end(), part.bytes.begin(), part.bytes.end());
        ask.handle = part.handle;
        ask.offset += part.bytes.size();
        if (ask.offset == part.segment_bytes) {
            ++ask.segment;
            ask.offset = 0;
        }
    } while (ask.segment < part.segments);
    for (size_t i = 0; i < views.size(); ++i) views[i].bytes = segments[i];
    sched::RecordingHead head{peer.descriptor().name, reason, peer.descriptor().incarnation, part.monotonic,
                              part.wall};
    Bytes out;
    sched::pack_recording(head, views, out);
    return out;
}

}  // namespace tent::engine
