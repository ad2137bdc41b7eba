#include "engine/hold.h"

#include <algorithm>
#include <cstdio>

#include "base/switches.h"
#include "engine/engine.h"

namespace tent::engine {
namespace {

constexpr size_t kAtATime = 4096;  // parts looked at before others get the loop

std::string hex(uint64_t address) {
    char text[20];
    std::snprintf(text, sizeof text, "%#llx", static_cast<unsigned long long>(address));
    return text;
}

Status judge(const Segment* at, uint64_t address, uint64_t length, bool destination) {
    if (at == nullptr) {
        return {Code::unregistered, "address " + hex(address) +
                                        " lies in no registered memory: call store.register(buffer) first"};
    }
    uint64_t room = at->length - (address - reinterpret_cast<uint64_t>(at->base));
    if (length > room) {
        return {Code::out_of_range, "a part of " + std::to_string(length) + " bytes at " + hex(address) +
                                        " reaches past the end of segment '" + at->name + "' (" +
                                        std::to_string(room) + " bytes are left)"};
    }
    if (at->revoked) return {Code::segment_gone, "segment '" + at->name + "' is being unregistered"};
    if (destination && !at->writable) {
        return {Code::read_only,
                "segment '" + at->name + "' is a read-only buffer: it cannot be a destination"};
    }
    return Status::good();
}

}  // namespace

Result<std::unique_ptr<Hold>> Hold::take(std::shared_ptr<Engine> engine, std::span<const uint64_t> addresses,
                                         std::span<const uint64_t> lengths, bool destination) {
    if (Status s = engine->usable(); !s.ok()) return s;
    std::unique_ptr<Hold> hold(new Hold(std::move(engine)));
    for (size_t at = 0; at < addresses.size(); at += kAtATime) {
        size_t n = std::min(kAtATime, addresses.size() - at);
        if (Status s = hold->add(addresses.subspan(at, n), lengths.subspan(at, n), destination); !s.ok())
            return s;
    }
    return hold;
}

Status Hold::add(std::span<const uint64_t> addresses, std::span<const uint64_t> lengths, bool destination) {
    auto token = engine_->hold_loop();
    Registry& registry = engine_->registry();
    for (size_t i = 0; i < addresses.size(); ++i) {
        if (lengths[i] == 0 || !protection_on(Protection::hold)) continue;
        auto* address = reinterpret_cast<const uint8_t*>(addresses[i]);
        Segment* at = registry.locate(address, 1);
        if (Status s = judge(at, addresses[i], lengths[i], destination); !s.ok()) return s;
        if (std::find(segments_.begin(), segments_.end(), at->id) != segments_.end()) continue;
        segments_.push_back(at->id);
        ++at->transfers;
    }
    return Status::good();
}

void Hold::release() {
    if (segments_.empty()) return;
    auto token = engine_->hold_loop();
    for (SegmentId id : segments_) {
        if (auto s = engine_->registry().find(id)) --s->transfers;
    }
    segments_.clear();
}

}  // namespace tent::engine
