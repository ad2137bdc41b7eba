// No slice costs an allocation: once the sprayer has grown to its load, posting, progress, outcomes, flows
// that end and others that follow them take memory that it has.
#include <doctest/doctest.h>
#include <malloc.h>

#include <cstdlib>
#include <new>
#include <vector>

#include "sched/recorder.h"
#include "sched/replay.h"
#include "sched/sprayer.h"

namespace {
uint64_t allocations = 0;
uint64_t held = 0;  // bytes
}  // namespace

// NOLINTBEGIN: the whole program's, so that nothing escapes the count
void* operator new(size_t size) {
    ++allocations;
    void* p = std::malloc(size);
    if (p == nullptr) throw std::bad_alloc();
    held += malloc_usable_size(p);
    return p;
}
void operator delete(void* p) noexcept {
    held -= malloc_usable_size(p);
    std::free(p);
}
void operator delete(void* p, size_t) noexcept {
    operator delete(p);
}
// NOLINTEND

namespace {

using namespace tent;
using namespace tent::sched;

constexpr uint64_t kRate = 1'000'000'000;

// A transport that answers each slice in turn, after telling of half of it; every 64th one is given up by a
// link that failed and comes back.
class Load {
  public:
    Load(uint32_t rails, uint32_t peers, uint64_t flow_bytes, bool some_links)
        : flow_bytes_(flow_bytes), peers_(peers), sprayer_(Settings{}) {
        for (uint32_t i = 0; i < rails; ++i) sprayer_.add_rail({"local", kRate});
        for (PeerId p = 0; p < peers; ++p) {
            for (uint32_t i = 0; i < rails; ++i) {
                LinkSpec spec;
                spec.peer = p;
                spec.local = i;
                spec.remote = sprayer_.add_rail({"remote", kRate});
                LinkId id = sprayer_.add_link(spec, now_);
                if (p == 0 && some_links) allowed_.push_back(id);
            }
        }
        flow_.allowed = allowed_;
        for (int i = 0; i < 8; ++i) submit();
        posted_.resize(1 << 12);
    }
    void run(uint64_t slices) {
        for (uint64_t until = count_ + slices; count_ < until;) {
            Action a;
            while (sprayer_.next(a, now_)) {
                if (a.kind == Action::Kind::post) posted_[end_++ % posted_.size()] = a;
                if (a.kind == Action::Kind::post) ++count_;
                if (a.kind == Action::Kind::flow_released) submit();
            }
            REQUIRE(first_ != end_);
            a = posted_[first_++ % posted_.size()];
            now_ += 50 * kMicrosecond;
            sprayer_.attempt_progress(a.attempt, (a.end - a.begin) / 2, now_);
            sprayer_.attempt_ended(a.attempt, Outcome::done, 0, now_);
        }
    }

  private:
    void submit() {
        flow_.peer = allowed_.empty() ? static_cast<PeerId>(next_ % peers_) : 0;
        flow_.bytes = flow_bytes_;
        flow_.deadline = now_ + 30 * kSecond;
        sprayer_.add_flow(next_++, flow_, now_);
    }
    uint64_t flow_bytes_;
    uint32_t peers_;
    Sprayer sprayer_;
    Nanos now_ = kSecond;
    std::vector<LinkId> allowed_;
    FlowSpec flow_;
    FlowId next_ = 1;
    std::vector<Action> posted_;
    uint64_t first_ = 0, end_ = 0, count_ = 0;
};

uint64_t allocated_in(Load& load) {
    load.run(20'000);
    uint64_t before = allocations;
    load.run(20'000);
    return allocations - before;
}

}  // namespace

TEST_CASE("no allocation for a slice, once all has grown to its size") {
    uint64_t before = allocations;
    Load large(4, 1, 64 << 20, false);
    REQUIRE(allocations > before);  // they are counted
    CHECK(allocated_in(large) == 0);
    Load small(4, 8, 64 << 10, false);
    CHECK(allocated_in(small) == 0);
    Load named(4, 2, 64 << 10, true);  // flows that may take some links only
    CHECK(allocated_in(named) == 0);
}

namespace {

// Two links to it, of which one dies under a flow every now and then; everything of it ends, and is
// forgotten. Returns the largest id of its links.
LinkId use_and_leave(RecordedSprayer& s, RailId local, uint32_t number, Nanos& now) {
    RailId remote = s.add_rail({"rail of " + std::to_string(number), 0});
    LinkId links[2];
    for (LinkId& id : links) {
        LinkSpec spec;
        spec.local = local;
        spec.remote = remote;
        spec.name = "a link to peer " + std::to_string(number);
        id = s.add_link(spec, now);
    }
    FlowSpec flow;
    flow.bytes = 1 << 20;
    s.add_flow(number + 1, flow, now);
    std::vector<Action> posted;
    bool released = false, faulty = number % 8 == 0;
    while (!released) {
        Action a;
        while (s.next(a, now)) {
            if (a.kind == Action::Kind::post) posted.push_back(a);
            if (a.kind == Action::Kind::flow_released) released = true;
        }
        now += 50 * kMicrosecond;
        if (posted.empty()) continue;
        a = posted.back();
        posted.pop_back();
        bool fails = std::exchange(faulty, false);
        s.attempt_ended(a.attempt, fails ? Outcome::link_error : Outcome::done, 0, now);
    }
    for (LinkId id : links) {
        CHECK(!s.forget_link(id));  // it is there
        s.remove_link(id, now);
    }
    CHECK(!s.forget_rail(remote));
    for (Action a; s.next(a, now);) {
    }
    for (LinkId id : links) CHECK(s.forget_link(id));
    CHECK(s.forget_rail(remote));
    CHECK(!s.forget_rail(remote));
    return std::max(links[0], links[1]);
}

}  // namespace

TEST_CASE("ten thousand peers that were used and left leave nothing behind") {
    RecordedSprayer s({}, 256 << 10);
    Nanos now = kSecond;
    RailId local = s.add_rail({"local", kRate});
    LinkId highest = 0;
    uint64_t early = 0;
    for (uint32_t n = 0; n < 10'000; ++n) {
        if (n == 2'000) early = held;  // the recorder's ring has gone round
        highest = std::max(highest, use_and_leave(s, local, n, now));
    }
    CHECK(highest == 1);
    CHECK(held <= early + 4096);  // 8,000 peers more
    CHECK(s.accounts_balance());
    Bytes recording;
    s.recorder().snapshot().pack({}, recording);
    auto again = replay(recording);
    REQUIRE_MESSAGE(again.ok(), again.status().text());
    CHECK_MESSAGE(again->identical, again->difference);
    CHECK(again->actions > 1000);
}
