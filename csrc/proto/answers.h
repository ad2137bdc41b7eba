// An owner's memory of the calls it has answered in a session, so that a call asked again over a new control
// connection is answered again and not carried out twice. Pure.
#pragma once

#include <deque>

#include "base/bytes.h"
#include "base/status.h"

namespace tent::proto {

class Answers {
  public:
    static constexpr size_t kMost = 256;           // answers
    static constexpr size_t kMostBytes = 1 << 20;  // of them together; the last one is always kept
    // Request numbers rise within a session, and a connection keeps their order: one that is not above the
    // last was carried out.
    bool carried_out(uint64_t request) const { return request <= last_; }
    // The answer to a call that was carried out; nullptr: forgotten, there were many since.
    const Result<Bytes>* find(uint64_t request) const;
    // `request` > every one before. The reference is good until the next call.
    const Result<Bytes>& remember(uint64_t request, Result<Bytes> answer);

  private:
    struct Answer {
        uint64_t request;
        Result<Bytes> answer;
        size_t bytes;
    };
    std::deque<Answer> kept_;
    size_t bytes_ = 0;
    uint64_t last_ = 0;
};

}  // namespace tent::proto
