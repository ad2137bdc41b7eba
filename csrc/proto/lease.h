// A session's lease. The owner issues numbered tokens by its own clock; only the echo of a token renews, and
// only to that token's issue time plus the lease, so a delayed packet renews nothing. Pure.
#pragma once

#include <cstdint>
#include <deque>

#include "base/clock.h"

namespace tent::proto {

// The owner's end. Times are the owner's CLOCK_BOOTTIME.
class OwnerLease {
  public:
    OwnerLease(Nanos lease, Nanos now);
    uint64_t issue(Nanos now);  // a new token to send; at most kMaxTokens are remembered (oldest forgotten)
    bool echoed(uint64_t token,
                Nanos now);  // false: unknown token (ignored), or the lease had already run out
    // May bytes of this session be taken? Once it answered false it stays false: failing is final.
    bool valid(Nanos now);
    Nanos expires() const;

  private:
    // At a token every 10 ms more than the default lease lasts: one that was forgotten could renew nothing.
    static constexpr size_t kMaxTokens = 512;
    struct Issued {
        uint64_t number;
        Nanos at;
    };
    Nanos lease_, expires_;
    uint64_t next_ = 1;
    bool dead_ = false;
    std::deque<Issued> issued_;
};

// The writer's end. Times are the writer's CLOCK_BOOTTIME. Made when the owner's ACCEPT has arrived, so that
// the owner's first lease began earlier.
class WriterLease {
  public:
    WriterLease(Nanos lease, Nanos now);
    void received(uint64_t token, Nanos now);
    uint64_t last_token() const;
    // With no link left: the time from which unconfirmed writes may be reported failed (the owner takes
    // nothing more by then): receipt of the last token + lease + drift (1/256 of the lease + 10 ms).
    Nanos fenced_at() const;

  private:
    Nanos lease_, received_;
    uint64_t token_ = 0;
};

}  // namespace tent::proto
