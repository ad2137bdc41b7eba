// Reading once more what did not match its check, to tell a link that spoils bytes from a page that is bad at
// its owner: each piece comes over another link than the one that brought it first. Good now, and other bytes
// than before: the first link is corrupting. Loop token held, except for `ended`.
#pragma once

#include <atomic>
#include <memory>
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
    std::vector<LinkId> suspects;    // not yet tried: the likeliest last
    std::atomic<bool> ended{false};  // the reading that was under way
};

}  // namespace tent::engine
