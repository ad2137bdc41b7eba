#include "proto/lease.h"

#include <algorithm>

#include "base/switches.h"

namespace tent::proto {
namespace {

// A lease may be configured to last for ever.
Nanos add(Nanos at, Nanos span) {
    return span > kNever - at ? kNever : at + span;
}

}  // namespace

OwnerLease::OwnerLease(Nanos lease, Nanos now) : lease_(lease), expires_(add(now, lease)) {}

uint64_t OwnerLease::issue(Nanos now) {
    if (issued_.size() == kMaxTokens) issued_.pop_front();
    issued_.push_back({next_, now});
    return next_++;
}

bool OwnerLease::echoed(uint64_t token, Nanos now) {
    if (!valid(now)) return false;
    auto it = std::find_if(issued_.begin(), issued_.end(),
                           [token](const Issued& issued) { return issued.number == token; });
    if (it == issued_.end()) return false;
    expires_ = std::max(expires_, add(it->at, lease_));
    issued_.erase(issued_.begin(), it + 1);  // older ones could only renew to an earlier time
    return true;
}

bool OwnerLease::valid(Nanos now) {
    if (!protection_on(Protection::lease)) return true;
    if (now >= expires_) dead_ = true;
    return !dead_;
}

Nanos OwnerLease::expires() const {
    return expires_;
}

WriterLease::WriterLease(Nanos lease, Nanos now) : lease_(lease), received_(now) {}

void WriterLease::received(uint64_t token, Nanos now) {
    if (token <= token_) return;  // overtaken on another connection
    token_ = token;
    received_ = std::max(received_, now);
}

uint64_t WriterLease::last_token() const {
    return token_;
}

Nanos WriterLease::fenced_at() const {
    return add(add(received_, lease_), lease_ / 256 + 10 * kMillisecond);
}

}  // namespace tent::proto
