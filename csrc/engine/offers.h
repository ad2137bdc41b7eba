// Grants that are handed over by ticket: scattered ranges of registered memory, exposed to whoever shows the
// offer's secret name and to nobody else, for as long as its lease, by our clock. An offer ends once: by its
// peer, its lease, its owner or its memory's end; from then on nothing of it is sent, and nothing lands in
// it.
//
// Offers go over connections that we serve, also on the same host: the end of one waits for no other process.
// Loop token held.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "base/clock.h"
#include "engine/registry.h"
#include "proto/handoff_messages.h"

namespace tent::engine {

class Engine;
class OwnerSession;

struct OfferSpec {
    Id128 name{};  // fresh random bits
    std::vector<transport::LocalPiece> ranges;
    std::vector<uint64_t> checks;  // page check of each, seeded with zeros; empty: none
    Rights rights = Rights::read;  // or write
    Nanos lease = 0;
};

class Offers {
  public:
    static constexpr size_t kMost = 65536;
    static constexpr size_t kMostOpen = 1024;  // of one session
    explicit Offers(Engine& engine) : engine_(engine) {}

    // unregistered, read_only, overlapping, segment_gone, busy ... name the range.
    Status add(OfferSpec spec);
    // False: there is no such offer (any more).
    bool end(const Id128& name, proto::OfferEnd how);
    size_t live() const { return offers_.size(); }

    // A peer's call. unsupported, permission_denied (no such offer), segment_gone (ended, and how), busy ...
    Result<Bytes> call(OwnerSession& session, uint64_t method, ByteView request);
    // Its reader is gone, and did not say goodbye for a while: nobody else knows the secret, most likely.
    void session_lost(OwnerSession& session);
    // This memory is no longer ours to offer.
    void memory_gone(const Segment& segment);
    // Ends what has run out.
    void tick(Nanos lease_now);

  private:
    struct Offer {
        std::shared_ptr<Segment> segment;
        std::vector<uint64_t> checks;
        std::vector<SegmentId> memory;  // whose ranges these are
        Nanos lease = 0, expires = 0;
    };
    static constexpr size_t kKept = 4096;
    Nanos expires(const Offer& offer) const;
    Status refusal(const Id128& name) const;
    Result<Bytes> open(OwnerSession& session, ByteView request);
    Result<Bytes> release(ByteView request);

    Engine& engine_;
    std::map<Id128, Offer> offers_;
    std::deque<std::pair<Id128, proto::OfferEnd>> ended_;  // the last ones: whoever comes late is told why
    Nanos next_ = kNever;                                  // none runs out before
};

}  // namespace tent::engine
