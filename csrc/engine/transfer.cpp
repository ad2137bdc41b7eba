#include "engine/transfer.h"

#include <algorithm>

#include "base/digest.h"
#include "base/switches.h"

namespace tent::engine {

uint32_t Transfer::range_at(uint64_t at) const {
    auto it = std::upper_bound(prefix_.begin(), prefix_.end(), at);
    return static_cast<uint32_t>(it - prefix_.begin()) - 1;
}

uint64_t Transfer::cut(uint64_t begin, uint64_t want) const {
    uint64_t end = std::min(begin + std::min(want, proto::kMaxPayload), total_);
    size_t first = range_at(begin);
    size_t limit = std::min(first + proto::kMaxPieces / 2, ranges());
    end = std::min(end, prefix_[limit]);
    return leaves_ ? leaves_->cut(begin, end, range_at(end - 1)) : end;
}

uint64_t Transfer::pieces(uint64_t begin, uint64_t end, bool exact, std::vector<proto::Piece>& remote,
                          std::vector<transport::LocalPiece>& local, std::vector<uint32_t>& ranges) const {
    remote.clear();
    local.clear();
    ranges.clear();
    uint64_t bytes = 0;
    for (uint32_t i = range_at(begin); i < this->ranges() && prefix_[i] < end; ++i) {
        if (dead(i)) continue;
        uint64_t from = std::max(begin, prefix_[i]) - prefix_[i];
        uint64_t n = std::min(end, prefix_[i + 1]) - prefix_[i] - from;
        uint32_t segment = segment_.size() == 1 ? segment_[0] : segment_[i];
        uint32_t epoch = epoch_.empty() ? 0 : epoch_[i];
        uint64_t offset = offset_[i] + from;
        auto* address = reinterpret_cast<uint8_t*>(local_[i] + from);
        bool joined = !exact && !remote.empty() && remote.back().segment == segment &&
                      remote.back().epoch == epoch && remote.back().offset + remote.back().length == offset;
        if (joined) {
            remote.back().length += n;
        } else {
            remote.push_back({segment, epoch, offset, n});
            ranges.push_back(i);
        }
        if (!local.empty() && local.back().address + local.back().length == address) {
            local.back().length += n;
        } else {
            local.push_back({address, n});
        }
        bytes += n;
    }
    return bytes;
}

void Transfer::set(uint32_t range, RangeState state) {
    states_[range].store(static_cast<uint8_t>(state), std::memory_order_release);
    if (!group_.empty() && state == RangeState::ok)
        group_left_[group_[range]].fetch_sub(1, std::memory_order_acq_rel);
}

bool Transfer::check_ok(uint32_t range) const {
    if (checks_.empty() || !protection_on(Protection::check)) return true;
    uint64_t n = prefix_[range + 1] - prefix_[range];
    return page_check(Id128{}, reinterpret_cast<const void*>(local_[range]), n) == checks_[range];
}

void Transfer::landed(uint64_t begin, uint64_t end) {
    for (uint32_t i = range_at(begin); i < ranges() && prefix_[i] < end; ++i) {
        if (state(i) != RangeState::pending) continue;
        uint64_t n = std::min(end, prefix_[i + 1]) - std::max(begin, prefix_[i]);
        left_[i] -= std::min(left_[i], n);
        if (left_[i] != 0) continue;
        if (check_ok(i)) {
            set(i, RangeState::ok);
        } else if (remembers_) {
            doubted_.push_back(i);
        } else {
            fail_check(i);
        }
    }
}

void Transfer::accept(uint32_t range) {
    if (state(range) == RangeState::pending) set(range, RangeState::ok);
}

void Transfer::fail_check(uint32_t range) {
    if (state(range) != RangeState::pending) return;
    fail_range(range, {Code::check_failed,
                       "range " + std::to_string(range) + ": the bytes do not match their check"});
}

void Transfer::fail_range(uint32_t range, Status why) {
    if (state(range) != RangeState::pending) return;
    set(range, RangeState::failed);
    errors_.push_back({range, std::move(why)});
}

size_t Transfer::prefix() const {
    size_t i = prefix_hint_.load(std::memory_order_relaxed);
    while (i < ranges() && state(i) == RangeState::ok) ++i;
    prefix_hint_.store(i, std::memory_order_relaxed);
    return i;
}

bool Transfer::group_done(uint32_t group) const {
    return group < group_left_.size() && group_left_[group].load(std::memory_order_acquire) == 0;
}

}  // namespace tent::engine
