#include "engine/destinations.h"

#include <algorithm>

namespace tent::engine {

bool Destinations::normalise(std::vector<Interval>& v) {
    if (!std::is_sorted(v.begin(), v.end())) std::sort(v.begin(), v.end());
    size_t kept = 0;
    for (size_t i = 1; i < v.size(); ++i) {
        if (v[i].first < v[kept].second) return false;
        if (v[i].first == v[kept].second) {
            v[kept].second = v[i].second;
        } else {
            v[++kept] = v[i];
        }
    }
    v.resize(v.empty() ? 0 : kept + 1);
    return true;
}

bool Destinations::enter(uint64_t space, const std::vector<Interval>& intervals) {
    for (const auto& [begin, end] : intervals) {
        auto after = live_.lower_bound({space, begin});
        if (after != live_.end() && after->first.first == space && after->first.second < end) return false;
        if (after == live_.begin()) continue;
        auto before = std::prev(after);
        if (before->first.first == space && before->second > begin) return false;
    }
    for (const auto& [begin, end] : intervals) live_[{space, begin}] = end;
    return true;
}

void Destinations::leave(uint64_t space, const std::vector<Interval>& intervals) {
    for (const auto& [begin, end] : intervals) live_.erase({space, begin});
}

}  // namespace tent::engine
