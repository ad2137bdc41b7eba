// Real faults of real rails: commands of the guest (ip, tc) break them while bytes flow. Only as root of a
// machine that is there for that: TENT_TEST_RDMA_BREAK names the command that mends rail I again.
#include <cstring>
#include <iostream>
#include <random>

#include "nodes.h"

using namespace tent;
using namespace tent::test;

namespace {

bool may_break() {
    return std::getenv("TENT_TEST_RDMA_BREAK") != nullptr && rails().ours.size() >= 2;
}

void sh(const std::string& command) {
    REQUIRE_MESSAGE(std::system(command.c_str()) == 0, command);
}

void mend(int rail) {
    sh("bash " + std::string(std::getenv("TENT_TEST_RDMA_BREAK")) + " " + std::to_string(rail));
}

// Reads and writes until the rail has broken and, later, come back: every transfer is done, every byte right.
struct Traffic {
    explicit Traffic(Pair& pair) : p(pair) { fill(p.theirs->base, p.bytes_, 77); }
    void one(Op op) {
        if (op == Op::write) fill(p.memory.data(), p.bytes_, ++seed);
        if (op == Op::read) std::memset(p.memory.data(), 0, p.bytes_);
        Status s = p.run(op, {0}, {0}, {p.bytes_});
        REQUIRE_MESSAGE(s.ok(), s.text() << " " << p.links());
        REQUIRE(std::memcmp(p.memory.data(), p.theirs->base, p.bytes_) == 0);
        ++transfers;
    }
    Pair& p;
    uint64_t seed = 0;
    int transfers = 0;
};

}  // namespace

TEST_CASE("no transfer fails while a rail is left, whatever breaks the other one") {
    if (!may_break()) return;
    const std::string faults[] = {
        "ip link set a0 down",
        "ip link set b0 down",
        "tc qdisc add dev a0 root netem loss 100%",
        "tc qdisc add dev b0 root netem loss 100%",
        "ip addr del 10.77.0.1/24 dev a0",
        "ip addr del 10.77.0.2/24 dev b0",
    };
    Pair p(2 << 20, 2);
    Traffic traffic(p);
    for (const std::string& fault : faults) {
        CAPTURE(fault);
        for (int i = 0; i < 4; ++i) traffic.one(i % 2 == 0 ? Op::read : Op::write);
        std::thread breaker([&] { sh(fault); });
        for (int i = 0; i < 12; ++i) traffic.one(i % 2 == 0 ? Op::read : Op::write);
        breaker.join();
        for (int i = 0; i < 4; ++i) traffic.one(i % 2 == 0 ? Op::read : Op::write);
        mend(0);
    }
    std::cerr << traffic.transfers << " transfers over " << std::size(faults) << " faults; " << p.links()
              << "\n";
    CHECK(p.carried_by("rdma") > 0);
}

TEST_CASE("a silent rail is left long before its adapter gives up") {
    if (!may_break()) return;
    // 2^20 * 4.096 us, three times again: the adapter itself would take 16 s.
    Pair p(2 << 20, 2, 20);
    Traffic traffic(p);
    for (int i = 0; i < 4; ++i) traffic.one(Op::write);
    sh("tc qdisc add dev a0 root netem loss 100%");
    Nanos began = monotonic_now();
    traffic.one(Op::write);
    traffic.one(Op::read);
    Nanos took = monotonic_now() - began;
    mend(0);
    std::cerr << "two transfers over a silent rail: " << took / kMillisecond << " ms\n";
    CHECK(took < 10 * kSecond);
}

TEST_CASE(
    "RDMA and TCP rails carry one transfer together; without RDMA TCP carries on, and RDMA comes back") {
    if (!may_break()) return;
    sh("rdma link delete ra1 && rdma link delete rb1");  // that rail has TCP alone
    {
        Pair p(8 << 20, 2);
        Traffic traffic(p);
        auto until = [&](auto reached) {
            for (Nanos end = monotonic_now() + kPatience; !reached() && monotonic_now() < end;)
                traffic.one(traffic.transfers % 2 == 0 ? Op::read : Op::write);
            return reached();
        };
        CHECK_MESSAGE(until([&] { return p.carried_by("rdma") > 0 && p.carried_by("tcp") > 0; }), p.links());
        sh("tc qdisc add dev a0 root netem loss 100%");
        for (int i = 0; i < 4; ++i) traffic.one(i % 2 == 0 ? Op::read : Op::write);
        mend(0);
        uint64_t before = p.carried_by("rdma");
        CHECK_MESSAGE(until([&] { return p.carried_by("rdma") > before; }), p.links());
    }
    mend(1);
}
