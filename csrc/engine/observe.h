// What observers get to see of an engine, and how an engine observes its peers. The answers are bounded, and
// no request makes the loop wait: a recording is a snapshot whose segments are shared with the ring, handed
// out in parts.
#pragma once

#include <map>
#include <string>

#include "proto/observe_messages.h"
#include "sched/recorder.h"

namespace tent::engine {

class Engine;

// A probe of this node's rails towards another node: carried out by whoever takes it (the Python face), since
// it makes connections and waits.
struct ProbeJob {
    uint64_t id = 0;
    Bytes descriptor;
    uint32_t milliseconds = 0;
};

// The owner's side. Loop token held.
class Observers {
  public:
    explicit Observers(Engine& engine) : engine_(engine) {}

    // `session` asks. unsupported, version_mismatch, protocol, busy, invalid_argument.
    Result<Bytes> answer(uint64_t session, uint64_t method, ByteView request, Nanos now);
    // Snapshots nobody asks for any more are dropped.
    void tick(Nanos now);
    void session_over(uint64_t session) { snapshots_.erase(session); }
    bool take_probe(ProbeJob& job);
    void probe_done(uint64_t id, std::string report);

  private:
    struct Snapshot {
        uint64_t handle = 0;
        Nanos monotonic = 0, wall = 0, used_at = 0;
        sched::Recorder::Snapshot ring;
    };
    struct Probe {
        ProbeJob job;
        bool taken = false, finished = false;
        Nanos asked_at = 0;
        std::string report;
    };
    Result<Bytes> stats(ByteView request);
    Result<Bytes> recording(uint64_t session, ByteView request, Nanos now);
    Result<Bytes> probe(ByteView request, Nanos now);
    Result<Bytes> probe_result(ByteView request, Nanos now);

    static constexpr size_t kMaxSnapshots = 4;  // at a time: each keeps what the ring would write over
    static constexpr size_t kMaxProbes = 64;    // waiting, or not fetched yet
    static constexpr Nanos kSnapshotLife = 10 * kSecond;
    static constexpr Nanos kProbeLife = 120 * kSecond;
    Engine& engine_;
    std::map<uint64_t, Snapshot> snapshots_;  // by session
    std::map<uint64_t, Probe> probes_;
    uint64_t next_ = 1;
};

}  // namespace tent::engine
