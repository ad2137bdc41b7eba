#include "store/ghosts.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace tent::store {

// The index takes the first eight bytes of a digest; any others are as good.
size_t Ghosts::set_of(const Id128& digest) const {
    uint32_t h;
    std::memcpy(&h, digest.data() + 8, sizeof h);
    return static_cast<size_t>(h) * kWays & (table_.size() - 1);
}

uint32_t Ghosts::tag_of(const Id128& digest) {
    uint32_t tag;
    std::memcpy(&tag, digest.data() + 12, sizeof tag);
    return tag | 1;
}

uint32_t Ghosts::age(const Ghost& ghost) const {
    return (left_[ghost.stamp & 1] - (ghost.stamp >> 1)) & (UINT32_MAX >> 1);
}

void Ghosts::note(const Id128& digest, bool keeper, size_t pages) {
    size_t most = std::min<size_t>(pages, size_t{1} << 28);
    remembered_[0] = static_cast<uint32_t>(most / 2);
    remembered_[1] = static_cast<uint32_t>(most);
    size_t slots = std::bit_ceil(std::max<size_t>(most * 4, 64));
    if (table_.size() < slots) table_.assign(slots, {});  // the pool has grown: begins anew
    Ghost* set = &table_[set_of(digest)];
    Ghost* oldest = set;
    for (Ghost* g = set; g != set + kWays; ++g) {
        if (g->tag == 0 || g->tag == tag_of(digest)) {
            oldest = g;
            break;
        }
        if (age(*g) > age(*oldest)) oldest = g;
    }
    uint32_t before = left_[keeper]++;
    *oldest = {tag_of(digest), before << 1 | (keeper ? 1u : 0u)};
}

Ghosts::Kind Ghosts::find(const Id128& digest) const {
    if (table_.empty()) return Kind::none;
    const Ghost* set = &table_[set_of(digest)];
    for (const Ghost* g = set; g != set + kWays; ++g) {
        if (g->tag != tag_of(digest) || age(*g) > remembered_[g->stamp & 1]) continue;
        return (g->stamp & 1) != 0 ? Kind::keeper : Kind::newcomer;
    }
    return Kind::none;
}

void Ghosts::forget(const Id128& digest) {
    if (table_.empty()) return;
    Ghost* set = &table_[set_of(digest)];
    for (Ghost* g = set; g != set + kWays; ++g) {
        if (g->tag == tag_of(digest)) *g = {};
    }
}

}  // namespace tent::store
