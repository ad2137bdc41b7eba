// Two engines in one process over real queue pairs. TENT_TEST_RDMA names the rails (10.77.0.1-10.77.0.2,...),
// each with an RDMA port behind both addresses; without it only what needs no device is tested.
#pragma once

#include <doctest/doctest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "engine/engine.h"

namespace tent::test {

using engine::Engine;
using engine::Intent;
using engine::Peer;
using engine::Segment;
using engine::Transfer;

constexpr Nanos kPatience = 60 * kSecond;

struct Rails {
    std::vector<std::string> ours, theirs;
};

inline Rails rails() {
    Rails r;
    const char* text = std::getenv("TENT_TEST_RDMA");
    std::string all = text == nullptr ? "" : text;
    while (!all.empty()) {
        std::string pair = all.substr(0, all.find(','));
        all = pair.size() < all.size() ? all.substr(pair.size() + 1) : "";
        r.ours.push_back(pair.substr(0, pair.find('-')));
        r.theirs.push_back(pair.substr(pair.find('-') + 1));
    }
    return r;
}

inline void fill(uint8_t* at, uint64_t bytes, uint64_t seed) {
    uint64_t x = seed * 0x9e3779b97f4a7c15ull + 1;
    for (uint64_t i = 0; i < bytes; ++i) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        at[i] = static_cast<uint8_t>(x);
    }
}

inline std::unique_ptr<Engine> make_node(const std::string& name, std::vector<std::string> bind,
                                         bool rdma = true, int timeout = 14) {
    engine::Settings s;
    s.name = name;
    s.secret = "native tests";
    s.shm = false;
    s.bind = std::move(bind);
    s.lease = 20 * kSecond;
    s.rdma = rdma;
    s.verbs.timeout = timeout;
    auto e = Engine::create(s);
    REQUIRE_MESSAGE(e.ok(), e.status().text());
    return std::move(*e);
}

// An owner with a segment, an initiator with a buffer.
struct Pair {
    explicit Pair(uint64_t bytes, size_t count = 1, int timeout = 14, bool owner_has_rdma = true)
        : memory(bytes), bytes_(bytes) {
        Rails r = rails();
        r.ours.resize(std::min(count, r.ours.size()));
        r.theirs.resize(r.ours.size());
        owner = make_node("owner", r.theirs, owner_has_rdma, timeout);
        initiator = make_node("initiator", r.ours, true, timeout);
        auto s = owner->allocate(bytes, 0, "data", Rights::read_write);
        REQUIRE_MESSAGE(s.ok(), s.status().text());
        theirs = *s;
        auto l = initiator->add(memory.data(), bytes, "local", Rights::none, true);
        REQUIRE_MESSAGE(l.ok(), l.status().text());
        auto p = initiator->connect(owner->descriptor(), kPatience);
        REQUIRE_MESSAGE(p.ok(), p.status().text());
        peer = *p;
    }

    // TCP waits a moment for RDMA, and no longer: on a slow machine it may be first.
    void until_rdma() {
        for (Nanos end = monotonic_now() + kPatience; carried_by("rdma") == 0 && monotonic_now() < end;)
            REQUIRE(run(Op::read, {0}, {0}, {1}).ok());
        REQUIRE_MESSAGE(carried_by("rdma") > 0, links());
        tcp = carried_by("tcp");
        rdma = carried_by("rdma");
    }

    Result<std::shared_ptr<Transfer>> submit(Op op, std::vector<uint64_t> at, std::vector<uint64_t> offset,
                                             std::vector<uint64_t> length, uint32_t segment = 0) {
        for (uint64_t& a : at) a += reinterpret_cast<uint64_t>(memory.data());
        uint32_t id = segment != 0 ? segment : theirs->id;
        Intent in;
        in.op = op;
        in.peer = peer;
        in.local = at;
        in.segment = std::span<const uint32_t>(&id, 1);
        in.offset = offset;
        in.length = length;
        return initiator->submit(in, true);
    }

    Status run(Op op, std::vector<uint64_t> at, std::vector<uint64_t> offset, std::vector<uint64_t> length,
               uint32_t segment = 0) {
        auto t = submit(op, std::move(at), std::move(offset), std::move(length), segment);
        if (!t.ok()) return t.status();
        if (!initiator->wait(**t, kPatience)) return {Code::deadline, "hung"};
        CHECK(initiator->wait_released(**t, kPatience));
        return (*t)->result();
    }

    // Bytes that links of this transport have carried.
    uint64_t carried_by(const std::string& transport) {
        uint64_t sum = 0;
        for (const auto& row : initiator->links())
            sum += row.transport == transport ? row.view.bytes_used : 0;
        return sum;
    }

    // Not all of it: a machine that stands still for some milliseconds makes any link suspect, and TCP steps
    // in.
    bool mostly_rdma() { return carried_by("rdma") - rdma > carried_by("tcp") - tcp; }

    std::string links() {
        std::string out;
        for (const auto& row : initiator->links())
            out += row.name + " (" + row.transport + ", " + proto::kLinkStates[row.state] + ", " +
                   std::to_string(row.view.bytes_used) + " bytes) ";
        return out;
    }

    std::vector<uint8_t> memory;  // outlives the engines
    uint64_t bytes_;
    uint64_t tcp = 0, rdma = 0;  // what had been carried when it began
    std::unique_ptr<Engine> owner, initiator;
    std::shared_ptr<Segment> theirs;
    std::shared_ptr<Peer> peer;
};

}  // namespace tent::test
