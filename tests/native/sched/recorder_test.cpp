// The flight recorder: its format, its ring, and bytes that are not what it wrote. That recordings of random
// lives replay is in properties_test.cpp.
#include <doctest/doctest.h>

#include <algorithm>

#include "../proto/golden.h"
#include "base/digest.h"
#include "sched/replay.h"
#include "world.h"

using namespace tent;
using namespace tent::sched;
using namespace tent::sched::test;

namespace {

Bytes recording(const RecordedSprayer& sprayer, const RecordingHead& head = {}) {
    Bytes out;
    sprayer.recorder().snapshot().pack(head, out);
    return out;
}

// A life with a fault in it: two rails, one of which dies under load and comes back.
void faulty_life(World& w) {
    LinkId a = w.link(w.rail(200'000'000), w.rail(200'000'000), 50 * kMicrosecond);
    w.link(w.rail(100'000'000), w.rail(100'000'000), 50 * kMicrosecond);
    for (int i = 0; i < 8; ++i) w.flow(8 << 20);
    w.run(w.now + 100 * kMillisecond);
    w.cut(a);
    w.run(w.now + 100 * kMillisecond);
    w.mend(a);
    w.run(w.now + 100 * kSecond);
}

void seal(Bytes& bytes) {
    uint64_t sum = xxh3_64(bytes.data(), bytes.size() - 8, 0);
    for (size_t i = 0; i < 8; ++i) bytes[bytes.size() - 8 + i] = static_cast<uint8_t>(sum >> (8 * i));
}

}  // namespace

TEST_CASE("the recording format has golden bytes") {
    // Every kind of event, with numbers of one and of several bytes.
    Sprayer nobody({});
    Recorder r(256 << 10);
    r.room(nobody, 1'000'000'000, 2048);
    r.put(EventKind::add_rail, 1'000'000'000, 125'000'000);
    r.text("eth0");
    r.put(EventKind::add_link, 1'000'000'010, 7, 0, 1, zigzag(25'000), 4, 1);
    r.text("b/eth0-eth0");
    r.put(EventKind::link_down, 1'000'000'020, 3);
    r.put(EventKind::link_up, 1'000'000'020, 3);
    r.put(EventKind::probe_good, 1'000'000'030, 3);
    r.put(EventKind::probe_bad, 1'000'000'030, 300);
    r.put(EventKind::remove_link, 1'000'000'040, 3);
    r.put(EventKind::add_flow, 1'000'001'000, 99, 7, 1 << 20, 1, 2, zigzag(kNever), 1, 0);
    r.list({3, 300});
    r.put(EventKind::set_priority, 1'000'001'000, 99, 0);
    r.put(EventKind::cancel_flow, 1'000'001'000, 99);
    r.put(EventKind::post, 1'000'002'000, 99, r.attempt(5), 3, 0, 65536, 70000, zigzag(1'000'000));
    r.put(EventKind::progress, 1'000'003'000, r.attempt(5), 4096);
    r.put(EventKind::ended, 1'000'002'500, r.attempt(5), 1, 15);  // clocks may seem to go back
    r.put(EventKind::own_lag, 1'000'002'500, zigzag(3'000'000));
    r.put(EventKind::tick, 1'000'004'000);
    r.put(EventKind::idle, 1'000'004'000);
    r.put(EventKind::predict, 1'000'004'000, 7, 1 << 30, 1, zigzag(kNever));
    r.put(EventKind::revoke, 1'000'005'000, 99, r.attempt(4), 3, 0, 65536);
    r.put(EventKind::flow_done, 1'000'005'000, 99);
    r.put(EventKind::flow_failed, 1'000'005'000, 99, 16);
    r.put(EventKind::flow_released, 1'000'005'000, 99);
    r.put(EventKind::probe, 1'000'005'000, 3);
    r.put(EventKind::link_state, 1'000'005'000, 3, 2);
    Recorder::Snapshot s = r.snapshot();
    REQUIRE(s.segments.size() == 1);
    // The checkpoint is the sprayer's own affair, and changes with it: a segment without one.
    SegmentReader head(ByteView(s.segments[0]->data.get(), s.segments[0]->used));
    REQUIRE(head.ok());
    Bytes segment;
    const uint8_t* begin = s.segments[0]->data.get();
    const uint8_t* checkpoint = head.checkpoint().data();
    segment.assign(begin, checkpoint - 4);
    segment.insert(segment.end(), 4, 0);
    segment.insert(segment.end(), checkpoint + head.checkpoint().size(), begin + s.segments[0]->used);
    RecordingHead about{"node-a", "asked for", {}, 1'000'006'000, 1'700'000'000'000'000'000};
    about.incarnation.fill(0x5a);
    Bytes bytes;
    pack_recording(about, {{1, segment}}, bytes);
    CHECK(bytes == tent::test::golden("recording"));

    RecordingHead back;
    std::vector<SegmentBytes> segments;
    Bytes golden = tent::test::golden("recording");
    REQUIRE(open_recording(golden, back, segments).ok());
    CHECK(back.node == "node-a");
    CHECK(back.reason == "asked for");
    CHECK(back.wall == about.wall);
    SegmentReader reader(segments.at(0).bytes);
    Event e;
    std::vector<EventKind> kinds;
    while (reader.next(e)) {
        kinds.push_back(e.kind);
        if (e.kind == EventKind::add_flow) {
            CHECK(e.flow == 99);
            CHECK(e.flow_spec.bytes == 1 << 20);
            CHECK(e.flow_spec.deadline == kNever);
            CHECK(e.flow_spec.allowed == std::vector<LinkId>{3, 300});
        }
        if (e.kind == EventKind::post) {
            CHECK(e.action.attempt == 5);
            CHECK(e.action.limit == 70000);
            CHECK(e.action.predicted == 1'000'002'000 + 1'000'000);
        }
        if (e.kind == EventKind::ended) CHECK(e.now == 1'000'002'500);
    }
    CHECK(reader.ok());
    CHECK(kinds.size() == 23);

    Bytes newer = golden;
    newer[8] = 2;
    CHECK(open_recording(newer, back, segments).code() == Code::version_mismatch);
}

TEST_CASE("a recorded decision that is not the sprayer's is noticed") {
    World w({}, 4 << 20);
    faulty_life(w);
    Bytes bytes = recording(w.sprayer);
    Result<Replay> r = replay(bytes);
    REQUIRE(r.ok());
    CHECK_MESSAGE(r->identical, r->difference);
    CHECK(r->actions > 20);

    // The same events, but one less: an attempt that never ended.
    RecordingHead head;
    std::vector<SegmentBytes> segments;
    REQUIRE(open_recording(bytes, head, segments).ok());
    SegmentReader reader(segments.at(0).bytes);
    Event e;
    size_t changed = 0;
    Bytes segment(segments[0].bytes.begin(), segments[0].bytes.end());
    while (reader.next(e) && changed == 0) {
        if (e.kind != EventKind::add_flow) continue;
        // Its size is a varint of four bytes: 8 MiB.
        Bytes size = {0x80, 0x80, 0x80, 0x04};
        auto at = std::search(segment.begin(), segment.end(), size.begin(), size.end());
        for (; at != segment.end(); at = std::search(at + 1, segment.end(), size.begin(), size.end()))
            changed = 1, at[1] = 0x90;
    }
    REQUIRE(changed == 1);
    Bytes other;
    pack_recording(head, {{segments[0].sequence, segment}}, other);
    Result<Replay> bad = replay(other);
    CHECK((!bad.ok() || !bad->identical));
}

TEST_CASE("the ring keeps the last segments, and what a snapshot holds is not written over") {
    World w({}, 1);
    LinkId link = w.link(w.rail(100'000'000), w.rail(100'000'000), 50 * kMicrosecond);
    Recorder::Snapshot early = w.sprayer.recorder().snapshot();
    Bytes before;
    early.pack({}, before);
    uint64_t flows = 0;
    for (uint64_t wanted = 40; w.sprayer.recorder().events() < wanted * 4096; ++flows) {
        w.flow(1 << 20);
        w.run(w.now + 10 * kSecond);
    }
    Bytes after;
    early.pack({}, after);
    CHECK(before == after);
    Recorder::Snapshot late = w.sprayer.recorder().snapshot();
    REQUIRE(late.segments.size() == Recorder::kSegments);
    CHECK(late.segments.front()->sequence > 1);
    for (size_t i = 1; i < late.segments.size(); ++i)
        CHECK(late.segments[i]->sequence == late.segments[i - 1]->sequence + 1);
    Bytes bytes;
    late.pack({}, bytes);
    CHECK(bytes.size() <= w.sprayer.recorder().capacity() + 1024);
    Result<Replay> r = replay(bytes);
    REQUIRE(r.ok());
    CHECK_MESSAGE(r->identical, r->difference);
    CHECK(r->checkpoints == Recorder::kSegments - 1);
    CHECK(w.sprayer.view(link).posted >= flows);
}

TEST_CASE("a recorder without memory records nothing and changes nothing") {
    World with({}, 1 << 20), without({}, 0);
    with.tracing = without.tracing = true;
    faulty_life(with);
    faulty_life(without);
    CHECK(with.trace == without.trace);
    CHECK(without.sprayer.recorder().events() == 0);
    CHECK(without.sprayer.recorder().snapshot().segments.empty());
}

TEST_CASE("damaged recordings are refused, and made-up ones harm nobody") {
    World w({}, 1);
    faulty_life(w);
    const Bytes good = recording(w.sprayer);
    REQUIRE(replay(good).ok());
    for (size_t n = 0; n < good.size(); n += 1 + good.size() / 200)
        CHECK(!replay(ByteView(good).first(n)).ok());
    Random random(7);
    uint64_t refused = 0, differed = 0;
    for (int round = 0; round < 3000; ++round) {
        Bytes bad = good;
        for (uint64_t n = random.between(1, 4); n > 0; --n) {
            // Mostly at the start, where the checkpoint lies.
            uint64_t range = random.chance(60) ? std::min<uint64_t>(3000, bad.size()) : bad.size();
            bad[random.below(range)] = static_cast<uint8_t>(random.chance(30) ? 0xff : random.next());
        }
        tent::test::Exact unsealed{ByteView(bad)};
        if (bad != good) CHECK(!replay(unsealed.view()).ok());
        seal(bad);
        tent::test::Exact sealed{ByteView(bad)};
        Result<Replay> r = replay(sealed.view());
        refused += !r.ok();
        differed += r.ok() && !r->identical;
    }
    MESSAGE(refused << " refused, " << differed << " replayed to something else");
    CHECK(refused > 1000);
    CHECK(differed > 100);
}

TEST_CASE("the four times of a link's last fault") {
    World w({}, 0);
    LinkId a = w.link(w.rail(200'000'000), w.rail(200'000'000), 50 * kMicrosecond);
    LinkId b = w.link(w.rail(100'000'000), w.rail(100'000'000), 50 * kMicrosecond);
    for (int i = 0; i < 8; ++i) w.flow(8 << 20);
    w.run(w.now + 100 * kMillisecond);
    CHECK(w.sprayer.view(a).faults == 0);
    CHECK(w.sprayer.view(a).last_fault.at < 0);
    w.stall(a);
    w.run(w.now + 80 * kMillisecond);
    LinkView v = w.sprayer.view(a);
    CHECK(v.faults == 1);
    CHECK(v.last_fault.detect > 0);
    CHECK(v.last_fault.fence >= v.last_fault.detect);
    CHECK(v.last_fault.reroute >= v.last_fault.detect);
    CHECK(v.last_fault.readmit < 0);
    w.heal(a);
    w.run(w.now + 1000 * kSecond);
    v = w.sprayer.view(a);
    CHECK(v.last_fault.readmit > v.last_fault.detect);
    CHECK(w.sprayer.view(b).faults == 0);
    // An error takes it down at once; counted from its last sign of life.
    w.flow(64 << 20);
    w.run(w.now + 20 * kMillisecond);
    w.cut(a);
    w.run(w.now + 50 * kMillisecond);
    v = w.sprayer.view(a);
    CHECK(v.faults >= 2);
    CHECK(v.last_fault.detect >= 0);
    CHECK(v.last_fault.reroute >= v.last_fault.detect);
}
