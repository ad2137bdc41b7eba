// The page check: XXH3-64 leaves of 64 KiB, combined. Each leaf's seed depends on the page's digest and the
// leaf's place, so that a leaf of another page, or of another place in this one, does not pass.
#include <algorithm>

#include "base/digest.h"

namespace tent {

static_assert(sizeof(size_t) == 8);

uint64_t leaf_seed(const Id128& digest, uint64_t leaf_index) {
    std::array<uint8_t, sizeof(Id128) + 8> named;
    std::memcpy(named.data(), digest.data(), digest.size());
    for (size_t i = 0; i < 8; ++i) named[digest.size() + i] = static_cast<uint8_t>(leaf_index >> (8 * i));
    return xxh3_64(named.data(), named.size(), 0);
}

uint64_t leaf_check(const Id128& digest, uint64_t leaf_index, const void* data, size_t size) {
    return xxh3_64(data, size, leaf_seed(digest, leaf_index));
}

uint64_t combine_leaves(const Id128& digest, const uint64_t* leaves, size_t count, uint64_t page_size) {
    uint64_t seed = xxh3_64(digest.data(), digest.size(), 0);
    // As they lie in memory: digest_kernels.cpp refuses to compile for big-endian machines.
    std::array<uint64_t, 33> few;
    if (count < few.size()) {
        std::copy(leaves, leaves + count, few.begin());
        few[count] = page_size;
        return xxh3_64(few.data(), (count + 1) * sizeof(uint64_t), seed);
    }
    Xxh3Stream all(seed);
    all.update(leaves, count * sizeof(uint64_t));
    all.update(&page_size, sizeof page_size);
    return all.finish();
}

uint64_t page_check(const Id128& digest, const void* data, size_t size) {
    auto* p = static_cast<const uint8_t*>(data);
    std::vector<uint64_t> leaves((size + kLeafBytes - 1) / kLeafBytes);
    for (size_t i = 0; i < leaves.size(); ++i)
        leaves[i] = leaf_check(digest, i, p + i * kLeafBytes, std::min(kLeafBytes, size - i * kLeafBytes));
    return combine_leaves(digest, leaves.data(), leaves.size(), size);
}

PageCheck::PageCheck(const Id128& digest) : digest_(digest) {}

void PageCheck::update(const void* data, size_t size) {
    auto* p = static_cast<const uint8_t*>(data);
    size_ += size;
    while (size > 0) {
        if (in_leaf_ == 0 && size >= kLeafBytes) {
            leaves_.push_back(leaf_check(digest_, leaves_.size(), p, kLeafBytes));
            p += kLeafBytes;
            size -= kLeafBytes;
            continue;
        }
        if (in_leaf_ == 0) leaf_.reset(leaf_seed(digest_, leaves_.size()));
        size_t take = std::min(size, kLeafBytes - in_leaf_);
        leaf_.update(p, take);
        p += take;
        size -= take;
        in_leaf_ = (in_leaf_ + take) % kLeafBytes;
        if (in_leaf_ == 0) leaves_.push_back(leaf_.finish());
    }
}

uint64_t PageCheck::finish() {
    if (in_leaf_ > 0) leaves_.push_back(leaf_.finish());
    in_leaf_ = 0;
    return combine_leaves(digest_, leaves_.data(), leaves_.size(), size_);
}

}  // namespace tent
