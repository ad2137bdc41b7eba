// A submitted intent: its ranges, what became of each, and its two ends (result, released). It is also the
// shape of its flow: the sprayer sees the ranges' concatenation as one stream and asks where it may be cut.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "model/types.h"
#include "proto/wire.h"
#include "sched/sprayer.h"
#include "transport/transport.h"

namespace tent::engine {

class Engine;
class Peer;
struct Doubt;

enum class RangeState : uint8_t { pending = 0, ok = 1, failed = 2, cancelled = 3 };

// An intent as the caller hands it in. All spans have the same length n (or are empty where optional); they
// are copied.
struct Intent {
    Op op = Op::read;
    std::shared_ptr<Peer> peer;
    std::span<const uint64_t> local;    // absolute addresses
    std::span<const uint32_t> segment;  // one, or n
    std::span<const uint32_t> epoch;    // optional
    std::span<const uint64_t> offset;
    std::span<const uint64_t> length;  // one, or n
    std::span<const uint32_t> group;   // optional, 0..groups-1
    std::span<const uint64_t> checks;  // optional: page check of each range, seeded with zeros. Reads only
    // Optional, with groups: the digest of each group, whose ranges are a page. Leaf hashes are then taken on
    // the way where that costs least: see Transfer::check_on_the_way().
    std::span<const Id128> digests;
    // Remember which link brought what, for Engine::read_again(). A read with checks does so anyway.
    bool remember_links = false;
    Priority priority = Priority::normal;
    Nanos timeout = 0;  // 0: the engine's default
    Bytes notify;       // delivered to the peer once, after the last byte
    bool has_notify = false;
};

class Transfer final : public sched::SliceShape, public std::enable_shared_from_this<Transfer> {
  public:
    struct RangeError {
        uint32_t range;
        Status status;
    };

    // ---- any thread ----
    bool done() const { return done_.load(std::memory_order_acquire); }
    bool released() const { return released_.load(std::memory_order_acquire); }
    TransferId id() const { return id_; }
    size_t ranges() const { return states_.size(); }
    uint64_t bytes() const { return total_; }
    // Valid once done: the first error, or ok.
    const Status& result() const { return result_; }
    const std::vector<RangeError>& errors() const { return errors_; }
    RangeState state(size_t range) const {
        return static_cast<RangeState>(states_[range].load(std::memory_order_acquire));
    }
    // Ranges that are complete from the front.
    size_t prefix() const;
    bool group_done(uint32_t group) const;
    // Once released: the check of a page that was hashed on its way, of the bytes that arrived. None: hash it
    // now.
    std::optional<uint64_t> check_on_the_way(uint32_t group) const {
        return leaves_ && group < leaves_->pages() ? leaves_->check(group) : std::nullopt;
    }
    uint32_t groups() const { return static_cast<uint32_t>(group_left_.size()); }
    Nanos duration() const { return finished_at_ - submitted_at_; }

    // ---- loop token held ----
    uint64_t cut(uint64_t begin, uint64_t want) const override;
    // The pieces of [begin, end) that are still wanted. `ranges` gets the range of each remote piece. Pieces
    // that follow each other in memory on both sides are merged unless `exact`.
    uint64_t pieces(uint64_t begin, uint64_t end, bool exact, std::vector<proto::Piece>& remote,
                    std::vector<transport::LocalPiece>& local, std::vector<uint32_t>& ranges) const;
    // [begin, end) is in place. Returns the ranges that became complete.
    void landed(uint64_t begin, uint64_t end);
    void fail_range(uint32_t range, Status why);
    bool dead(uint32_t range) const { return state(range) == RangeState::failed; }
    uint32_t range_at(uint64_t stream_offset) const;

  private:
    friend class Engine;
    friend class Peer;
    void set(uint32_t range, RangeState state);
    bool check_ok(uint32_t range) const;
    void accept(uint32_t range);      // its bytes are good
    void fail_check(uint32_t range);  // unless it was accepted
    struct Carried {
        uint64_t begin, end;
        LinkId link;
    };
    void carried(uint64_t begin, uint64_t end, LinkId link);
    uint64_t address_of(uint32_t range, uint64_t begin) const;

    TransferId id_ = 0;
    Op op_ = Op::read;
    Priority priority_ = Priority::normal;
    std::shared_ptr<Peer> peer_;
    Nanos deadline_ = kNever, submitted_at_ = 0, finished_at_ = 0;
    uint64_t total_ = 0;
    std::vector<uint64_t> local_, offset_, prefix_, left_, checks_;
    std::vector<uint32_t> segment_, epoch_, group_;
    std::vector<std::atomic<uint8_t>> states_;
    std::vector<std::atomic<uint32_t>> group_left_;
    std::vector<RangeError> errors_;
    std::vector<SegmentId> used_;                              // local segments it pins
    std::vector<std::pair<uint64_t, uint64_t>> destinations_;  // in the table of live destinations
    uint64_t destination_space_ = 0;
    std::shared_ptr<transport::Leaves> leaves_;
    Bytes notify_;
    bool has_notify_ = false;
    bool in_sprayer_ = false;
    bool asked_segments_ = false;      // the owner was asked whether it exposes a segment that we do not know
    bool fail_when_released_ = false;  // a write whose peer is lost: its failure is reported when it is final
    bool remembers_ = false;
    std::vector<Carried> carried_;   // which link brought what, in the order it came
    std::vector<uint32_t> doubted_;  // ranges whose check failed, not yet read again
    bool reading_again_ = false;
    std::shared_ptr<Doubt> doubt_;  // this transfer is a second reading, for that doubt
    Status result_;
    std::atomic<bool> done_{false}, released_{false};
    UniqueFd event_;  // eventfd for await, made on demand
    std::atomic<bool> has_callback_{false};
    mutable std::atomic<size_t> prefix_hint_{0};
};

}  // namespace tent::engine
