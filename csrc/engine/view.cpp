#include "engine/view.h"

#include <algorithm>

namespace tent::engine {

using transport::LocalPiece;

Result<View> View::of(std::vector<LocalPiece> parts) {
    if (parts.empty()) return {Code::invalid_argument, "an offer needs at least one range"};
    View v;
    uint64_t end = 0;
    for (size_t i = 0; i < parts.size(); ++i) {
        if (parts[i].length == 0)
            return {Code::invalid_argument, "range " + std::to_string(i) + " has length zero"};
        if (end + parts[i].length < end) return {Code::out_of_range, "the ranges add up to too much"};
        v.ends_.push_back(end += parts[i].length);
    }
    v.in_order_ = parts;
    std::sort(v.in_order_.begin(), v.in_order_.end(),
              [](const LocalPiece& a, const LocalPiece& b) { return a.address < b.address; });
    for (size_t i = 1; i < v.in_order_.size(); ++i) {
        if (v.in_order_[i - 1].address + v.in_order_[i - 1].length > v.in_order_[i].address)
            return {Code::overlapping, "two ranges of the offer overlap"};
    }
    v.parts_ = std::move(parts);
    return v;
}

void View::slice(uint64_t offset, uint64_t length, std::vector<LocalPiece>& out) const {
    auto i = static_cast<size_t>(std::upper_bound(ends_.begin(), ends_.end(), offset) - ends_.begin());
    for (; length > 0 && i < parts_.size(); ++i) {
        uint64_t within = offset - (ends_[i] - parts_[i].length);
        uint64_t n = std::min(length, parts_[i].length - within);
        out.push_back({parts_[i].address + within, n});
        offset += n;
        length -= n;
    }
}

bool View::overlaps(const LocalPiece& piece) const {
    // The last part that begins before the piece ends: those before it end earlier still.
    auto after = std::lower_bound(in_order_.begin(), in_order_.end(), piece.address + piece.length,
                                  [](const LocalPiece& p, const uint8_t* end) { return p.address < end; });
    return after != in_order_.begin() && std::prev(after)->address + std::prev(after)->length > piece.address;
}

bool View::open_to(const Id128& session) const {
    return std::find(sessions_.begin(), sessions_.end(), session) != sessions_.end();
}

bool View::open(const Id128& session) {
    if (open_to(session)) return false;
    sessions_.push_back(session);
    return true;
}

bool View::close(const Id128& session) {
    return std::erase(sessions_, session) != 0;
}

}  // namespace tent::engine
