#include <doctest/doctest.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>

#include "base/digest.h"
#include "base/digest_kernels.h"

using namespace tent;

namespace {

const Bytes& input() {
    static const Bytes bytes = [] {
        Bytes b(33 * kLeafBytes);
        for (size_t i = 0; i < b.size(); ++i) b[i] = static_cast<uint8_t>((i * 2654435761u) >> 13);
        return b;
    }();
    return bytes;
}

// The lines of vectors.txt (make_vectors.py) of one kind.
std::vector<std::vector<std::string>> vectors(const std::string& kind) {
    std::ifstream in(std::string(TENT_TEST_DATA) + "/vectors.txt");
    REQUIRE(in.good());
    std::vector<std::vector<std::string>> out;
    for (std::string line; std::getline(in, line);) {
        std::istringstream words(line);
        std::vector<std::string> row;
        for (std::string w; words >> w;) row.push_back(w);
        if (row.at(0) == kind) out.push_back(row);
    }
    return out;
}

// In exactly as much heap, at an odd address, so that a sanitizer sees any read past the end.
struct Misaligned {
    Misaligned(const uint8_t* data, size_t size) : all(new uint8_t[size + 1]) {
        if (size > 0) std::memcpy(all + 1, data, size);
    }
    ~Misaligned() { delete[] all; }
    Misaligned(const Misaligned&) = delete;
    Misaligned& operator=(const Misaligned&) = delete;
    const uint8_t* data() const { return all + 1; }
    uint8_t* all;
};

Id128 digest(uint8_t v) {
    Id128 d;
    d.fill(v);
    return d;
}

}  // namespace

TEST_CASE("xxh3_64 equals the reference at every length, seed and instruction set") {
    auto rows = vectors("xxh3");
    REQUIRE(rows.size() > 600);
    for (const auto& row : rows) {
        size_t n = std::stoul(row.at(1));
        uint64_t seed = std::stoull(row.at(2), nullptr, 16), expected = std::stoull(row.at(3), nullptr, 16);
        CAPTURE(n);
        CAPTURE(seed);
        Misaligned odd(input().data(), n);
        REQUIRE(xxh3_64(odd.data(), n, seed) == expected);
        for (const xxh3::Kernel& kernel : xxh3::kernels()) {
            CAPTURE(kernel.name);
            REQUIRE(xxh3::hash(kernel, input().data(), n, seed) == expected);
        }
        Xxh3Stream stream(seed);
        stream.update(odd.data(), n);
        REQUIRE(stream.finish() == expected);
    }
    CHECK(std::string(xxh3::kernels().back().name) == "scalar");
}

TEST_CASE("a stream gives the same however it is cut") {
    uint64_t state = 7;
    auto random = [&state](size_t below) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        return (state >> 33) % below;
    };
    for (size_t n : {0, 1, 240, 241, 1023, 1024, 1025, 1087, 2048, 2049, 5000, 65536}) {
        CAPTURE(n);
        uint64_t expected = xxh3_64(input().data(), n, 42);
        for (size_t most : {size_t{1}, size_t{63}, size_t{100}, size_t{1024}, size_t{3000}}) {
            Xxh3Stream stream(42);
            for (size_t at = 0; at < n;) {
                size_t take = std::min(n - at, random(most) + 1);
                stream.update(input().data() + at, take);
                at += take;
            }
            stream.update(nullptr, 0);
            REQUIRE(stream.finish() == expected);
            REQUIRE(stream.finish() == expected);
        }
    }
}

TEST_CASE("blake2b_128 equals hashlib's, whole and in two parts") {
    auto rows = vectors("blake2b");
    REQUIRE(rows.size() == 14);
    for (const auto& row : rows) {
        size_t n = std::stoul(row.at(1));
        CAPTURE(n);
        ByteView all = ByteView(input()).first(n);
        Id128 got = blake2b_128(all);
        std::string hex;
        for (uint8_t v : got) {
            hex += "0123456789abcdef"[v >> 4];
            hex += "0123456789abcdef"[v & 15];
        }
        REQUIRE(hex == row.at(2));
        for (size_t cut : {size_t{0}, n / 3, n})
            REQUIRE(blake2b_128(all.first(cut), all.subspan(cut)) == got);
    }
}

TEST_CASE("the page check is what its description says") {
    for (size_t n : {size_t{0}, size_t{1}, kLeafBytes - 1, kLeafBytes, kLeafBytes + 1, 3 * kLeafBytes + 100,
                     31 * kLeafBytes, 32 * kLeafBytes, 33 * kLeafBytes}) {
        CAPTURE(n);
        Id128 d = digest(9);
        std::vector<uint64_t> leaves;
        for (size_t at = 0; at < n; at += kLeafBytes) {
            Bytes named(d.begin(), d.end());
            Writer(named).u64(at / kLeafBytes);
            uint64_t seed = xxh3_64(named.data(), named.size(), 0);
            leaves.push_back(xxh3_64(input().data() + at, std::min(kLeafBytes, n - at), seed));
            REQUIRE(leaves.back() ==
                    leaf_check(d, at / kLeafBytes, input().data() + at, std::min(kLeafBytes, n - at)));
        }
        Bytes all;
        Writer w(all);
        for (uint64_t leaf : leaves) w.u64(leaf);
        w.u64(n);
        uint64_t expected = xxh3_64(all.data(), all.size(), xxh3_64(d.data(), d.size(), 0));
        REQUIRE(page_check(d, input().data(), n) == expected);
        REQUIRE(combine_leaves(d, leaves.data(), leaves.size(), n) == expected);
    }
}

TEST_CASE("a page in parts has the check of the whole") {
    size_t n = 5 * kLeafBytes + 777;
    uint64_t expected = page_check(digest(1), input().data(), n);
    for (size_t part :
         {size_t{1000}, size_t{4096}, size_t{40000}, kLeafBytes, kLeafBytes + 1, 3 * kLeafBytes}) {
        PageCheck check(digest(1));
        for (size_t at = 0; at < n; at += part) check.update(input().data() + at, std::min(part, n - at));
        CHECK(check.finish() == expected);
    }
}

TEST_CASE("the page check sees every kind of mix-up") {
    Bytes page(input().begin(), input().begin() + 4 * kLeafBytes);
    uint64_t good = page_check(digest(1), page.data(), page.size());
    CHECK(page_check(digest(2), page.data(), page.size()) != good);      // another page's identity
    CHECK(page_check(digest(1), page.data(), page.size() - 1) != good);  // cut
    for (size_t at : {size_t{0}, kLeafBytes - 1, 2 * kLeafBytes + 5, page.size() - 1}) {  // one bit
        Bytes bad = page;
        bad[at] ^= 0x10;
        CHECK(page_check(digest(1), bad.data(), bad.size()) != good);
    }
    Bytes swapped = page;  // leaves in the wrong place
    std::swap_ranges(swapped.begin(), swapped.begin() + kLeafBytes, swapped.begin() + kLeafBytes);
    CHECK(page_check(digest(1), swapped.data(), swapped.size()) != good);
    Bytes torn = page;  // half old, half new
    std::fill(torn.begin() + 2 * kLeafBytes, torn.end(), uint8_t{0});
    CHECK(page_check(digest(1), torn.data(), torn.size()) != good);
    // Equal leaves have different checks in different places, and in different pages.
    Bytes zeros(kLeafBytes, 0);
    CHECK(leaf_check(digest(1), 0, zeros.data(), zeros.size()) !=
          leaf_check(digest(1), 1, zeros.data(), zeros.size()));
    CHECK(leaf_check(digest(1), 0, zeros.data(), zeros.size()) !=
          leaf_check(digest(2), 0, zeros.data(), zeros.size()));
}
