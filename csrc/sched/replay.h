// Runs a recording through the sprayer: what it was told is told again, and what it decides must be what it
// decided then, bit for bit; at the start of each segment its whole state must be the one that was written.
#pragma once

#include <string>

#include "base/bytes.h"
#include "base/status.h"
#include "sched/recording.h"

namespace tent::sched {

struct Replay {
    RecordingHead head;
    uint64_t segments = 0;  // replayed; one that cannot be (too large a state, a gap before it) is skipped
    uint64_t skipped = 0;
    uint64_t events = 0, actions = 0;
    uint64_t checkpoints = 0;  // compared
    bool identical = true;
    std::string difference;  // the first one, in words
};

// version_mismatch, protocol: the bytes are hostile, and refused.
Result<Replay> replay(ByteView recording);

}  // namespace tent::sched
