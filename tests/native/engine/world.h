// Two engines in one process, over shared memory or TCP: enough to run the whole engine under a sanitizer.
#pragma once

#include <doctest/doctest.h>

#include <numeric>
#include <vector>

#include "engine/engine.h"

namespace tent::test {

using engine::Engine;
using engine::Intent;
using engine::Peer;
using engine::Segment;
using engine::Transfer;

using Decorator = std::shared_ptr<transport::Decorator>;

inline std::unique_ptr<Engine> make_engine(const std::string& name, bool shm,
                                           std::vector<std::string> bind = {}, Decorator decorator = {}) {
    engine::Settings s;
    s.name = name;
    s.secret = "native tests";
    s.shm = shm;
    s.bind = bind.empty() ? std::vector<std::string>{"127.0.0.1"} : std::move(bind);
    s.lease = 10 * kSecond;  // outlives a starved machine
    s.decorator = std::move(decorator);
    auto e = Engine::create(s);
    REQUIRE_MESSAGE(e.ok(), e.status().text());
    return std::move(*e);
}

inline void fill(uint8_t* at, uint64_t bytes, uint64_t seed) {
    uint64_t x = seed * 0x9e3779b97f4a7c15ull + 1;
    for (uint64_t i = 0; i < bytes; ++i) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        at[i] = static_cast<uint8_t>(x);
    }
}

// An owner with one exposed segment and an initiator with one private buffer.
struct World {
    World(bool shm, bool region, uint64_t bytes, std::vector<std::string> bind = {}, Decorator decorator = {})
        : memory(bytes),
          other(bytes),
          owner(make_engine("owner", shm, bind)),
          initiator(make_engine("initiator", shm, bind, std::move(decorator))) {
        auto s = region ? owner->add(other.data(), bytes, "data", Rights::read_write, true)
                        : owner->allocate(bytes, 0, "data", Rights::read_write);
        REQUIRE_MESSAGE(s.ok(), s.status().text());
        theirs = *s;
        auto l = initiator->add(memory.data(), bytes, "local", Rights::none, true);
        REQUIRE_MESSAGE(l.ok(), l.status().text());
        ours = *l;
        auto p = initiator->connect(owner->descriptor(), 5 * kSecond);
        REQUIRE_MESSAGE(p.ok(), p.status().text());
        peer = *p;
    }

    Result<std::shared_ptr<Transfer>> submit(Op op, std::vector<uint64_t> at, std::vector<uint64_t> offset,
                                             std::vector<uint64_t> length) {
        for (uint64_t& a : at) a += reinterpret_cast<uint64_t>(memory.data());
        uint32_t id = theirs->id;
        Intent in;
        in.op = op;
        in.peer = peer;
        in.local = at;
        in.segment = std::span<const uint32_t>(&id, 1);
        in.offset = offset;
        in.length = length;
        return initiator->submit(in, true);
    }

    Status run(Op op, std::vector<uint64_t> at, std::vector<uint64_t> offset, std::vector<uint64_t> length) {
        auto t = submit(op, std::move(at), std::move(offset), std::move(length));
        if (!t.ok()) return t.status();
        if (!initiator->wait(**t, 20 * kSecond)) return {Code::deadline, "hung"};
        return (*t)->result();
    }

    // The owner's memory, to be filled: its loop is done with what it sent of it. The answer's arrival says
    // so, but ThreadSanitizer sees no order in a socket.
    uint8_t* their_memory() {
        owner->links();  // takes its lock
        return theirs->base;
    }

    std::vector<uint8_t> memory, other;  // outlive the engines that they are registered with
    std::unique_ptr<Engine> owner, initiator;
    std::shared_ptr<Segment> theirs, ours;
    std::shared_ptr<Peer> peer;
};

// For a failure's message.
inline std::string states(World& w) {
    std::string out;
    for (const auto& row : w.initiator->links())
        out += "; " + row.name + " " + proto::kLinkStates[row.state] + ": " + std::to_string(row.view.used) +
               " slices, " + std::to_string(row.view.rate_Bps) + " B/s";
    return out;
}

}  // namespace tent::test
