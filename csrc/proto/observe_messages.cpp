#include "proto/observe_messages.h"

#include <algorithm>
#include <iterator>

#include "proto/wire.h"

namespace tent::proto {

namespace {

constexpr size_t kMaxWord = 64;  // of a counter's or a transport's name

void begin(Writer& w) {
    w.u16(kObserveVersion);
}

// The version first: what follows in another one is not ours to judge.
Code check_version(Reader& r) {
    uint16_t version = r.u16();
    if (!r.ok()) return Code::protocol;
    return version == kObserveVersion ? Code::ok : Code::version_mismatch;
}

Code end(const Reader& r, bool good = true) {
    return r.done() && good ? Code::ok : Code::protocol;
}

void put(Writer& w, int64_t v) {
    w.u64(static_cast<uint64_t>(v));
}
int64_t get(Reader& r) {
    return static_cast<int64_t>(r.u64());
}
void put(Writer& w, std::string_view s, size_t most) {
    w.str(s.substr(0, most));
}

// The numbers of a link, in the order in which they travel.
template <class L, class F>
void numbers(L& l, F f) {
    for (auto* v : {&l.rate, &l.burst, &l.in_flight}) f(*v);
    f(l.latency);
    for (auto* v : {&l.posted, &l.used, &l.superseded, &l.revoked, &l.failed, &l.outstanding, &l.bytes_posted,
                    &l.bytes_used, &l.bytes_reissued})
        f(*v);
    auto& t = l.last_fault;
    for (auto* v : {&t.at, &t.detect, &t.reroute, &t.fence, &t.readmit}) f(*v);
}

}  // namespace

void encode(const StatsRequest& m, Bytes& out) {
    Writer w(out);
    begin(w);
    w.u32(m.first);
}

Code decode(ByteView body, StatsRequest& m) {
    Reader r(body);
    if (Code c = check_version(r); c != Code::ok) return c;
    m.first = r.u32();
    return end(r);
}

void encode(const NodeStats& m, Bytes& out) {
    Writer w(out);
    begin(w);
    put(w, m.name, kMaxName);
    w.id(m.incarnation);
    put(w, m.now);
    put(w, m.uptime);
    size_t counters = std::min(m.counters.size(), kMaxObservedCounters);
    w.u16(static_cast<uint16_t>(counters));
    for (size_t i = 0; i < counters; ++i) {
        put(w, m.counters[i].first, kMaxWord);
        w.u64(m.counters[i].second);
    }
    w.u32(m.links_in_all);
    w.u32(m.first);
    size_t links = std::min(m.links.size(), kMaxObservedLinks);
    w.u16(static_cast<uint16_t>(links));
    for (size_t i = 0; i < links; ++i) {
        const ObservedLink& l = m.links[i];
        put(w, l.peer, kMaxName);
        put(w, l.transport, kMaxWord);
        put(w, l.name, kMaxName);
        w.u8(l.state);
        w.u32(l.faults);
        numbers(l, [&](auto v) { w.u64(static_cast<uint64_t>(v)); });
    }
}

Code decode(ByteView body, NodeStats& m) {
    m = {};
    Reader r(body);
    if (Code c = check_version(r); c != Code::ok) return c;
    m.name = r.str(kMaxName);
    m.incarnation = r.id();
    m.now = get(r);
    m.uptime = get(r);
    size_t counters = r.u16();
    if (counters > kMaxObservedCounters) return Code::protocol;
    for (size_t i = 0; i < counters && r.ok(); ++i) {
        std::string name = r.str(kMaxWord);
        m.counters.emplace_back(std::move(name), r.u64());
    }
    m.links_in_all = r.u32();
    m.first = r.u32();
    size_t links = r.u16();
    if (links > kMaxObservedLinks) return Code::protocol;
    bool good = m.first <= m.links_in_all && links <= m.links_in_all - m.first;
    for (size_t i = 0; i < links && r.ok(); ++i) {
        ObservedLink l;
        l.peer = r.str(kMaxName);
        l.transport = r.str(kMaxWord);
        l.name = r.str(kMaxName);
        l.state = r.u8();
        l.faults = r.u32();
        numbers(l, [&](auto& v) { v = static_cast<std::remove_reference_t<decltype(v)>>(r.u64()); });
        good = good && l.state < std::size(kLinkStates);
        m.links.push_back(std::move(l));
    }
    return end(r, good);
}

void encode(const RecordingRequest& m, Bytes& out) {
    Writer w(out);
    begin(w);
    w.u64(m.handle);
    w.u32(m.segment);
    w.u64(m.offset);
}

Code decode(ByteView body, RecordingRequest& m) {
    Reader r(body);
    if (Code c = check_version(r); c != Code::ok) return c;
    m.handle = r.u64();
    m.segment = r.u32();
    m.offset = r.u64();
    return end(r);
}

void encode(const RecordingPart& m, Bytes& out) {
    Writer w(out);
    begin(w);
    w.u64(m.handle);
    put(w, m.monotonic);
    put(w, m.wall);
    w.u32(m.segments);
    w.u32(m.segment);
    w.u64(m.sequence);
    w.u64(m.segment_bytes);
    w.u64(m.offset);
    w.raw(m.bytes);
}

Code decode(ByteView body, RecordingPart& m) {
    Reader r(body);
    if (Code c = check_version(r); c != Code::ok) return c;
    m.handle = r.u64();
    m.monotonic = get(r);
    m.wall = get(r);
    m.segments = r.u32();
    m.segment = r.u32();
    m.sequence = r.u64();
    m.segment_bytes = r.u64();
    m.offset = r.u64();
    ByteView rest = r.raw(r.left());
    m.bytes.assign(rest.begin(), rest.end());
    bool good = m.handle != 0 && m.segment_bytes <= kMaxSegmentBytes && rest.size() <= kMaxRecordingPart &&
                within(m.offset, rest.size(), m.segment_bytes);
    // An empty recorder has no segment; all others have bytes until their end.
    good = good && (m.segments == 0 ? m.segment_bytes == 0 : m.segment < m.segments);
    return end(r, good && (m.offset == m.segment_bytes || !rest.empty()));
}

void encode(const ProbeRequest& m, Bytes& out) {
    Writer w(out);
    begin(w);
    w.u32(m.milliseconds);
    w.raw(m.descriptor);
}

Code decode(ByteView body, ProbeRequest& m) {
    Reader r(body);
    if (Code c = check_version(r); c != Code::ok) return c;
    m.milliseconds = r.u32();
    ByteView rest = r.raw(r.left());
    m.descriptor.assign(rest.begin(), rest.end());
    return end(r, !rest.empty());
}

void encode(const ProbeTicket& m, Bytes& out) {
    Writer w(out);
    begin(w);
    w.u64(m.id);
}

Code decode(ByteView body, ProbeTicket& m) {
    Reader r(body);
    if (Code c = check_version(r); c != Code::ok) return c;
    m.id = r.u64();
    return end(r);
}

void encode(const ProbeMemory&, Bytes& out) {
    Writer w(out);
    begin(w);
}

Code decode(ByteView body, ProbeMemory&) {
    Reader r(body);
    if (Code c = check_version(r); c != Code::ok) return c;
    return end(r);
}

void encode(const ProbeReport& m, Bytes& out) {
    Writer w(out);
    begin(w);
    w.u8(m.finished ? 1 : 0);
    w.raw(as_bytes(std::string_view(m.text).substr(0, kMaxProbeText)));
}

Code decode(ByteView body, ProbeReport& m) {
    Reader r(body);
    if (Code c = check_version(r); c != Code::ok) return c;
    uint8_t finished = r.u8();
    m.finished = finished == 1;
    ByteView rest = r.raw(r.left());
    m.text.assign(reinterpret_cast<const char*>(rest.data()), rest.size());
    return end(r, finished <= 1 && rest.size() <= kMaxProbeText && (m.finished || rest.empty()));
}

}  // namespace tent::proto
