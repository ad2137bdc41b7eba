#include "engine/offers.h"

#include <algorithm>

#include "base/switches.h"
#include "engine/engine.h"
#include "engine/owner_session.h"

namespace tent::engine {

using proto::OfferEnd;

namespace {

const char* words(OfferEnd how) {
    switch (how) {
        case OfferEnd::released:
            return "its reader has released it";
        case OfferEnd::refused:
            return "its reader has given it up";
        case OfferEnd::expired:
            return "its lease ran out unused";
        case OfferEnd::aborted:
            return "its owner took it back";
        case OfferEnd::gone:
            return "its memory was unregistered";
    }
    return "it has ended";
}

template <class M>
Result<Bytes> encoded(const M& m) {
    Bytes out;
    proto::encode(m, out);
    return out;
}

Status malformed(Code code) {
    if (code == Code::version_mismatch)
        return {code, "this node speaks version 1 of hand-offs: use one TENT version in a cluster"};
    return {code, "a malformed request about an offer"};
}

}  // namespace

Status Offers::add(OfferSpec spec) {
    if (offers_.size() >= kMost) return {Code::busy, "65536 offers are open: end some first"};
    if (spec.ranges.size() > proto::kMaxOfferRanges)
        return {Code::invalid_argument, "an offer holds at most a million ranges"};
    if (!spec.checks.empty() && spec.checks.size() != spec.ranges.size())
        return {Code::invalid_argument, "one check per range"};
    if (spec.lease <= 0) return {Code::invalid_argument, "a lease must be positive"};
    if (offers_.contains(spec.name)) return {Code::name_in_use, "an offer of that name is open"};
    Offer offer;
    for (size_t i = 0; i < spec.ranges.size(); ++i) {
        const transport::LocalPiece& r = spec.ranges[i];
        std::string who = "range " + std::to_string(i);
        const Segment* s = engine_.registry().locate(r.address, r.length);
        if (s == nullptr)
            return {Code::unregistered, who + " is not inside a registered segment: call register() first"};
        if (s->revoked)
            return {Code::segment_gone, who + ": segment '" + s->name + "' is being unregistered"};
        if (s->lender)
            return {Code::unsupported, who + ": segment '" + s->name + "' is a page store's: it moves pages"};
        if (spec.rights == Rights::write && !s->writable)
            return {Code::read_only, who + ": segment '" + s->name + "' is a read-only buffer"};
        if (offer.memory.empty() || offer.memory.back() != s->id) offer.memory.push_back(s->id);
    }
    Result<View> view = View::of(std::move(spec.ranges));
    if (!view.ok()) return view.status();
    std::sort(offer.memory.begin(), offer.memory.end());
    offer.memory.erase(std::unique(offer.memory.begin(), offer.memory.end()), offer.memory.end());
    offer.segment = engine_.registry().enter_view(std::make_unique<View>(std::move(*view)), spec.rights);
    offer.checks = std::move(spec.checks);
    offer.lease = spec.lease;
    Nanos now = boottime_now();
    offer.expires = spec.lease > kNever - now ? kNever : now + spec.lease;
    next_ = std::min(next_, offer.expires);
    engine_.wake_at(monotonic_now() + std::min(spec.lease, kSecond));
    offers_.emplace(spec.name, std::move(offer));
    return Status::good();
}

bool Offers::end(const Id128& name, OfferEnd how) {
    auto it = offers_.find(name);
    if (it == offers_.end()) return false;
    std::shared_ptr<Segment> segment = std::move(it->second.segment);
    offers_.erase(it);
    ended_.emplace_back(name, how);
    if (ended_.size() > kKept) ended_.pop_front();
    if (protection_on(Protection::offer)) {
        engine_.revoke_offer(*segment);
        engine_.registry().remove(segment->id);
    }
    engine_.offer_ended(name, how);
    return true;
}

// Why nothing is to be had by this name.
Status Offers::refusal(const Id128& name) const {
    for (auto it = ended_.rbegin(); it != ended_.rend(); ++it) {
        if (it->first == name)
            return {Code::segment_gone,
                    "node '" + engine_.name() + "': the offer has ended: " + words(it->second)};
    }
    return {Code::permission_denied, "node '" + engine_.name() + "' has made no such offer"};
}

Result<Bytes> Offers::call(OwnerSession& session, uint64_t method, ByteView request) {
    switch (static_cast<proto::HandoffMethod>(std::min<uint64_t>(method, UINT16_MAX))) {
        case proto::HandoffMethod::open:
            return open(session, request);
        case proto::HandoffMethod::release:
            return release(request);
    }
    return Status(Code::unsupported, "this node does not know method " + std::to_string(method));
}

Result<Bytes> Offers::open(OwnerSession& session, ByteView request) {
    proto::OpenRequest asked;
    if (Code code = proto::decode(request, asked); code != Code::ok) return malformed(code);
    auto it = offers_.find(asked.offer);
    if (it == offers_.end()) return refusal(asked.offer);
    Offer& offer = it->second;
    View& view = *offer.segment->view;
    size_t ranges = view.parts().size();
    if (asked.first >= ranges) return Status(Code::out_of_range, "the offer has fewer ranges");
    if (!session.may_open(*offer.segment, kMostOpen))
        return Status(Code::busy, "1024 offers are open in this session: release some first");
    view.used_at = boottime_now();
    proto::Opened reply;
    reply.segment = offer.segment->id;
    reply.rights = offer.segment->exposed;
    reply.checked = offer.checks.empty() ? 0 : 1;
    reply.bytes = view.bytes();
    reply.ranges = static_cast<uint32_t>(ranges);
    reply.lease_ms = static_cast<uint32_t>(std::min<Nanos>(offer.lease / kMillisecond, UINT32_MAX));
    reply.first = asked.first;
    for (size_t i = asked.first; i < ranges && reply.items.size() < proto::kMaxOffered; ++i)
        reply.items.push_back({view.parts()[i].length, offer.checks.empty() ? 0 : offer.checks[i]});
    return encoded(reply);
}

Result<Bytes> Offers::release(ByteView request) {
    proto::ReleaseRequest asked;
    if (Code code = proto::decode(request, asked); code != Code::ok) return malformed(code);
    if (end(asked.offer, asked.how)) return encoded(proto::Released{asked.how});
    for (const auto& [name, how] : ended_) {
        if (name == asked.offer) return encoded(proto::Released{how});
    }
    return refusal(asked.offer);
}

void Offers::session_lost(OwnerSession& session) {
    // It may come back in another session, as long as the lost one would have lasted.
    Nanos soon = boottime_now() + engine_.settings().lease;
    for (auto& [name, offer] : offers_) {
        View& view = *offer.segment->view;
        if (!view.close(session.session()) || view.opened()) continue;
        view.used_at = 0;
        offer.expires = std::min(offer.expires, soon);
        next_ = std::min(next_, offer.expires);
    }
}

void Offers::memory_gone(const Segment& segment) {
    std::vector<Id128> over;
    for (const auto& [name, offer] : offers_) {
        if (std::binary_search(offer.memory.begin(), offer.memory.end(), segment.id)) over.push_back(name);
    }
    for (const Id128& name : over) end(name, OfferEnd::gone);
}

Nanos Offers::expires(const Offer& offer) const {
    Nanos used = offer.segment->view->used_at;
    if (used == 0) return offer.expires;
    Nanos renewed = offer.lease > kNever - used ? kNever : used + offer.lease;
    return std::max(offer.expires, renewed);
}

void Offers::tick(Nanos lease_now) {
    if (offers_.empty()) return;
    if (lease_now >= next_) {
        next_ = kNever;
        std::vector<Id128> over;
        for (const auto& [name, offer] : offers_) {
            Nanos at = expires(offer);
            if (at <= lease_now) {
                over.push_back(name);
            } else {
                next_ = std::min(next_, at);
            }
        }
        for (const Id128& name : over) end(name, OfferEnd::expired);
    }
    if (next_ != kNever) engine_.wake_at(monotonic_now() + (next_ - std::min(next_, lease_now)));
}

}  // namespace tent::engine
