// How long pages may stay and how much a tenant may hold. Both are the owner's to keep: neither is in the
// slot header nor in the record.
#include "store/store.h"

namespace tent::store {
namespace {

// Pages of a tenant that one put may look at to find what goes: beyond half of it, hits spare nothing any
// more.
constexpr size_t kMaxLook = 8192;

}  // namespace

// ---- time to live, by the clock that keeps running while the host sleeps and that nobody sets

Nanos Store::now() const {
    return config_.clock == nullptr ? 0 : config_.clock();
}

bool Store::expired(const Entry& entry) const {
    return entry.expires != 0 && entry.expires <= now();
}

Nanos Store::expiry(Nanos ttl) const {
    return ttl == 0 ? 0 : now() + ttl;
}

void Store::expire() {
    Nanos time = now();
    for (uint32_t i = 0; i < extents_.count(); ++i) {
        if (extents_.at(i).expires == 0 || extents_.at(i).expires > time) continue;
        Nanos earliest = 0;
        for (EntryId id = extents_.at(i).head, next; id != kNoEntry; id = next) {
            const Entry& e = index_.at(id);
            next = e.next;
            if (e.expires == 0) continue;
            if (e.expires <= time) {
                if (disk_ != nullptr) disk_->remove(e.digest);
                drop(id);
                ++counts_.expired;
            } else if (earliest == 0 || e.expires < earliest) {
                earliest = e.expires;
            }
        }
        extents_.at(i).expires = earliest;
    }
}

// ---- tenants

void Store::assign(const Id128& space, const Id128& tenant) {
    std::lock_guard lock(mutex_);
    uint32_t s = space_of(space), t = tenants_.number(tenant);
    if (s == 0 || spaces_[s].tenant == t) return;
    for (EntryId id = 0; id < index_.slots(); ++id) {  // peers may have committed pages of it already
        if (!index_.at(id).used || index_.at(id).space != s) continue;
        tenants_.take(spaces_[s].tenant, id);
        tenants_.add(t, id);
    }
    spaces_[s].tenant = t;
}

std::vector<Id128> Store::unassigned() const {
    std::lock_guard lock(mutex_);
    std::vector<Id128> out;
    for (size_t s = 1; s < spaces_.size(); ++s) {
        if (spaces_[s].tenant == 0) out.push_back(spaces_[s].digest);
    }
    return out;
}

uint64_t Store::tenant_bytes(const Id128& tenant) {
    std::lock_guard lock(mutex_);
    return tenants_.bytes(tenants_.number(tenant));
}

PageStatus Store::admit(uint32_t space, uint64_t length, uint64_t ahead) {
    uint32_t t = spaces_[space].tenant;
    uint64_t quota = config_.tenant_quota;
    if (t == 0 || quota == 0) return PageStatus::STORED;
    if (length <= quota && ahead <= quota - length && make_way(t, quota - ahead - length)) {
        return PageStatus::STORED;
    }
    ++counts_.quota_refused;
    return PageStatus::QUOTA;
}

bool Store::make_way(uint32_t tenant, uint64_t most) {
    Nanos time = now();
    for (size_t look = 0; tenants_.bytes(tenant) > most; ++look) {
        EntryId id = tenants_.oldest(tenant);
        if (id == kNoEntry || look == kMaxLook) return false;
        const Entry& e = index_.at(id);
        bool kept = e.pins > 0 || e.lease_until > time;
        uint32_t hits = look < kMaxLook / 2 ? index_.hits(id) : 0;
        if (!kept && hits == 0) {
            drop(id);
            ++counts_.quota_evicted;
            continue;
        }
        if (!kept) index_.set_hits(id, hits - 1);
        tenants_.take(tenant, id);  // to the end of the row
        tenants_.add(tenant, id);
    }
    return true;
}

}  // namespace tent::store
