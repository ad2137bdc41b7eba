// What a run leaves behind: one line per transfer, sums, what broke an invariant, and a digest of everything
// that happened (two runs are the same run when it is the same).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"
#include "sched/sprayer.h"

namespace tent::sim {

enum class Fate : uint8_t { live, done, failed, cancelled };

struct TransferRecord {
    uint32_t workload = 0;
    Fate fate = Fate::live;
    uint16_t reason = 0;
    uint64_t bytes = 0;
    Nanos submitted = 0, ended = kNever, released = kNever;
};

// A transfer that had bytes on a link when that link died.
struct Penalty {
    uint32_t transfer = 0, fault = 0;
    Nanos at = 0, needed = 0;  // by the links that were left, for what was left
    Nanos took = kNever;       // beyond that
};

struct HealthRecord {
    Nanos at = 0;
    uint32_t wire = 0;
    sched::LinkState state{};
    bool alarm = false;  // suspect or down, though nothing ailed the link
    bool last = false;   // it was the last one of its peer
};

struct Drawn {  // a slice, for a trace
    uint32_t wire = 0, transfer = 0;
    uint64_t attempt = 0, begin = 0, end = 0;
    Nanos posted = 0, over = 0, predicted = 0;
    sched::Outcome outcome{};
};

struct WireSums {
    std::string name;
    uint32_t node = 0;
    sched::LinkView view;
};

class Digest {
  public:
    void add(uint64_t v) {
        a_ = (a_ ^ v) * 0x100000001b3u;
        b_ = (b_ + v) * 0x9e3779b97f4a7c15u;
        b_ ^= b_ >> 29;
    }
    std::array<uint64_t, 2> value() const { return {a_ ^ (a_ >> 32), b_}; }

  private:
    uint64_t a_ = 0xcbf29ce484222325u, b_ = 1;
};

struct Violation {
    int invariant = 0;
    Nanos at = 0;
    std::string what;
};

struct Report {
    static constexpr size_t kMostViolations = 64;  // that are told in words; all are counted
    Nanos end = 0;
    uint64_t events = 0, actions = 0, posts = 0, revokes = 0, probes = 0;
    uint64_t hedged = 0;   // slices that were moved early because they were late
    uint64_t drained = 0;  // pieces that came too late and were kept out
    uint64_t sessions = 0, sessions_lost = 0;
    std::vector<TransferRecord> transfers;
    std::vector<Penalty> penalties;
    std::vector<HealthRecord> health;
    std::vector<Drawn> drawn;
    std::vector<uint64_t> bins;  // bytes that landed
    std::vector<Violation> violations;
    uint64_t violated = 0;
    std::array<uint64_t, 12> by_invariant{};
    std::vector<WireSums> wires;
    Digest digest;

    void violate(int invariant, Nanos at, std::string what) {
        ++violated;
        ++by_invariant[static_cast<size_t>(invariant)];
        if (violations.size() < kMostViolations) violations.push_back({invariant, at, std::move(what)});
    }
};

}  // namespace tent::sim
