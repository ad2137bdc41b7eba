#include "store/tenants.h"

#include <algorithm>

namespace tent::store {
namespace {

constexpr size_t kMaxTenants = 65536;

}  // namespace

uint32_t Tenants::number(const Id128& tenant) {
    for (size_t i = 1; i < all_.size(); ++i) {
        if (all_[i].id == tenant) return static_cast<uint32_t>(i);
    }
    if (all_.size() >= kMaxTenants) return 0;
    all_.push_back({});
    all_.back().id = tenant;
    return static_cast<uint32_t>(all_.size() - 1);
}

void Tenants::add(uint32_t tenant, EntryId id) {
    if (tenant == 0) return;
    Tenant& t = all_[tenant];
    Entry& e = index_.at(id);
    e.younger = kNoEntry;
    e.older = t.youngest;
    (t.youngest != kNoEntry ? index_.at(t.youngest).younger : t.oldest) = id;
    t.youngest = id;
    t.bytes += e.length;
}

void Tenants::take(uint32_t tenant, EntryId id) {
    if (tenant == 0) return;
    Tenant& t = all_[tenant];
    const Entry& e = index_.at(id);
    (e.older != kNoEntry ? index_.at(e.older).younger : t.oldest) = e.younger;
    (e.younger != kNoEntry ? index_.at(e.younger).older : t.youngest) = e.older;
    t.bytes -= e.length;
}

void Tenants::forget_pages() {
    for (Tenant& t : all_) t = {t.id, 0, kNoEntry, kNoEntry};
}

}  // namespace tent::store
