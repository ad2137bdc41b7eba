// How much each of many writers may have under way to one rail of an owner, so that together they do not
// drown it: what is queued in front of a rail delays everybody's small writes, and its like. Pure; no clock,
// no thread: told of what arrives, it says when shares have changed. One per rail.
//
// Few writers need no limit: each one's own sprayer keeps little under way. With more of them the rail's
// bytes of a fixed time (by its measured rate) are shared out equally, down to a least that keeps every
// connection going. A share is a window, not an allowance to be used up, and who was told of one forgets it
// after a while: a message that is lost costs nothing, and nobody needs to take a share back.
#pragma once

#include <cstdint>
#include <vector>

#include "base/clock.h"

namespace tent::proto {

struct WriterCredit {
    uint64_t connection = 0;
    uint64_t window = 0;  // bytes under way at most; 0: no limit
};

class WriterCredits {
  public:
    static constexpr uint32_t kFew = 4;                  // writers that need no limit
    static constexpr uint64_t kLeastShare = 128 << 10;   // of a writer
    static constexpr uint64_t kLeast = 2 << 20;          // of all together
    static constexpr Nanos kQueue = 2 * kMillisecond;    // of the rail's rate, shared out
    static constexpr Nanos kPeriod = 20 * kMillisecond;  // between two looks
    static constexpr Nanos kForgotten = kSecond;         // who wrote nothing for so long is no writer
    static constexpr Nanos kAgain = 300 * kMillisecond;  // a share is told again after this
    static constexpr Nanos kLife = kSecond;              // and forgotten by who was told, after this

    // Bytes of a write have come over this connection. True: shares() names those who are to be told: their
    // share has changed by more than a quarter, or it is a while since.
    bool received(uint64_t connection, uint64_t bytes, Nanos now);
    const std::vector<WriterCredit>& shares() const { return changed_; }
    void drop(uint64_t connection);

  private:
    struct Writer {
        uint64_t connection = 0;
        Nanos last = 0, told_at = 0;
        uint64_t told = 0;
    };
    void look(Nanos now);

    std::vector<Writer> writers_;  // by connection
    std::vector<WriterCredit> changed_;
    Nanos since_ = 0;     // of the period under way; 0: nothing has come yet
    uint64_t bytes_ = 0;  // in it
};

}  // namespace tent::proto
