// Which attempts of a session may still land. The side that owns the destination keeps it. Attempt numbers
// rise within a session, and a revoke covers attempts that have not been seen yet. Pure.
#pragma once

#include <vector>

#include "model/types.h"

namespace tent::proto {

class AttemptTable {
  public:
    // May the attempt land (or go on landing)? Checked before every receive into a destination.
    bool admits(AttemptId attempt) const;
    void revoke(AttemptId attempt);
    // Every attempt below `floor` is revoked. The floor never falls.
    void raise_floor(AttemptId floor);
    AttemptId floor() const { return floor_; }
    size_t revoked_above_floor() const { return revoked_.size(); }
    // The set is bounded; the initiator raises the floor with each revoke, which empties it. True if a revoke
    // was refused for want of room: the session is to be closed, and until then nothing is admitted, so that
    // what was to be revoked does not land.
    bool overflowed() const { return overflowed_; }

  private:
    static constexpr size_t kMaxRevoked = 4096;
    AttemptId floor_ = 0;
    std::vector<AttemptId> revoked_;  // sorted, all >= floor_
    bool overflowed_ = false;
};

}  // namespace tent::proto
