// What needs no device, and bytes that arrive where they were asked for.
#include <cstring>
#include <iostream>

#include "nodes.h"
#include "transport/rdma/channel.h"

using namespace tent;
using namespace tent::test;
using namespace tent::transport::rdma;

namespace {

// In a guest, or beside real ports: skipped, and said so, where there is none.
bool no_rails() {
    if (!rails().ours.empty()) return false;
    static const bool told = [] {
        std::cerr << "TENT_TEST_RDMA names no rails: what needs a device is left out\n";
        return true;
    }();
    return told;
}

}  // namespace

TEST_CASE("addresses are written as GIDs") {
    Id128 gid{};
    REQUIRE(gid_of("10.77.0.1", gid));
    CHECK(gid == Id128{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 77, 0, 1});
    REQUIRE(gid_of("fe80::77:ff:fe00:1%eth0", gid));
    CHECK(gid[0] == 0xfe);
    CHECK(gid[15] == 1);
    CHECK_FALSE(gid_of("eth0", gid));
    CHECK_FALSE(gid_of("", gid));
}

TEST_CASE("a request's error is of the link, of the peer's memory, or our own") {
    CHECK(classify(abi::kRetryExceeded) == transport::rdma::Fault::link);
    CHECK(classify(abi::kLocalQpOperation) == transport::rdma::Fault::link);
    CHECK(classify(abi::kFlushed) == transport::rdma::Fault::link);
    CHECK(classify(999) == transport::rdma::Fault::link);
    CHECK(classify(abi::kRemoteAccess) == transport::rdma::Fault::access);
    CHECK(classify(abi::kRemoteInvalidRequest) == transport::rdma::Fault::access);
    CHECK(classify(abi::kLocalProtection) == transport::rdma::Fault::local);
    CHECK(std::string(status_name(abi::kRetryExceeded)) == "RETRY_EXC_ERR");
    CHECK(std::string(status_name(-1)) == "an error of the device");
}

TEST_CASE("a rail without a port is none for RDMA, and its node serves on") {
    auto node = make_node("plain", {"127.0.0.1"});
    CHECK(node->fabric() == nullptr);
    for (const auto& stated : node->capabilities()) CHECK(std::string(stated.name) != "rdma");
}

TEST_CASE("bytes of all sizes go both ways, by RDMA") {
    if (no_rails()) return;
    constexpr uint64_t kMost = 9 << 20;
    Pair p(kMost);
    p.until_rdma();
    for (uint64_t n : {uint64_t{1}, uint64_t{7}, uint64_t{4096}, uint64_t{65537}, kMost}) {
        CAPTURE(n);
        fill(p.theirs->base, n, n);
        std::memset(p.memory.data(), 0, kMost);
        Status s = p.run(Op::read, {0}, {0}, {n});
        REQUIRE_MESSAGE(s.ok(), s.text());
        CHECK(std::memcmp(p.memory.data(), p.theirs->base, n) == 0);
        fill(p.memory.data(), n, n + 1);
        s = p.run(Op::write, {0}, {0}, {n});
        REQUIRE_MESSAGE(s.ok(), s.text());
        CHECK(std::memcmp(p.memory.data(), p.theirs->base, n) == 0);
    }
    CHECK_MESSAGE(p.mostly_rdma(), p.links());
}

TEST_CASE("scattered pieces leave their neighbours alone") {
    if (no_rails()) return;
    constexpr uint64_t kBytes = 2 << 20;
    Pair p(kBytes);
    p.until_rdma();
    std::vector<uint64_t> at, offset, length;
    for (uint64_t i = 0, ours = 3, others = 11; i < 400; ++i) {
        uint64_t n = 1 + (i * 7919) % 4000;
        at.push_back(ours);
        offset.push_back(others);
        length.push_back(n);
        ours += n + 1 + i % 37;
        others += n + 1 + i % 53;
    }
    for (Op op : {Op::read, Op::write}) {
        CAPTURE(static_cast<int>(op));
        fill(p.theirs->base, kBytes, 1);
        fill(p.memory.data(), kBytes, 2);
        std::vector<uint8_t> expected = p.memory, theirs(p.theirs->base, p.theirs->base + kBytes);
        for (size_t i = 0; i < at.size(); ++i) {
            if (op == Op::read) std::memcpy(expected.data() + at[i], theirs.data() + offset[i], length[i]);
            if (op == Op::write) std::memcpy(theirs.data() + offset[i], expected.data() + at[i], length[i]);
        }
        Status s = p.run(op, at, offset, length);
        REQUIRE_MESSAGE(s.ok(), s.text());
        CHECK(p.memory == expected);
        CHECK(std::memcmp(p.theirs->base, theirs.data(), kBytes) == 0);
    }
    CHECK_MESSAGE(p.mostly_rdma(), p.links());
}

TEST_CASE("what is out of bounds, not exposed or gone is refused by name, and the link is not blamed") {
    if (no_rails()) return;
    Pair p(1 << 20);
    p.until_rdma();
    REQUIRE(p.run(Op::read, {0}, {0}, {4096}).ok());
    CHECK(p.run(Op::read, {0}, {(1 << 20) - 5}, {10}).code() == Code::out_of_range);
    auto read_only = p.owner->allocate(4096, 0, "read only", Rights::read);
    REQUIRE(read_only.ok());
    p.initiator->segments_of(*p.peer, kPatience);
    CHECK(p.run(Op::read, {0}, {0}, {4096}, (*read_only)->id).ok());
    CHECK(p.run(Op::write, {0}, {0}, {4096}, (*read_only)->id).code() == Code::permission_denied);
    SegmentId gone = (*read_only)->id;
    REQUIRE(p.owner->unregister(gone, kPatience).ok());
    CHECK(p.run(Op::read, {0}, {0}, {4096}, gone).code() == Code::segment_gone);
    REQUIRE(p.run(Op::read, {0}, {0}, {4096}).ok());
    for (const auto& row : p.initiator->links()) CHECK_MESSAGE(row.view.failed == 0, p.links());
}

TEST_CASE("memory that its owner unregisters is out of reach of adapters when that returns") {
    if (no_rails()) return;
    Pair p(8 << 20);
    p.until_rdma();
    std::vector<uint8_t> theirs(8 << 20, 0x11);
    for (int round = 0; round < 5; ++round) {
        auto s = p.owner->add(theirs.data(), theirs.size(), "lent", Rights::read_write, true);
        REQUIRE(s.ok());
        p.initiator->segments_of(*p.peer, kPatience);
        std::memset(p.memory.data(), 0x40 + round, p.memory.size());
        auto t = p.submit(Op::write, {0}, {0}, {theirs.size()}, (*s)->id);
        REQUIRE(t.ok());
        Status ended = p.owner->unregister((*s)->id, kPatience);
        REQUIRE_MESSAGE(ended.ok(), ended.text());
        std::memset(theirs.data(), 0x99, theirs.size());
        REQUIRE(p.initiator->wait_released(**t, kPatience));
        CHECK(std::count(theirs.begin(), theirs.end(), 0x99) == static_cast<std::ptrdiff_t>(theirs.size()));
    }
    CHECK(p.run(Op::read, {0}, {0}, {4096}).ok());
}

TEST_CASE("a cancelled transfer lets go of its buffers, and the link carries on") {
    if (no_rails()) return;
    constexpr uint64_t kBytes = 32 << 20;
    Pair p(kBytes);
    p.until_rdma();
    fill(p.theirs->base, kBytes, 5);
    for (Op op : {Op::read, Op::write}) {
        auto t = p.submit(op, {0}, {0}, {kBytes});
        REQUIRE(t.ok());
        p.initiator->cancel(**t);
        REQUIRE(p.initiator->wait_released(**t, kPatience));
        std::vector<uint8_t> ours = p.memory, theirs(p.theirs->base, p.theirs->base + kBytes);
        REQUIRE(p.run(Op::read, {0}, {0}, {4096}).ok());  // over the same link: what was before it has landed
        std::memcpy(ours.data(), p.theirs->base, 4096);
        CHECK(p.memory == ours);
        CHECK(std::memcmp(p.theirs->base, theirs.data(), kBytes) == 0);
    }
}

TEST_CASE("an owner without RDMA is reached by TCP") {
    if (no_rails()) return;
    Pair p(1 << 20, 1, 14, false);
    REQUIRE(p.run(Op::read, {0}, {0}, {1 << 20}).ok());
    CHECK(p.carried_by("rdma") == 0);
    CHECK(p.carried_by("tcp") == 1 << 20);
}
