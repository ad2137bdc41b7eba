// Leaf hashes taken on the way are those of the page, however its bytes were cut; and there are none where it
// is not sure what lies there.
#include "transport/leaves.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <vector>

using tent::Id128;
using tent::kLeafBytes;
using tent::transport::Leaves;

namespace {

// Pages of one size, each in `parts` ranges that lie in memory in the reverse of their order.
struct Pages {
    Pages(size_t pages, std::vector<uint64_t> parts) {
        for (uint64_t n : parts) bytes += n;
        memory.resize(pages * bytes);
        std::mt19937_64 random(7);
        for (uint8_t& b : memory) b = static_cast<uint8_t>(random());
        uint64_t top = memory.size();
        prefix.push_back(0);
        for (uint32_t p = 0; p < pages; ++p) {
            Id128 digest{};
            digest[0] = static_cast<uint8_t>(p + 1);
            digests.push_back(digest);
            for (uint64_t n : parts) {
                top -= n;
                local.push_back(reinterpret_cast<uint64_t>(memory.data()) + top);
                group.push_back(p);
                prefix.push_back(prefix.back() + n);
            }
        }
    }
    uint64_t check(uint32_t page) const {
        tent::PageCheck c(digests[page]);
        for (size_t r = 0; r < local.size(); ++r) {
            if (group[r] == page)
                c.update(reinterpret_cast<const void*>(local[r]), prefix[r + 1] - prefix[r]);
        }
        return c.finish();
    }
    Leaves leaves() const { return Leaves(digests, group, local, prefix); }
    // [begin, end) of the stream, copied in chunks.
    void copy(Leaves& to, uint64_t begin, uint64_t end, uint64_t chunk) const {
        Leaves::Walk walk(to);
        for (size_t r = 0; r < local.size(); ++r) {
            uint64_t from = std::max(begin, prefix[r]), until = std::min(end, prefix[r + 1]);
            for (uint64_t at = from; at < until; at += chunk) {
                auto* here = reinterpret_cast<const uint8_t*>(local[r]) + (at - prefix[r]);
                walk.copied(here, here, std::min(chunk, until - at));
            }
        }
        to.carrying(end - begin);
    }
    uint64_t bytes = 0;
    std::vector<uint8_t> memory;
    std::vector<Id128> digests;
    std::vector<uint32_t> group;
    std::vector<uint64_t> local, prefix;
};

}  // namespace

TEST_CASE("however a page is cut into parts and chunks, its check is the page's") {
    for (std::vector<uint64_t> parts : {std::vector<uint64_t>{1 << 20},
                                        {1},
                                        {kLeafBytes},
                                        {kLeafBytes + 1, 7, 3 * kLeafBytes},
                                        {100, 200, 300},
                                        std::vector<uint64_t>(24, 10'000)}) {
        for (uint64_t chunk : {uint64_t{4096}, uint64_t{kLeafBytes}, uint64_t{100'001}, uint64_t{1} << 20}) {
            Pages pages(3, parts);
            Leaves leaves = pages.leaves();
            pages.copy(leaves, 0, pages.prefix.back(), chunk);
            for (uint32_t p = 0; p < 3; ++p) CHECK(leaves.check(p) == pages.check(p));
        }
    }
}

TEST_CASE("attempts that are cut where it says hash every leaf, in any order") {
    Pages pages(2, {kLeafBytes / 2, 5 * kLeafBytes, 1000});
    Leaves leaves = pages.leaves();
    std::vector<std::pair<uint64_t, uint64_t>> slices;
    for (uint64_t begin = 0; begin < pages.prefix.back();) {
        uint64_t want = std::min(begin + 150'000, pages.prefix.back());
        auto range = static_cast<uint32_t>(
            std::upper_bound(pages.prefix.begin(), pages.prefix.end(), want - 1) - pages.prefix.begin() - 1);
        uint64_t end = leaves.cut(begin, want, range);
        REQUIRE(end > begin);
        slices.push_back({begin, end});
        begin = end;
    }
    for (size_t i = slices.size(); i-- > 0;) pages.copy(leaves, slices[i].first, slices[i].second, 1 << 20);
    for (uint32_t p = 0; p < 2; ++p) CHECK(leaves.check(p) == pages.check(p));
}

TEST_CASE("memory that is one piece may hold ranges of several pages") {
    Pages pages(1, {3 * kLeafBytes});
    std::vector<Id128> digests(2, pages.digests[0]);
    std::vector<uint32_t> group = {0, 1};
    uint64_t base = pages.local[0];
    std::vector<uint64_t> local = {base, base + kLeafBytes}, prefix = {0, kLeafBytes, 3 * kLeafBytes};
    Leaves leaves(digests, group, local, prefix);
    Leaves::Walk walk(leaves);
    walk.copied(pages.memory.data(), pages.memory.data(), 3 * kLeafBytes);
    leaves.carrying(3 * kLeafBytes);
    CHECK(leaves.check(0) == tent::page_check(digests[0], pages.memory.data(), kLeafBytes));
    CHECK(leaves.check(1) == tent::page_check(digests[1], pages.memory.data() + kLeafBytes, 2 * kLeafBytes));
}

TEST_CASE("a page has no check where a leaf was not seen whole, or bytes were carried twice") {
    Pages pages(2, {4 * kLeafBytes});
    SUBCASE("a leaf is missing") {
        Leaves leaves = pages.leaves();
        pages.copy(leaves, 0, kLeafBytes + 5, 4096);
        pages.copy(leaves, kLeafBytes + 5, pages.prefix.back(), 4096);
        CHECK_FALSE(leaves.check(0));
        CHECK(leaves.check(1) == pages.check(1));
    }
    SUBCASE("an attempt was given up and its bytes posted again") {
        Leaves leaves = pages.leaves();
        pages.copy(leaves, 0, pages.prefix.back(), 4096);
        leaves.carrying(kLeafBytes);
        CHECK_FALSE(leaves.check(0));
        CHECK_FALSE(leaves.check(1));
    }
    SUBCASE("another transport carried some of it, and hashed nothing") {
        Leaves leaves = pages.leaves();
        pages.copy(leaves, 0, 6 * kLeafBytes, 4096);
        leaves.carrying(2 * kLeafBytes);
        CHECK(leaves.check(0) == pages.check(0));
        CHECK_FALSE(leaves.check(1));
    }
    SUBCASE("memory that is none of its ranges") {
        Leaves leaves = pages.leaves();
        std::vector<uint8_t> other(kLeafBytes);
        Leaves::Walk walk(leaves);
        walk.copied(other.data(), other.data(), other.size());
        leaves.carrying(pages.prefix.back());
        CHECK_FALSE(leaves.check(0));
    }
}
