#include "transport/leaves.h"

#include <algorithm>

namespace tent::transport {
namespace {

uint64_t leaves_in(uint64_t bytes) {
    return (bytes + kLeafBytes - 1) / kLeafBytes;
}

}  // namespace

Leaves::Leaves(std::span<const Id128> digests, std::span<const uint32_t> group,
               std::span<const uint64_t> local, std::span<const uint64_t> prefix)
    : pages_(digests.size()), prefix_(prefix.begin(), prefix.end()) {
    for (size_t p = 0; p < digests.size(); ++p) pages_[p].digest = digests[p];
    ranges_.reserve(local.size());
    by_address_.reserve(local.size());
    for (uint32_t i = 0; i < local.size(); ++i) {
        Page& page = pages_[group[i]];
        ranges_.push_back({local[i], prefix[i + 1] - prefix[i], group[i], page.bytes});
        page.bytes += ranges_[i].bytes;
        by_address_.push_back(i);
    }
    auto lower = [this](uint32_t a, uint32_t b) { return ranges_[a].local < ranges_[b].local; };
    if (!std::is_sorted(by_address_.begin(), by_address_.end(), lower))
        std::sort(by_address_.begin(), by_address_.end(), lower);
    uint64_t leaves = 0;
    for (Page& page : pages_) {
        page.first_leaf = leaves;
        leaves += leaves_in(page.bytes);
    }
    hashes_ = std::vector<std::atomic<uint64_t>>(leaves);
    known_ = std::vector<std::atomic<bool>>(leaves);
}

uint32_t Leaves::at_address(uint64_t local) const {
    auto after = std::upper_bound(by_address_.begin(), by_address_.end(), local,
                                  [this](uint64_t a, uint32_t r) { return a < ranges_[r].local; });
    if (after == by_address_.begin()) return UINT32_MAX;
    uint32_t range = *std::prev(after);
    return local - ranges_[range].local < ranges_[range].bytes ? range : UINT32_MAX;
}

void Leaves::set(uint32_t page, uint64_t leaf, uint64_t hash) {
    uint64_t i = pages_[page].first_leaf + leaf;
    hashes_[i].store(hash, std::memory_order_relaxed);
    known_[i].store(true, std::memory_order_release);
}

uint64_t Leaves::cut(uint64_t begin, uint64_t end, uint32_t last_range) const {
    const Range& range = ranges_[last_range];
    uint64_t in_page = range.in_page + (end - prefix_[last_range]);
    if (in_page == pages_[range.page].bytes) return end;
    uint64_t beyond = in_page % kLeafBytes;
    return end - begin > beyond ? end - beyond : end;
}

std::optional<uint64_t> Leaves::check(uint32_t page) const {
    if (carried_.load(std::memory_order_relaxed) != prefix_.back()) return {};
    const Page& p = pages_[page];
    std::vector<uint64_t> hashes(leaves_in(p.bytes));
    for (uint64_t i = 0; i < hashes.size(); ++i) {
        if (!known_[p.first_leaf + i].load(std::memory_order_acquire)) return {};
        hashes[i] = hashes_[p.first_leaf + i].load(std::memory_order_relaxed);
    }
    return combine_leaves(p.digest, hashes.data(), hashes.size(), p.bytes);
}

// Local memory that is one piece may hold several ranges.
void Leaves::Walk::copied(const uint8_t* local, const uint8_t* bytes, uint64_t n) {
    auto address = reinterpret_cast<uint64_t>(local);
    while (n > 0) {
        uint32_t range = leaves_.at_address(address);
        if (range == UINT32_MAX) return;
        const Range& r = leaves_.ranges_[range];
        uint64_t take = std::min(n, r.local + r.bytes - address);
        part(range, r.in_page + (address - r.local), bytes, take);
        address += take;
        bytes += take;
        n -= take;
    }
}

// `n` bytes of a page from `at` on: whole leaves at once, one that comes in pieces as long as they follow
// each other.
void Leaves::Walk::part(uint32_t range, uint64_t at, const uint8_t* bytes, uint64_t n) {
    uint32_t page = leaves_.ranges_[range].page;
    const Page& p = leaves_.pages_[page];
    for (uint64_t end = at + n; at < end;) {
        uint64_t leaf = at / kLeafBytes, from = leaf * kLeafBytes;
        uint64_t to = std::min(from + kLeafBytes, p.bytes);
        uint64_t take = std::min(to, end) - at;
        bool goes_on = page == page_ && at == next_ && at != from;
        if (at == from && take == to - from) {
            leaves_.set(page, leaf, leaf_check(p.digest, leaf, bytes, take));
        } else if (at == from || goes_on) {
            if (at == from) leaf_.reset(leaf_seed(p.digest, leaf));
            leaf_.update(bytes, take);
            page_ = page;
            next_ = at + take;
            if (next_ == to) leaves_.set(page, leaf, leaf_.finish());
        }
        at += take;
        bytes += take;
    }
}

}  // namespace tent::transport
