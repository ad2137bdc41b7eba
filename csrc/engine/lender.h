// Who lends parts of a segment to writers in other processes (the page store). Rights on the segment say what
// kind of access there can be at all; the lender says, byte by byte, what is lent to whom (invariant 6).
// Called with the loop token held: quick, no blocking, no call back into the engine.
#pragma once

#include "base/bytes.h"
#include "base/status.h"
#include "model/types.h"

namespace tent::engine {

class Lender {
  public:
    virtual ~Lender() = default;
    // Asked for every landing and every writable mapping.
    virtual bool may_write(const WriterId& writer, uint64_t offset, uint64_t length) const = 0;
    // Does it hold a loan? Its session is then not closed for want of room.
    virtual bool lends_to(const WriterId& writer) const = 0;
    // Rises whenever a loan ends: a landing under way is asked about again.
    virtual uint64_t loans_ended() const = 0;
    // The session ended. The writer's process may still be inside a copy: what it holds is not reused yet.
    virtual void writer_lost(const WriterId& writer) = 0;
    // Nothing of that session can touch what was lent to it any more.
    virtual void writer_gone(const WriterId& writer) = 0;
    // A peer's call (proto/store_messages.h). `request` is hostile.
    virtual Result<Bytes> call(const WriterId& caller, uint16_t method, ByteView request) = 0;
};

}  // namespace tent::engine
