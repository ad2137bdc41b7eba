// Reading once more what did not match its check, to tell a link that spoils bytes from a page that is bad at
// its owner: everything in doubt is read over one link alone, the least suspected first, then over the next.
// Good now, and other bytes than a link had brought: that link is corrupting. The same bytes again: the page
// is at fault. Loop token held, except for `ended`.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "model/types.h"

namespace tent::engine {

class Transfer;

struct Doubt {
    struct Part {  // of the transfer's stream
        uint32_t range;
        LinkId link;
        uint64_t begin, end;
        uint64_t before;  // hash of the bytes that came first
    };
    std::shared_ptr<Transfer> of;
    std::vector<uint32_t> ranges;  // still in doubt
    std::vector<Part> parts;
    std::map<uint32_t, std::set<uint64_t>> seen;   // of each range, hashes of what was read
    std::map<LinkId, std::set<uint32_t>> brought;  // in which ranges each link had a part
    std::set<LinkId> tried;                        // alone
    std::atomic<bool> ended{false};                // the reading that was under way
};

}  // namespace tent::engine
