// How the Store gets room: the coldest sealed extent is emptied and its memory used again, under a new epoch.
// And how an index is rebuilt from what lies in the extents.
#include <algorithm>

#include "base/switches.h"
#include "store/store.h"

namespace tent::store {

// Heat is bytes stored or read lately. It is halved whenever an eighth of the extents has been filled since.
uint64_t Store::heat(const Extent& extent) const {
    uint64_t age = (extents_.fills() - extent.heat_tick) / std::max<uint64_t>(1, extents_.count() / 8);
    return age >= 64 ? 0 : extent.heat >> age;
}

uint32_t Store::coldest(Nanos now) const {
    uint32_t best = kNoId;
    for (uint32_t i = 0; i < extents_.count(); ++i) {
        const Extent& e = extents_.at(i);
        if (e.state != ExtentState::sealed || e.users > 0 || e.pinned > 0) continue;
        if (e.live_pages == 0) return i;
        if (e.lease_until > now) continue;
        if (best != kNoId) {
            const Extent& b = extents_.at(best);
            uint64_t mine = heat(e), theirs = heat(b);
            if (mine > theirs || (mine == theirs && e.sealed_at > b.sealed_at)) continue;
        }
        best = i;
    }
    return best;
}

// Room for the pages that were read since they came, the most read first.
std::vector<Store::Pending> Store::choose_moves(uint32_t extent, uint64_t budget) {
    std::vector<EntryId> hot;
    for (EntryId id = extents_.at(extent).head; id != kNoEntry; id = index_.at(id).next) {
        if (index_.at(id).hits > 0 && !cleared(index_.at(id))) hot.push_back(id);
    }
    std::sort(hot.begin(), hot.end(), [&](EntryId a, EntryId b) {
        const Entry &x = index_.at(a), &y = index_.at(b);
        return x.hits != y.hits ? x.hits > y.hits : x.offset < y.offset;
    });
    std::vector<Pending> moves;
    for (EntryId id : hot) {
        const Entry& e = index_.at(id);
        if (e.length > budget) continue;
        Pending move;
        if (extents_.reserve(e.length, true, move.slot) != PageStatus::STORED) break;
        budget -= e.length;
        move.digest = e.digest;
        move.check = e.check;
        move.from = e.offset;
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
    index_.move(id, move.slot);
    e.hits = 0;  // it has to be read again to be moved again
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
    if (e.publication == Publication::published)
        out.moved.push_back({e.digest, std::move(before), record_of(e)});
}

Reclaim Store::begin_reclaim(Nanos now, uint64_t move_bytes) {
    Reclaim out;
    std::vector<Pending> moves;
    {
        std::lock_guard lock(mutex_);
        out.extent = coldest(now);
        if (out.extent == kNoId) return out;
        extents_.start_reclaim(out.extent);
        moves = choose_moves(out.extent, move_bytes);
    }
    copy_moves(moves);
    std::lock_guard lock(mutex_);
    for (const Pending& move : moves) finish_move(move, out);
    while (extents_.at(out.extent).head != kNoEntry) {
        EntryId id = extents_.at(out.extent).head;
        const Entry& e = index_.at(id);
        if (e.publication == Publication::published) out.unpublish.push_back(published(e));
        index_.erase(id);
        ++counts_.evicted;
    }
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

// ---- rebuilding

size_t Store::rebuild_extent(uint32_t extent) {
    uint64_t first = extents_.start(extent), at = 0;
    size_t found = 0;
    uint32_t epoch = 0;
    while (at + kSlotHeader <= extents_.extent_bytes()) {
        SlotHeader h = read_header(extents_.bytes_at(first + at));
        if (h.magic != kSlotMagic || h.format != kSlotVersion || h.epoch == 0) break;
        if (at == 0) epoch = h.epoch;
        if (h.epoch != epoch || h.length > extents_.extent_bytes() ||
            !within(at, slot_bytes(h.length), extents_.extent_bytes())) {
            break;
        }
        if (h.mark == kMarkCommitted && h.length > 0 && index_.find(h.digest) == kNoEntry) {
            Entry e;
            e.digest = h.digest;
            e.version = h.version;
            e.offset = first + at + kSlotHeader;
            e.length = h.length;
            e.check = h.check;
            e.extent = extent;
            found += index_.insert(e) != kNoEntry;
        }
        at += slot_bytes(h.length);
    }
    if (at > 0) {
        extents_.set_epoch(extent, std::max(epoch, extents_.epoch(extent)));
        extents_.adopt(extent, at);
    }
    return found;
}

size_t Store::rebuild() {
    std::lock_guard lock(mutex_);
    extents_.forget();
    index_.forget();
    queue_.clear();
    unpublish_.clear();
    size_t found = 0;
    for (uint32_t i = 0; i < extents_.count(); ++i) found += rebuild_extent(i);
    return found;
}

}  // namespace tent::store
