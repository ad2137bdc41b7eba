// More peers than connections: what has been idle longest is closed, whoever began it, and made again on use.
#include <cstdlib>
#include <cstring>
#include <thread>

#include "world.h"

namespace tent::test {
namespace {

constexpr uint64_t kBytes = 32 << 10;

// An engine with memory that peers may read, and memory to read into.
struct Node {
    Node(const std::string& name, int max_connections) : memory(2 * kBytes) {
        engine::Settings s;
        s.name = name;
        s.secret = "native tests";
        s.shm = false;
        s.bind = {"127.0.0.1"};
        s.recorder_bytes = 0;
        s.max_connections = max_connections;
        s.lease = 10 * kSecond;
        s.copy_threads = 1;
        auto made = Engine::create(s);
        REQUIRE_MESSAGE(made.ok(), made.status().text());
        engine = std::move(*made);
        auto segment = engine->add(memory.data(), memory.size(), "data", Rights::read_write, true);
        REQUIRE_MESSAGE(segment.ok(), segment.status().text());
        id = (*segment)->id;
    }

    std::shared_ptr<Peer> connect(Node& to) {
        auto p = engine->connect(to.engine->descriptor(), 20 * kSecond);
        REQUIRE_MESSAGE(p.ok(), p.status().text());
        return *p;
    }

    // Reads the first half of the peer's memory into the second half of ours, or writes from there.
    std::shared_ptr<Transfer> start(Op op, const std::shared_ptr<Peer>& peer, uint32_t segment) {
        uint64_t at = reinterpret_cast<uint64_t>(memory.data()) + kBytes, offset = 0, length = kBytes;
        Intent in;
        in.op = op;
        in.peer = peer;
        in.local = std::span(&at, 1);
        in.segment = std::span(&segment, 1);
        in.offset = std::span(&offset, 1);
        in.length = std::span(&length, 1);
        auto t = engine->submit(in, true);
        REQUIRE_MESSAGE(t.ok(), t.status().text());
        return *t;
    }

    void move(Op op, const std::shared_ptr<Peer>& peer, Node& owner) {
        auto t = start(op, peer, owner.id);
        REQUIRE(engine->wait(*t, 20 * kSecond));
        REQUIRE_MESSAGE(t->result().ok(), t->result().text());
        REQUIRE(engine->wait_released(*t, 20 * kSecond));
        CHECK(std::memcmp(memory.data() + kBytes, owner.memory.data(), kBytes) == 0);
    }

    std::vector<uint8_t> memory;
    std::unique_ptr<Engine> engine;
    uint32_t id = 0;
};

uint64_t counter(Engine& e, const std::string& name) {
    for (const auto& [n, value] : e.stats().counters) {
        if (n == name) return value;
    }
    return 0;
}

int peers() {
    const char* many = std::getenv("TENT_TEST_PEERS");
    return many != nullptr ? std::atoi(many) : 24;
}

}  // namespace

TEST_CASE("many peers within few connections, each used in turn, both ways") {
    constexpr int kMost = 16;
    Node hub("hub", kMost);
    fill(hub.memory.data(), kBytes, 1);
    std::vector<std::unique_ptr<Node>> spokes;
    std::vector<std::shared_ptr<Peer>> to_hub, from_hub;
    for (int i = 0; i < peers(); ++i) {
        spokes.push_back(std::make_unique<Node>("spoke-" + std::to_string(i), 1000));
        fill(spokes.back()->memory.data(), kBytes, 100 + static_cast<uint64_t>(i));
        to_hub.push_back(spokes.back()->connect(hub));
        from_hub.push_back(hub.connect(*spokes.back()));
    }
    for (int round = 0; round < 2; ++round) {
        for (size_t i = 0; i < spokes.size(); ++i) {
            CAPTURE(round);
            CAPTURE(i);
            CHECK(hub.engine->state_of(*from_hub[i]) == engine::PeerState::alive);
            hub.move(Op::read, from_hub[i], *spokes[i]);
            spokes[i]->move(Op::read, to_hub[i], hub);
        }
    }
    CHECK(hub.engine->counters().failed == 0);
    Nanos end = monotonic_now() + 20 * kSecond;
    while (counter(*hub.engine, "connections") >= kMost && monotonic_now() < end) std::this_thread::yield();
    CHECK(counter(*hub.engine, "connections") < kMost);
    CHECK(counter(*hub.engine, "sessions_parked") > 0);
}

TEST_CASE("calls and notifications reach a peer whose session was closed for want of room") {
    Node hub("hub", 6);
    std::vector<std::unique_ptr<Node>> spokes;
    std::vector<std::shared_ptr<Peer>> peers;
    for (int i = 0; i < 6; ++i) {
        spokes.push_back(std::make_unique<Node>("spoke-" + std::to_string(i), 1000));
        peers.push_back(hub.connect(*spokes.back()));
    }
    for (int round = 0; round < 2; ++round) {
        // What was used just now is not closed: it takes a moment until there is somebody to close.
        uint64_t before = counter(*hub.engine, "sessions_parked");
        Nanos end = monotonic_now() + 20 * kSecond;
        while (counter(*hub.engine, "connections") >= 6 && monotonic_now() < end) std::this_thread::yield();
        CHECK(counter(*hub.engine, "connections") < 6);
        CHECK(counter(*hub.engine, "sessions_parked") > before);
        for (auto& p : peers) CHECK(hub.engine->stats_of(*p, 20 * kSecond).ok());
    }
}

TEST_CASE("whatever waits keeps its connections, however few there may be") {
    Node hub("hub", 5);
    std::vector<std::unique_ptr<Node>> spokes;
    std::vector<std::shared_ptr<Peer>> peers;
    for (int i = 0; i < 8; ++i) {
        spokes.push_back(std::make_unique<Node>("spoke-" + std::to_string(i), 1000));
        fill(spokes.back()->memory.data(), kBytes, 7);
        peers.push_back(spokes.back()->connect(hub));
    }
    fill(hub.memory.data(), kBytes, 3);
    std::vector<std::thread> all;
    for (size_t i = 0; i < spokes.size(); ++i) {
        all.emplace_back([&, i] {
            for (int n = 0; n < 10; ++n) spokes[i]->move(Op::read, peers[i], hub);
        });
    }
    for (auto& t : all) t.join();
    for (auto& s : spokes) CHECK(s->engine->counters().failed == 0);
}

TEST_CASE("peers that come and go take the places of those that left") {
    Node owner("owner", 0), user("user", 0);
    constexpr uint32_t kTimes = 60;
    uint32_t peers = 0, links = 0;
    for (uint32_t n = 0; n < kTimes; ++n) {
        auto peer = user.connect(owner);
        user.move(Op::read, peer, owner);
        peers = std::max(peers, peer->index() + 1);
        {
            auto hold = user.engine->hold_loop();
            for (const auto& l : peer->links()) links = l.id == kNoId ? links : std::max(links, l.id + 1);
        }
        user.engine->disconnect(peer);
    }
    CHECK(links > 0);
    // A place is free once the loop has come round to see that nothing of it is under way.
    CHECK(peers <= kTimes / 2);
    CHECK(links <= kTimes);  // of two for each peer, to be used again
}

}  // namespace tent::test
