// Whatever happens, from thousands of seeds: the invariants 2, 3, 8 and 9.
#include <doctest/doctest.h>

#include "base/status.h"
#include "sched/replay.h"
#include "world.h"

using namespace tent;
using namespace tent::sched;
using namespace tent::sched::test;

namespace {

// Cuts at multiples of a leaf, a few leaves at a time.
class Leaves final : public SliceShape {
  public:
    uint64_t cut(uint64_t begin, uint64_t want) const override {
        uint64_t end = begin + std::min<uint64_t>(want, 9 * kLeaf);
        return end / kLeaf * kLeaf > begin ? end / kLeaf * kLeaf : end;
    }

  private:
    static constexpr uint64_t kLeaf = 65536;
};

const Leaves kLeaves;

// A world of random rails and links towards one or two peers, random flows, random faults that all end.
void random_life(World& w, uint64_t seed) {
    Random r(seed);
    size_t locals = r.between(1, 4), remotes = r.between(1, 4), peers = r.between(1, 2);
    std::vector<RailId> local;
    std::vector<LinkId> links;
    std::vector<std::vector<LinkId>> of_peer(peers);
    auto rate = [&] { return r.between(1, 40) * 50'000'000; };
    for (size_t i = 0; i < locals; ++i) local.push_back(w.rail(rate(), r.chance(50)));
    for (PeerId p = 0; p < peers; ++p) {
        for (size_t j = 0; j < remotes; ++j) {
            RailId remote = w.rail(rate(), r.chance(50));
            for (size_t i = 0; i < locals; ++i) {
                if (i != j && r.chance(50)) continue;
                links.push_back(w.link(local[i], remote, static_cast<Nanos>(r.between(1, 200)) * kMicrosecond,
                                       p, r.chance(10) ? 2 : 1, r.chance(20) ? 3 : 0));
                of_peer[p].push_back(links.back());
            }
        }
    }
    for (PeerId p = 0; p < peers; ++p) {  // nobody is out of reach for ever
        links.push_back(w.link(local[0], w.rail(rate()), kMicrosecond, p));
        of_peer[p].push_back(links.back());
    }
    w.reports_progress = r.chance(50);
    std::vector<FlowId> ids;
    for (uint64_t n = r.between(5, 40); n > 0; --n) {
        switch (r.below(12)) {
            case 0:
                w.cut(links[r.below(links.size())]);
                break;
            case 1:
                w.stall(links[r.below(links.size())]);
                break;
            case 2:
                w.set_rate(local[r.below(local.size())], rate());
                break;
            case 3:
                if (!ids.empty()) w.cancel(ids[r.below(ids.size())]);
                break;
            case 4:
                if (!ids.empty()) {
                    w.sprayer.set_priority(ids[r.below(ids.size())], static_cast<Priority>(r.below(3)),
                                           w.now);
                }
                break;
            case 5:
                if (r.chance(20)) w.refuse_next(static_cast<uint16_t>(Code::out_of_range));
                break;
            case 6: {
                LinkId l = links[r.below(links.size())];
                w.heal(l);
                w.mend(l);
                break;
            }
            case 7:
                w.sprayer.own_lag(static_cast<Nanos>(r.below(3)) * kMillisecond);
                break;
            default: {
                Nanos deadline =
                    r.chance(20) ? w.now + static_cast<Nanos>(r.below(20)) * kMillisecond : kNever;
                uint64_t bytes = r.chance(50) ? r.below(200'000) : r.below(24 << 20);
                auto peer = static_cast<PeerId>(r.below(peers));
                const auto& reach = of_peer[peer];
                std::vector<LinkId> allowed;
                if (r.chance(20)) allowed = {reach[r.below(reach.size())], reach[r.below(reach.size())]};
                ids.push_back(w.flow(bytes, static_cast<Priority>(r.below(3)), deadline, peer,
                                     r.chance(50) ? &kLeaves : nullptr, allowed));
            }
        }
        for (uint64_t steps = r.below(30); steps > 0 && w.step(); --steps) {
        }
    }
    for (LinkId l : links) {  // every fault ends
        w.heal(l);
        w.mend(l);
    }
    w.run(w.now + 1000 * kSecond);
}

}  // namespace

TEST_CASE("invariants 2, 3 and 9: flows end once, are released once and fenced, whatever the links do") {
    uint64_t done = 0, failed = 0, cancelled = 0, revokes = 0, suspects = 0;
    for (uint64_t seed = 1; seed <= 3000; ++seed) {
        CAPTURE(seed);
        World w;
        random_life(w, seed);
        REQUIRE(w.sprayer.flows() == 0);
        REQUIRE(w.sprayer.outstanding() == 0);
        for (const auto& [id, f] : w.flows) {
            CAPTURE(id);
            REQUIRE(f.over());
            REQUIRE(f.released != kNever);
            // A link's fault alone never fails a transfer before its deadline.
            if (f.failed && f.deadline == kNever)
                REQUIRE(f.reason == static_cast<uint16_t>(Code::out_of_range));
            done += f.done;
            failed += f.failed;
            cancelled += f.cancelled;
        }
        for (const auto& [link, list] : w.states) {
            for (const auto& [when, state] : list) suspects += state == LinkState::suspect;
        }
        revokes += w.revokes;
    }
    MESSAGE(done << " done, " << failed << " failed, " << cancelled << " cancelled, " << revokes
                 << " revokes, " << suspects << " suspicions");
    // The worlds are not so tame that nothing is tried.
    CHECK(done > 10'000);
    CHECK(failed > 500);
    CHECK(cancelled > 500);
    CHECK(revokes > 500);
    CHECK(suspects > 100);
}

TEST_SUITE("protects:reroute") {
    TEST_CASE("invariant 3: a link's fault moves its bytes elsewhere") {
        for (uint64_t seed = 1; seed <= 100; ++seed) {
            CAPTURE(seed);
            World w;
            random_life(w, seed);
            for (const auto& [id, f] : w.flows) {
                if (f.failed && f.deadline == kNever)
                    REQUIRE(f.reason == static_cast<uint16_t>(Code::out_of_range));
            }
        }
    }
}

TEST_SUITE("protects:account") {
    TEST_CASE("invariant 9: every attempt is in one sum, whatever became of it") {
        for (uint64_t seed = 1; seed <= 100; ++seed) {
            CAPTURE(seed);
            World w;
            random_life(w, seed);
            REQUIRE(w.sprayer.accounts_balance());
            for (const auto& [link, list] : w.states) {
                LinkView v = w.sprayer.view(link);
                REQUIRE(v.outstanding == 0);
                REQUIRE(v.posted == v.used + v.superseded + v.revoked + v.failed);
            }
        }
    }
}

TEST_CASE("invariant 8: the same events give the same actions") {
    for (uint64_t seed = 1; seed <= 100; ++seed) {
        CAPTURE(seed);
        World a, b, other;
        a.tracing = b.tracing = other.tracing = true;
        random_life(a, seed);
        random_life(b, seed);
        random_life(other, seed + 1000);
        REQUIRE(a.trace.size() > 0);
        REQUIRE(a.trace == b.trace);
        REQUIRE(a.trace != other.trace);  // the trace can tell
    }
}

TEST_CASE("a recording of any life replays to the same actions, whichever segment it starts at") {
    uint64_t actions = 0, checkpoints = 0, late_starts = 0, skipped = 0;
    for (uint64_t seed = 1; seed <= 1200; ++seed) {
        CAPTURE(seed);
        World w({}, (4 + seed % 8) << 13);  // small segments, so that a life takes several
        random_life(w, seed);
        Recorder::Snapshot all = w.sprayer.recorder().snapshot();
        REQUIRE(!all.segments.empty());
        for (size_t from = 0; from < all.segments.size(); ++from) {
            Recorder::Snapshot part;
            part.segments.assign(all.segments.begin() + static_cast<std::ptrdiff_t>(from),
                                 all.segments.end());
            Bytes bytes;
            part.pack({}, bytes);
            Result<Replay> r = replay(bytes);
            REQUIRE_MESSAGE(r.ok(), r.status().text());
            REQUIRE_MESSAGE(r->identical, r->difference);
            skipped += r->skipped;
            actions += r->actions;
            checkpoints += r->checkpoints;
            late_starts += from > 0;
        }
    }
    MESSAGE(actions << " actions, " << checkpoints << " states compared, " << late_starts << " late starts, "
                    << skipped << " segments without a state");
    CHECK(actions > 10'000);
    CHECK(checkpoints > 100);
    CHECK(late_starts > 50);
}
