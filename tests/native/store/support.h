// What the store's tests share: memory with a Store on it, pages whose bytes follow from their number.
#pragma once

#include <doctest/doctest.h>
#include <sys/mman.h>

#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "base/digest.h"
#include "store/store.h"

namespace tent::test {

using namespace tent::store;

inline Bytes golden(const std::string& name) {
    std::ifstream in(std::string(TENT_TEST_DATA) + "/golden/" + name + ".hex");
    REQUIRE_MESSAGE(in.good(), "no golden file of " << name);
    Bytes out;
    std::string line;
    while (std::getline(in, line)) {
        for (size_t i = 0; i + 1 < line.size(); i += 2) {
            out.push_back(static_cast<uint8_t>(std::stoi(line.substr(i, 2), nullptr, 16)));
        }
    }
    return out;
}

inline Id128 id_of(uint64_t n) {
    return blake2b_128(as_bytes("page " + std::to_string(n)));
}

// The bytes of page `n` in `flavour`: every 8 of them differ from those of any other page or place.
inline Bytes page(uint64_t n, size_t size, uint64_t flavour = 0) {
    Bytes out(size);
    uint64_t x = (n + 1) * 0x9E3779B97F4A7C15 ^ flavour * 0xC2B2AE3D27D4EB4F;
    for (size_t i = 0; i < size; i += 8) {
        x += 0x9E3779B97F4A7C15;
        uint64_t y = (x ^ (x >> 29)) * 0xBF58476D1CE4E5B9;
        std::memcpy(out.data() + i, &y, std::min<size_t>(8, size - i));
    }
    return out;
}

struct Pool {
    explicit Pool(uint64_t extent, size_t extents, uint64_t loan_limit = 64 << 20) : bytes(extent * extents) {
        base = static_cast<uint8_t*>(
            mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        epochs = std::make_unique<std::atomic<uint32_t>[]>(extents);
        for (size_t i = 0; i < extents; ++i) epochs[i] = 1;
        config.base = base;
        config.bytes = bytes;
        config.extent_bytes = extent;
        config.epochs = epochs.get();
        config.segment = 3;
        config.node = "node-a";
        config.incarnation = id_of(1'000'000);
        config.seed = id_of(2'000'000);
        config.loan_limit = loan_limit;
        auto made = Store::create(config);
        REQUIRE_MESSAGE(made.ok(), made.status().message());
        store = *made;
    }
    ~Pool() { munmap(base, bytes); }
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    // One page out of one buffer.
    PageStatus put(uint64_t n, const Bytes& bytes_of, const uint64_t* token = nullptr,
                   uint64_t generation = 0) {
        Id128 digest = id_of(n);
        uint64_t address = reinterpret_cast<uint64_t>(bytes_of.data()), length = bytes_of.size();
        uint64_t token_address = reinterpret_cast<uint64_t>(token);
        PageBatch b{1,      1, digest.data(), &address, &length, token == nullptr ? nullptr : &token_address,
                    nullptr};
        PageStatus s{};
        store->put(space, generation, b, {&s, 1});
        return s;
    }
    PageStatus get(uint64_t n, Bytes& into, bool check = true) {
        Id128 digest = id_of(n);
        uint64_t address = reinterpret_cast<uint64_t>(into.data()), length = into.size();
        PageBatch b{1, 1, digest.data(), &address, &length, nullptr, nullptr};
        PageStatus s{};
        store->get(b, check, {&s, 1});
        return s;
    }
    PageStatus find(uint64_t n) {
        Id128 digest = id_of(n);
        PageStatus s{};
        store->find({&digest, 1}, {&s, 1}, {});
        return s;
    }
    Record record(uint64_t n) {
        Id128 digest = id_of(n);
        std::vector<Published> out;
        store->records({&digest, 1}, out);
        kept = out.at(0).record;
        Record r;
        REQUIRE(decode_record(kept, r) == PageStatus::HIT);
        return r;
    }
    // Reclaims one extent as a caller with a directory would. False: none could be.
    bool reclaim(uint64_t move_bytes = 0, Nanos now = 0) {
        Reclaim r = store->begin_reclaim(now, move_bytes);
        if (r.extent == kNoId) return false;
        store->finish_reclaim(r.extent);
        return true;
    }

    uint64_t bytes;
    uint8_t* base;
    std::unique_ptr<std::atomic<uint32_t>[]> epochs;
    StoreConfig config;
    std::shared_ptr<Store> store;
    Id128 space = id_of(3'000'000);
    Bytes kept;
};

}  // namespace tent::test
