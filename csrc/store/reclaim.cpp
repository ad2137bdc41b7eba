// How the Store gets room: a sealed extent is emptied and its memory used again, under a new epoch. What goes
// is decided as S3-FIFO does (new pages pass a small queue, those read in it go to the large one, pages that
// come back soon after they left go there at once), an extent at a time and with three changes: the share of
// the newcomers follows what comes back, from which queue; the large queue remembers what left it too; and an
// extent that is mostly hot stays where it lies, for the bytes that may be moved are a share of those stored.
#include <algorithm>
#include <array>

#include "base/switches.h"
#include "store/store.h"

namespace tent::store {
namespace {

constexpr size_t kLook = 32;      // extents looked at to find one that is mostly cold
constexpr uint64_t kHoles = 4;    // an extent with a quarter of its room in holes is compacted
constexpr uint64_t kMovable = 8;  // of an extent all but so much of it may be moved, or nothing would be won

// The extents that were sealed longest ago, in order.
class Oldest {
  public:
    void offer(uint32_t extent, uint64_t sealed_at) {
        size_t at = count_;
        while (at > 0 && when_[at - 1] > sealed_at) --at;
        if (at == kLook) return;
        count_ = std::min(count_ + 1, kLook);
        for (size_t i = count_ - 1; i > at; --i) {
            when_[i] = when_[i - 1];
            extent_[i] = extent_[i - 1];
        }
        when_[at] = sealed_at;
        extent_[at] = extent;
    }
    bool done() const { return next_ == count_; }
    uint32_t next() { return extent_[next_++]; }

  private:
    std::array<uint64_t, kLook> when_{};
    std::array<uint32_t, kLook> extent_{};
    size_t count_ = 0, next_ = 0;
};

}  // namespace

// Which extent is emptied: the one that was sealed longest ago, of the newcomers where they take more than
// their share, else of the keepers. One with more hot bytes than may be moved is passed over; where that goes
// for all that were looked at, the one with the fewest.
uint32_t Store::victim(Nanos now, uint64_t limit) {
    Oldest oldest[2];
    uint64_t newcomers = 0;
    for (uint32_t i = 0; i < extents_.count(); ++i) {
        const Extent& e = extents_.at(i);
        if (!e.keepers) newcomers += e.live_bytes;
        if (!reclaimable(e, now)) continue;
        if (e.live_pages == 0) return i;
        oldest[e.keepers ? 1 : 0].offer(i, e.sealed_at);
    }
    std::array<uint32_t, kLook> passed{};
    size_t looked = 0;
    uint32_t best = kNoId;
    while (looked < kLook && !(oldest[0].done() && oldest[1].done())) {
        bool keepers = oldest[0].done() || (newcomers < newcomer_share_ && !oldest[1].done());
        uint32_t i = oldest[keepers ? 1 : 0].next();
        if (!keepers) newcomers -= extents_.at(i).live_bytes;
        if (best == kNoId || extents_.hot_bytes(i) < extents_.hot_bytes(best)) best = i;
        if (extents_.hot_bytes(best) <= limit) break;
        passed[looked++] = i;
    }
    for (size_t k = 0; k < looked; ++k) {
        if (passed[k] != best) extents_.pass_over(passed[k]);
    }
    return best;
}

bool Store::reclaimable(const Extent& e, Nanos now) const {
    return e.state == ExtentState::sealed && e.users == 0 && e.pinned == 0 &&
           (e.lease_until <= now || e.live_pages == 0);
}

// The extent of whose room pages that were dropped (removed, expired, cleared, over a quota) hold most, if
// that is enough to move what is left: room that costs nobody a page.
uint32_t Store::holey(Nanos now, uint64_t move_bytes) const {
    uint32_t best = kNoId;
    for (uint32_t i = 0; i < extents_.count(); ++i) {
        const Extent& e = extents_.at(i);
        if (!reclaimable(e, now) || e.live_bytes > move_bytes) continue;
        uint64_t live = e.live_bytes + e.live_pages * kSlotHeader;
        if (e.fill < live + extents_.extent_bytes() / kHoles) continue;
        if (best == kNoId || e.live_bytes < extents_.at(best).live_bytes) best = i;
    }
    return best;
}

// Room for the pages that were read, the most read first; for all of them where it `keeps` the extent's
// pages.
std::vector<Store::Pending> Store::choose_moves(uint32_t extent, uint64_t budget, bool keeps) {
    std::vector<EntryId> hot;
    for (EntryId id = extents_.at(extent).head; id != kNoEntry; id = index_.at(id).next) {
        if ((keeps || index_.hits(id) > 0) && !dead(index_.at(id))) hot.push_back(id);
    }
    std::sort(hot.begin(), hot.end(), [&](EntryId a, EntryId b) {
        uint32_t x = index_.hits(a), y = index_.hits(b);
        return x != y ? x > y : index_.at(a).offset < index_.at(b).offset;
    });
    std::vector<Pending> moves;
    for (EntryId id : hot) {
        const Entry& e = index_.at(id);
        if (e.length > budget) continue;
        Pending move;
        bool keeper = extents_.at(extent).keepers || index_.hits(id) > 0;
        if (extents_.reserve(e.length, true, keeper, move.slot) != PageStatus::STORED) break;
        budget -= e.length;
        move.digest = e.digest;
        move.check = e.check;
        move.from = e.offset;
        // What proved itself as a newcomer has to be read again; a keeper has used up one of its hits.
        move.hits = keeps ? index_.hits(id) : extents_.at(extent).keepers ? index_.hits(id) - 1 : 0;
        moves.push_back(move);
    }
    return moves;
}

void Store::copy_moves(std::vector<Pending>& moves) {
    std::vector<uint64_t> sources(moves.size()), lengths(moves.size());
    std::vector<PageJob> jobs(moves.size());
    for (size_t i = 0; i < moves.size(); ++i) {
        sources[i] = reinterpret_cast<uint64_t>(extents_.bytes_at(moves[i].from));
        lengths[i] = moves[i].slot.length;
        jobs[i].digest = moves[i].digest;
        jobs[i].slot = address(moves[i].slot);
        jobs[i].address = &sources[i];
        jobs[i].length = &lengths[i];
        jobs[i].parts = 1;
        jobs[i].bytes = lengths[i];
    }
    copy_pages(jobs, Direction::in, true, executor_);
    for (size_t i = 0; i < moves.size(); ++i) moves[i].good = jobs[i].check == moves[i].check;
}

void Store::finish_move(const Pending& move, Reclaim& out) {
    EntryId id = live(move.digest);
    bool there = id != kNoEntry && index_.at(id).offset == move.from;
    if (!there ||
        !move.good) {  // gone meanwhile, or its bytes rotted: the check says so before anybody reads them
        extents_.close_slot(move.slot, false);
        return;
    }
    Entry& e = index_.at(id);
    Bytes before = record_of(e);
    index_.move(id, move.slot, move.hits);
    SlotHeader header;
    header.mark = kMarkCommitted;
    header.epoch = move.slot.epoch;
    header.digest = e.digest;
    header.version = e.version;  // a copy is the same version
    header.length = e.length;
    header.check = e.check;
    write_header(extents_.header_at(e.offset), header);
    extents_.close_slot(move.slot, true);
    ++counts_.moved;
    counts_.moved_bytes += e.length;
    if (e.publication == Publication::published)
        out.moved.push_back({e.digest, std::move(before), record_of(e)});
}

Reclaim Store::begin_reclaim(Nanos now, uint64_t move_bytes) {
    Reclaim out;
    std::vector<Pending> moves;
    std::vector<DiskOffer> offers;
    {
        std::lock_guard lock(mutex_);
        move_bytes = std::min(move_bytes, extents_.extent_bytes() / kMovable * (kMovable - 1));
        out.extent = holey(now, move_bytes);
        bool keeps = out.extent != kNoId;
        if (!keeps) {
            move_bytes = std::min(move_bytes, move_credit_);
            out.extent = victim(now, move_bytes);
        }
        if (out.extent == kNoId) return out;
        extents_.start_reclaim(out.extent);
        moves = choose_moves(out.extent, move_bytes, keeps);
        if (!keeps) {
            for (const Pending& move : moves) move_credit_ -= move.slot.length;
        }
        if (disk_ != nullptr) offers = leaving(out.extent, moves);
    }
    copy_moves(moves);
    if (disk_ != nullptr) disk_->offer(offers);
    std::lock_guard lock(mutex_);
    for (const Pending& move : moves) finish_move(move, out);
    for (const DiskOffer& offer : offers) {  // what was dropped while it was copied is not to stay there
        if (index_.find(offer.page.digest) == kNoEntry) disk_->remove(offer.page.digest);
    }
    while (extents_.at(out.extent).head != kNoEntry) take_leave(extents_.at(out.extent).head, out);
    return out;
}

void Store::finish_reclaim(uint32_t extent) {
    std::lock_guard lock(mutex_);
    if (extent >= extents_.count() || extents_.at(extent).state != ExtentState::reclaiming) return;
    ++counts_.reclaimed_extents;
    if (extents_.at(extent).users > 0) {
        extents_.at(extent).recycle_when_idle = true;  // the last copy out of it recycles it
    } else {
        extents_.recycle(extent);
    }
}

}  // namespace tent::store
