#include "model/fault_plan.h"

#include <algorithm>

namespace tent {
namespace {

uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

uint64_t mix(uint64_t seed, std::string_view text) {
    for (char c : text) seed = mix(seed ^ static_cast<uint8_t>(c));
    return mix(seed ^ text.size());
}

Nanos end_of(const Fault& f) {
    return f.duration == 0 || f.duration > kNever - f.at ? kNever : f.at + f.duration;
}

}  // namespace

bool matches(std::string_view pattern, std::string_view name) {
    size_t p = 0, n = 0, star = std::string_view::npos, from = 0;
    while (n < name.size()) {
        if (p < pattern.size() && pattern[p] == '*') {
            star = p++;
            from = n;
        } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == name[n])) {
            ++p;
            ++n;
        } else if (star != std::string_view::npos) {
            p = star + 1;
            n = ++from;
        } else {
            return false;
        }
    }
    while (p < pattern.size() && pattern[p] == '*') ++p;
    return p == pattern.size();
}

FaultSide hits(const Fault& f, const FaultLink& l) {
    if (!matches(f.transport, l.transport)) return FaultSide::none;
    if (matches(f.node, l.node) && matches(f.rail, l.rail) && matches(f.peer, l.peer) &&
        matches(f.peer_rail, l.peer_rail))
        return FaultSide::here;
    if (matches(f.node, l.peer) && matches(f.rail, l.peer_rail) && matches(f.peer, l.node) &&
        matches(f.peer_rail, l.rail))
        return FaultSide::there;
    return FaultSide::none;
}

bool on_at(const Fault& f, Nanos now) {
    if (now < f.at || now >= end_of(f)) return false;
    if (f.kind != FaultKind::flap || f.period < 2) return true;
    return (now - f.at) % f.period < f.period / 2;
}

Nanos next_change(const Fault& f, Nanos now) {
    if (now < f.at) return f.at;
    Nanos end = end_of(f);
    if (now >= end) return kNever;
    if (f.kind != FaultKind::flap || f.period < 2) return end;
    Nanos within = (now - f.at) % f.period, half = f.period / 2;
    return std::min(end, now + (within < half ? half : f.period) - within);
}

uint64_t draw(const FaultPlan& plan, size_t fault, const FaultLink& l, uint64_t attempt) {
    uint64_t h = mix(plan.seed ^ mix(fault));
    for (std::string_view name :
         {std::string_view(l.transport), std::string_view(l.node), std::string_view(l.rail),
          std::string_view(l.peer), std::string_view(l.peer_rail)})
        h = mix(h, name);
    return mix(h ^ attempt);
}

bool strikes(const FaultPlan& plan, size_t fault, const FaultLink& link, uint64_t attempt) {
    const Fault& f = plan.faults[fault];
    uint64_t first = std::max<uint64_t>(1, f.from_attempt);
    if (attempt < first || (f.attempts != 0 && attempt - first >= f.attempts)) return false;
    return f.chance_ppm >= 1'000'000 || draw(plan, fault, link, attempt) % 1'000'000 < f.chance_ppm;
}

bool swallows(const Fault& f, FaultSide side, bool outgoing) {
    if (f.kind != FaultKind::one_way || side == FaultSide::none) return false;
    bool out = (f.direction == FaultDirection::out) == (side == FaultSide::here);
    return out == outgoing;
}

}  // namespace tent
