// Bytes that lie scattered over registered memory, taken as one: what an offer exposes, and to which
// sessions. Loop token held.
#pragma once

#include <vector>

#include "base/bytes.h"
#include "base/status.h"
#include "transport/transport.h"

namespace tent::engine {

class View {
  public:
    // invalid_argument: no part, or an empty one; out_of_range; overlapping.
    static Result<View> of(std::vector<transport::LocalPiece> parts);

    uint64_t bytes() const { return ends_.back(); }
    const std::vector<transport::LocalPiece>& parts() const { return parts_; }
    // Appends what lies at [offset, offset + length), which must be inside.
    void slice(uint64_t offset, uint64_t length, std::vector<transport::LocalPiece>& out) const;
    bool overlaps(const transport::LocalPiece& piece) const;

    bool open_to(const Id128& session) const;
    // False: it was open to it already.
    bool open(const Id128& session);
    // False: it was not open to it.
    bool close(const Id128& session);
    bool opened() const { return !sessions_.empty(); }
    Nanos used_at = 0;  // by its lease's clock: when a peer last asked for bytes of it

  private:
    std::vector<transport::LocalPiece> parts_;
    std::vector<uint64_t> ends_;                   // in the concatenation
    std::vector<transport::LocalPiece> in_order_;  // by address
    std::vector<Id128> sessions_;
};

}  // namespace tent::engine
