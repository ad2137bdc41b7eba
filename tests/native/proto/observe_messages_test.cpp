#include "proto/observe_messages.h"

#include <doctest/doctest.h>

#include "golden.h"
#include "proto/wire.h"

using namespace tent;
using namespace tent::proto;
using tent::test::Exact;
using tent::test::golden;

namespace {

template <class M>
Bytes bytes_of(const M& m) {
    Bytes out;
    encode(m, out);
    return out;
}

// encode() gives the golden bytes; decode() of them encodes alike; another version is refused by name.
// `fixed`: no list or text at the end, so that every cut and every addition is noticed.
template <class M>
M check_message(const std::string& name, const M& m, bool fixed) {
    CAPTURE(name);
    Bytes expected = golden(name);
    CHECK(bytes_of(m) == expected);
    M back;
    {
        Exact copy(expected);
        REQUIRE(decode(copy.view(), back) == Code::ok);
    }
    CHECK(bytes_of(back) == expected);
    M other;
    for (size_t n = 0; n < expected.size(); ++n) {
        Exact cut(ByteView(expected).first(n));
        Code code = decode(cut.view(), other);
        if (fixed || n < 2) CHECK(code == Code::protocol);
    }
    Bytes more = expected;
    more.push_back(0);
    if (fixed) CHECK(decode(more, other) == Code::protocol);
    Bytes newer = expected;
    newer[0] = 2;
    CHECK(decode(newer, other) == Code::version_mismatch);
    return back;
}

NodeStats some_stats() {
    NodeStats s;
    s.name = "decode-1";
    s.incarnation.fill(0x22);
    s.now = 1234567890;
    s.uptime = 1000000000;
    s.counters = {{"submitted", 7}, {"bytes_read", 1ull << 40}};
    s.links_in_all = 3;
    s.first = 1;
    ObservedLink l;
    l.peer = "prefill-0";
    l.transport = "tcp";
    l.name = "prefill-0/eth0-eth1";
    l.state = 2;
    l.faults = 4;
    l.rate = 1'250'000'000;
    l.burst = 131072;
    l.in_flight = 8 << 20;
    l.latency = 25'000;
    l.posted = 10;
    l.used = 5;
    l.superseded = 1;
    l.revoked = 2;
    l.failed = 1;
    l.outstanding = 1;
    l.bytes_posted = 40 << 20;
    l.bytes_used = 20 << 20;
    l.bytes_reissued = 12 << 20;
    l.last_fault = {1234000000, 5000000, 5100000, 5200000, -1};
    s.links = {l};
    return s;
}

}  // namespace

TEST_CASE("every observer's message has golden bytes") {
    check_message("stats_request", StatsRequest{256}, true);
    NodeStats stats = check_message("node_stats", some_stats(), true);
    REQUIRE(stats.links.size() == 1);
    CHECK(stats.links[0].last_fault.readmit == -1);
    CHECK(stats.links[0].bytes_reissued == 12 << 20);
    CHECK(stats.counters[1].second == 1ull << 40);
    check_message("recording_request", RecordingRequest{9, 3, 196608}, true);
    RecordingPart part{9, 1234567890, 1'700'000'000'000'000'000, 8, 3, 77, 400000, 196608, {1, 2, 3}};
    CHECK(check_message("recording_part", part, false).bytes == Bytes{1, 2, 3});
    CHECK(check_message("probe_request", ProbeRequest{{5, 6}, 250}, false).milliseconds == 250);
    check_message("probe_ticket", ProbeTicket{12}, true);
    check_message("probe_memory", ProbeMemory{}, true);
    CHECK(check_message("probe_report", ProbeReport{true, "{}"}, false).text == "{}");
}

TEST_CASE("an observer's message that says too much is refused") {
    NodeStats many = some_stats();
    many.links.assign(kMaxObservedLinks, many.links[0]);
    for (ObservedLink& l : many.links) l.peer = l.name = std::string(kMaxName, 'x');
    many.links_in_all = 1 + kMaxObservedLinks;
    CHECK(bytes_of(many).size() <= kMaxBody);
    NodeStats back;
    CHECK(decode(bytes_of(many), back) == Code::ok);
    many.links_in_all = kMaxObservedLinks;  // fewer than it goes on to tell
    CHECK(decode(bytes_of(many), back) == Code::protocol);
    NodeStats bad = some_stats();
    bad.links[0].state = 6;
    CHECK(decode(bytes_of(bad), back) == Code::protocol);

    RecordingPart part{9, 0, 0, 8, 8, 77, 400000, 0, {1}};
    RecordingPart got;
    CHECK(decode(bytes_of(part), got) == Code::protocol);  // no such segment
    part.segment = 7;
    CHECK(decode(bytes_of(part), got) == Code::ok);
    part.offset = 400000;
    CHECK(decode(bytes_of(part), got) == Code::protocol);  // past its end
    part.offset = 10;
    part.bytes.clear();
    CHECK(decode(bytes_of(part), got) == Code::protocol);  // no progress: who asks would ask for ever
    ProbeReport report{false, "x"};
    ProbeReport read;
    CHECK(decode(bytes_of(report), read) == Code::protocol);
}
