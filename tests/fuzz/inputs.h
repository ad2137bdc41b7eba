// What both kinds of fuzzing have in common: options, a corpus of inputs in files, and ways to make an input
// of others.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace tent::fuzz {

using Input = std::vector<uint8_t>;

struct Random {
    uint64_t state;
    uint64_t next() {
        state ^= state << 13;
        state ^= state >> 7;
        return state ^= state << 17;
    }
    size_t below(size_t n) { return n == 0 ? 0 : static_cast<size_t>(next() % n); }
};

inline Input from_hex(const std::string& text) {
    Input out;
    for (size_t i = 0; i + 1 < text.size(); i += 2)
        out.push_back(static_cast<uint8_t>(std::stoi(text.substr(i, 2), nullptr, 16)));
    return out;
}

inline void print_hex(FILE* to, const uint8_t* bytes, size_t size) {
    for (size_t i = 0; i < size; ++i) std::fprintf(to, "%02x", bytes[i]);
    std::fprintf(to, "\n");
}

// A .txt file holds one input a line, any other one input, a folder such files.
inline void load(const std::filesystem::path& path, std::vector<Input>& corpus) {
    if (std::filesystem::is_directory(path)) {
        std::vector<std::filesystem::path> files;
        for (const auto& entry : std::filesystem::directory_iterator(path)) files.push_back(entry.path());
        std::sort(files.begin(), files.end());
        for (const auto& file : files) load(file, corpus);
        return;
    }
    std::ifstream in(path);
    if (!in) {
        std::fprintf(stderr, "cannot read %s\n", path.c_str());
        std::exit(2);
    }
    std::string all;
    for (std::string line; std::getline(in, line);) {
        if (path.extension() == ".txt")
            corpus.push_back(from_hex(line));
        else
            all += line;
    }
    if (path.extension() != ".txt") corpus.push_back(from_hex(all));
}

struct Options {
    double seconds = 3;
    uint64_t seed = 0;
    std::string keep;
    std::vector<Input> corpus;
};

// [--seconds N] [--seed S] [--keep FILE] [FILE]...
inline Options parse(int argc, char** argv) {
    Options o;
    o.seed = static_cast<uint64_t>(std::chrono::system_clock::now().time_since_epoch().count());
    for (int i = 1; i < argc; ++i) {
        std::string arg = argv[i];
        bool more = i + 1 < argc;
        if (arg == "--seconds" && more)
            o.seconds = std::stod(argv[++i]);
        else if (arg == "--seed" && more)
            o.seed = std::stoull(argv[++i]);
        else if (arg == "--keep" && more)
            o.keep = argv[++i];
        else
            load(arg, o.corpus);
    }
    std::printf("seed %llu, %zu inputs to start from\n", static_cast<unsigned long long>(o.seed),
                o.corpus.size());
    std::fflush(stdout);
    return o;
}

// Up to `some` bytes from `at` on: left out, or put in once more elsewhere.
inline void leave_out(Input& in, size_t at, size_t some) {
    auto from = in.begin() + static_cast<std::ptrdiff_t>(at);
    in.erase(from, from + static_cast<std::ptrdiff_t>(std::min(some, in.size() - at)));
}
inline void repeat(Input& in, size_t at, size_t some, Random& random) {
    auto from = in.begin() + static_cast<std::ptrdiff_t>(at);
    Input part(from, from + static_cast<std::ptrdiff_t>(std::min(some, in.size() - at)));
    in.insert(in.begin() + static_cast<std::ptrdiff_t>(random.below(in.size() + 1)), part.begin(),
              part.end());
}
inline void put_in_noise(Input& in, size_t at, size_t some, Random& random) {
    Input noise(some);
    for (uint8_t& b : noise) b = static_cast<uint8_t>(random.next());
    in.insert(in.begin() + static_cast<std::ptrdiff_t>(at), noise.begin(), noise.end());
}
// From `at` on it goes on as another one does.
inline void join(Input& in, size_t at, const std::vector<Input>& corpus, Random& random) {
    const Input& other = corpus[random.below(corpus.size())];
    size_t cut = random.below(other.size() + 1);
    in.resize(at);
    in.insert(in.end(), other.begin() + static_cast<std::ptrdiff_t>(cut), other.end());
}

}  // namespace tent::fuzz
