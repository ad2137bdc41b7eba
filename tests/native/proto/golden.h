// Reads golden/*.hex, which make_golden.py wrote from the protocol's description.
#pragma once

#include <doctest/doctest.h>

#include <fstream>
#include <string>

#include "base/bytes.h"

namespace tent::test {

inline Bytes golden(const std::string& name) {
    std::ifstream in(std::string(TENT_TEST_DATA) + "/golden/" + name + ".hex");
    REQUIRE_MESSAGE(in.good(), "no golden file of " << name);
    Bytes out;
    std::string line;
    while (std::getline(in, line))
        for (size_t i = 0; i + 1 < line.size(); i += 2)
            out.push_back(static_cast<uint8_t>(std::stoi(line.substr(i, 2), nullptr, 16)));
    return out;
}

// The bytes alone in exactly as much heap as they need, so that a sanitizer sees any read past the end.
struct Exact {
    explicit Exact(ByteView v) : size(v.size()), data(new uint8_t[v.size()]) {
        if (!v.empty()) std::memcpy(data, v.data(), v.size());
    }
    ~Exact() { delete[] data; }
    Exact(const Exact&) = delete;
    Exact& operator=(const Exact&) = delete;
    ByteView view() const { return {data, size}; }
    size_t size;
    uint8_t* data;
};

}  // namespace tent::test
