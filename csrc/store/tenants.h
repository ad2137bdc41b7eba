// What each tenant's pages take up, and the pages in the order in which they came or were last spared: where
// the tenant has to make room for itself, that order says which go. Number 0 is nobody: namespaces that name
// no tenant. Not thread-safe: the Store's mutex guards it.
#pragma once

#include <vector>

#include "store/index.h"

namespace tent::store {

class Tenants {
  public:
    explicit Tenants(Index& index) : index_(index), all_(1) {}

    // The tenant's number, a new one for one not seen before. 0 when there are too many.
    uint32_t number(const Id128& tenant);
    void add(uint32_t tenant, EntryId id);
    void take(uint32_t tenant, EntryId id);
    EntryId oldest(uint32_t tenant) const { return all_[tenant].oldest; }
    uint64_t bytes(uint32_t tenant) const { return all_[tenant].bytes; }
    void forget_pages();

  private:
    struct Tenant {
        Id128 id{};
        uint64_t bytes = 0;
        EntryId oldest = kNoEntry, youngest = kNoEntry;
    };
    Index& index_;
    std::vector<Tenant> all_;
};

}  // namespace tent::store
