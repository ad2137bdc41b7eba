// Where live transfers write: two that overlap are refused, since nobody could say which bytes end up there.
#pragma once

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

namespace tent::engine {

class Destinations {
  public:
    using Interval = std::pair<uint64_t, uint64_t>;  // [begin, end)
    // Sorts and joins. False: two of them overlap.
    static bool normalise(std::vector<Interval>& intervals);
    // Enters normalised intervals of one address space. False (and nothing entered): one overlaps a live one.
    bool enter(uint64_t space, const std::vector<Interval>& intervals);
    void leave(uint64_t space, const std::vector<Interval>& intervals);
    bool empty() const { return live_.empty(); }

  private:
    std::map<std::pair<uint64_t, uint64_t>, uint64_t> live_;  // (space, begin) -> end
};

}  // namespace tent::engine
