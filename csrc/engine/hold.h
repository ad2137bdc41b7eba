// A caller's own use of registered memory, outside of any transfer: while it is held, unregister() waits for
// it (invariant 11: once that returns, nothing of ours reads from there either).
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "model/types.h"

namespace tent::engine {

class Engine;

class Hold {
  public:
    // Parts [addresses[i], + lengths[i]), each inside one segment; those of length zero are passed over.
    // `destination`: they will be written to. unregistered, out_of_range, read_only, segment_gone name the
    // first part at fault. Any thread.
    static Result<std::unique_ptr<Hold>> take(std::shared_ptr<Engine> engine,
                                              std::span<const uint64_t> addresses,
                                              std::span<const uint64_t> lengths, bool destination);
    ~Hold() { release(); }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;
    void release();  // idempotent; not from two threads at once

  private:
    explicit Hold(std::shared_ptr<Engine> engine) : engine_(std::move(engine)) {}
    Status add(std::span<const uint64_t> addresses, std::span<const uint64_t> lengths, bool destination);
    std::shared_ptr<Engine> engine_;
    std::vector<SegmentId> segments_;  // each once
};

}  // namespace tent::engine
