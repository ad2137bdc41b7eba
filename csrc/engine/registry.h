// The segments of this node: what its transfers may use and what its peers may touch. Loop token held, except
// where a call says otherwise.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "engine/lender.h"
#include "engine/view.h"
#include "model/types.h"
#include "proto/wire.h"
#include "transport/shm/memory.h"
#include "transport/transport.h"

namespace tent::engine {

struct Segment {
    SegmentId id = 0;
    std::string name;
    uint8_t* base = nullptr;
    uint64_t length = 0;
    proto::SegmentKind kind = proto::SegmentKind::region;
    Rights exposed = Rights::none;        // to peers
    std::shared_ptr<Lender> lender;       // limits their writes further; null: nobody does
    bool writable = true;                 // by ourselves (a read-only buffer is not)
    transport::shm::ExtentMemory memory;  // memfd only
    transport::shm::Mapping face_memory;
    UniqueFd face_fd;  // read-only descriptor of it
    transport::shm::Face* face = nullptr;
    std::unique_ptr<View> view;  // of an offer: it has no memory of its own
    bool revoked = false;
    uint32_t transfers = 0;  // live ones, and holds, that use it

    uint64_t extent_bytes() const { return memory.extent_bytes != 0 ? memory.extent_bytes : length; }
    proto::SegmentInfo info() const;
    // Does it reach this memory?
    bool covers(const transport::LocalPiece& piece) const;
    // May this peer write here, as far as the lender goes?
    bool lends(const WriterId& writer, uint64_t offset, uint64_t bytes) const;
};

class Registry {
  public:
    // Memory for a segment, which is entered afterwards. The kernel clears it, which can take seconds: any
    // thread, without the loop token.
    static Result<std::shared_ptr<Segment>> make(uint64_t bytes, uint64_t extent, const std::string& name,
                                                 Rights exposed);
    Result<std::shared_ptr<Segment>> enter(std::shared_ptr<Segment> s);
    Result<std::shared_ptr<Segment>> allocate(uint64_t bytes, uint64_t extent, const std::string& name,
                                              Rights exposed);  // both at once: of little
    Result<std::shared_ptr<Segment>> add(uint8_t* base, uint64_t bytes, const std::string& name,
                                         Rights exposed, bool writable, uint64_t extent = 0);
    // What an offer exposes, to those sessions that open it.
    std::shared_ptr<Segment> enter_view(std::unique_ptr<View> view, Rights exposed);
    std::shared_ptr<Segment> find(SegmentId id) const;
    // The segment that holds [address, address + length) whole; nullptr: not registered.
    Segment* locate(const uint8_t* address, uint64_t length) const;
    void remove(SegmentId id);
    std::vector<proto::SegmentInfo> exposed() const;
    const std::map<SegmentId, std::shared_ptr<Segment>>& all() const { return by_id_; }

    // What a peer may touch: rights, bounds, loans and epochs of every piece. On refusal `piece` names the
    // first one at fault.
    Status resolve(const WriterId& peer, Op op, std::span<const proto::Piece> pieces,
                   std::vector<transport::LocalPiece>& out, uint32_t& piece) const;

  private:
    SegmentId next_ = 1;
    std::map<SegmentId, std::shared_ptr<Segment>> by_id_;
    std::map<const uint8_t*, Segment*> by_address_;
    mutable Segment* last_ = nullptr;
};

}  // namespace tent::engine
