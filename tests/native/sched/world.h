// A tiny discrete-event world around a Sprayer: rails with a rate, links with a latency, faults, all from one
// seed. It plays the transport and checks, at every action and event, what must hold whatever happens.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "sched/recorder.h"
#include "sched/sprayer.h"

namespace tent::sched::test {

class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}
    uint64_t next() {
        uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }
    uint64_t below(uint64_t n) { return next() % n; }
    uint64_t between(uint64_t low, uint64_t high) { return low + below(high - low + 1); }
    bool chance(uint64_t percent) { return below(100) < percent; }

  private:
    uint64_t state_;
};

struct FlowRecord {
    uint64_t bytes = 0;
    Nanos submitted = 0, ended = kNever, released = kNever;
    bool done = false, failed = false, cancelled = false;
    uint16_t reason = 0;
    Nanos deadline = kNever;
    std::map<uint64_t, uint64_t> landed;  // begin -> end
    uint64_t landed_bytes = 0;
    std::set<AttemptId> outstanding;
    bool over() const { return done || failed || cancelled; }
};

class World {
  public:
    explicit World(const Settings& settings = {}, size_t recorder_bytes = 0)
        : sprayer(settings, recorder_bytes) {}

    // ---- building ----
    RailId rail(uint64_t rate, bool known = false);
    LinkId link(RailId local, RailId remote, Nanos latency, PeerId peer = 0, uint8_t tier = 1,
                uint32_t max_attempts = 0);
    FlowId flow(uint64_t bytes, Priority priority = Priority::normal, Nanos deadline = kNever,
                PeerId peer = 0, const SliceShape* shape = nullptr, std::vector<LinkId> allowed = {});
    void cancel(FlowId id);

    // ---- faults: what the links do from now on ----
    void set_rate(RailId rail, uint64_t rate) { rails_[rail].rate = rate; }
    void stall(LinkId link) { links_[link].stalled = true; }  // silent: nothing ends on it, probes fail
    void heal(LinkId link);                                   // what hung arrives now
    void cut(LinkId link);                                // errors at once, until mended; the sprayer is told
    void mend(LinkId link) { links_[link].cut = false; }  // probes succeed again

    // ---- running ----
    // Performs everything that is due up to `until`; stops early when no flow is left.
    void run(Nanos until);
    // One event, or the sprayer's next wake-up. False when nothing is left to happen.
    bool step();
    void settle();  // performs the sprayer's actions
    void refuse_next(uint16_t reason) { refuse_ = reason; }

    RecordedSprayer sprayer;
    Nanos now = 1'000'000'000;
    std::map<FlowId, FlowRecord> flows;
    std::vector<std::string> trace;  // every action, when `tracing`
    bool tracing = false;
    bool checking = true;  // accounts after every event
    bool reports_progress = false;
    uint64_t posts = 0, revokes = 0, probes = 0;
    std::map<LinkId, std::vector<std::pair<Nanos, LinkState>>> states;
    std::map<LinkId, std::vector<Nanos>> probed;
    std::map<LinkId, uint64_t> carried;

  private:
    struct RailModel {
        uint64_t rate = 0;
        Nanos free_at = 0;
    };
    struct LinkModel {
        RailId local = 0, remote = 0;
        Nanos latency = 0;
        bool stalled = false, cut = false;
        std::set<AttemptId> held;  // would have ended by now
    };
    struct Posted {
        FlowId flow = 0;
        LinkId link = 0;
        uint64_t begin = 0, end = 0;
        Nanos started = 0, ends = 0;
        bool revoked = false;
    };
    struct Event {
        enum class Kind { end, progress, revoked, probe } kind{};
        uint64_t id = 0;
        uint64_t value = 0;
    };
    void at(Nanos when, Event event) { events_.emplace(std::pair{when, serial_++}, event); }
    void perform(const Action& a);
    void perform_post(const Action& a);
    void handle(const Event& e);
    void end(AttemptId id, Outcome outcome, uint16_t reason = 0);
    void land(FlowRecord& f, uint64_t begin, uint64_t end);
    void check();

    std::vector<RailModel> rails_;
    std::vector<LinkModel> links_;
    std::map<AttemptId, Posted> posted_;
    std::map<std::pair<Nanos, uint64_t>, Event> events_;
    uint64_t serial_ = 0;
    FlowId next_flow_ = 1;
    uint16_t refuse_ = 0;
};

}  // namespace tent::sched::test
