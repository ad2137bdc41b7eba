// Runs a fuzz target where libFuzzer is absent: random mutation over a corpus that grows by coverage (GCC's
// -fsanitize-coverage=trace-pc calls back into this file, which must itself be compiled without it).
//
//   fuzz_x [--seconds N] [--seed S] [--keep FILE] [FILE.hex | FILE.txt | FOLDER]...
//
// A .hex file is one input, a .txt file one input a line. --keep appends inputs that reached something new.
// The seed is printed: the same seed and corpus give the same inputs. A failing input is printed as hex; a
// .hex file with it alone reproduces the failure.
#include <sanitizer/common_interface_defs.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <bitset>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using Input = std::vector<uint8_t>;
constexpr size_t kLargest = 4096;
constexpr size_t kMap = 1 << 16;

std::bitset<kMap> g_seen;
size_t g_fresh = 0;
Input g_current;

struct Random {
    uint64_t state;
    uint64_t next() {
        state ^= state << 13;
        state ^= state >> 7;
        return state ^= state << 17;
    }
    size_t below(size_t n) { return n == 0 ? 0 : static_cast<size_t>(next() % n); }
};

void print_current() {
    std::fprintf(stderr, "\nfailing input: ");
    for (uint8_t v : g_current) std::fprintf(stderr, "%02x", v);
    std::fprintf(stderr, "\n");
}

void on_signal(int number) {
    print_current();
    _exit(128 + number);
}

Input from_hex(const std::string& text) {
    Input out;
    for (size_t i = 0; i + 1 < text.size(); i += 2)
        out.push_back(static_cast<uint8_t>(std::stoi(text.substr(i, 2), nullptr, 16)));
    return out;
}

void load(const std::filesystem::path& path, std::vector<Input>& corpus) {
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

void put_number(Input& in, Random& random) {
    static constexpr uint64_t kNumbers[] = {0,          1,          2,       0x7f,       0xff,
                                            0x100,      0xffff,     0x10000, 0x7fffffff, 0xffffffff,
                                            1ull << 26, 1ull << 63, ~0ull,   ~0ull - 1};
    uint64_t value = random.below(4) == 0 ? in.size() - random.below(64) : kNumbers[random.below(14)];
    size_t width = size_t{1} << random.below(4);
    if (in.size() < width) return;
    std::memcpy(in.data() + random.below(in.size() - width + 1), &value, width);
}

void mutate_once(Input& in, Random& random, const std::vector<Input>& corpus) {
    size_t at = random.below(in.size());
    auto from = in.begin() + static_cast<std::ptrdiff_t>(at);
    size_t some = 1 + random.below(random.below(4) == 0 ? 64 : 8);
    switch (random.below(8)) {
        case 0:
            if (!in.empty()) in[at] ^= static_cast<uint8_t>(1 << random.below(8));
            break;
        case 1:
            if (!in.empty()) in[at] = static_cast<uint8_t>(random.next());
            break;
        case 2:
            put_number(in, random);
            break;
        case 3:
            for (size_t i = 0; i < some; ++i)
                in.insert(in.begin() + static_cast<std::ptrdiff_t>(at), static_cast<uint8_t>(random.next()));
            break;
        case 4:
            in.erase(from, from + static_cast<std::ptrdiff_t>(std::min(some, in.size() - at)));
            break;
        case 5:  // cut
            if (random.below(3) == 0) in.resize(at);
            break;
        case 6: {  // repeat a part
            Input part(from, from + static_cast<std::ptrdiff_t>(std::min(some * 4, in.size() - at)));
            in.insert(in.begin() + static_cast<std::ptrdiff_t>(random.below(in.size() + 1)), part.begin(),
                      part.end());
            break;
        }
        default: {  // the rest of another one
            const Input& other = corpus[random.below(corpus.size())];
            size_t cut = random.below(other.size() + 1);
            in.resize(at);
            in.insert(in.end(), other.begin() + static_cast<std::ptrdiff_t>(cut), other.end());
        }
    }
    if (in.size() > kLargest) in.resize(kLargest);
}

// True if it reached code that no input before it did.
bool run(const Input& in) {
    g_current = in;
    g_fresh = 0;
    // An allocation of its exact size, so that reading past it is seen.
    auto* exact = new uint8_t[in.size()];
    std::copy(in.begin(), in.end(), exact);
    LLVMFuzzerTestOneInput(exact, in.size());
    delete[] exact;
    return g_fresh > 0;
}

struct Options {
    double seconds = 3;
    uint64_t seed = 0;
    std::string keep;
    std::vector<Input> corpus;
};

Options parse(int argc, char** argv) {
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
    if (o.corpus.empty()) o.corpus.emplace_back();
    return o;
}

}  // namespace

extern "C" void __sanitizer_cov_trace_pc() {
    auto pc = reinterpret_cast<uintptr_t>(__builtin_return_address(0));
    size_t slot = (pc ^ (pc >> 16)) % kMap;
    if (g_seen[slot]) return;
    g_seen[slot] = true;
    ++g_fresh;
}

int main(int argc, char** argv) {
    Options o = parse(argc, argv);
    std::printf("seed %llu, %zu inputs to start from\n", static_cast<unsigned long long>(o.seed),
                o.corpus.size());
    std::fflush(stdout);
    for (int number : {SIGABRT, SIGILL, SIGTRAP, SIGALRM}) signal(number, on_signal);
    __sanitizer_set_death_callback(print_current);
    alarm(static_cast<unsigned>(o.seconds) + 60);  // an input that never ends
    for (const Input& in : o.corpus) run(in);

    Random random{o.seed * 2 + 1};
    auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(o.seconds);
    uint64_t runs = 0;
    size_t found = 0;
    while (std::chrono::steady_clock::now() < end) {
        for (int batch = 0; batch < 100; ++batch, ++runs) {
            Input in = o.corpus[random.below(o.corpus.size())];
            for (size_t n = 1 + random.below(6); n > 0; --n) mutate_once(in, random, o.corpus);
            if (!run(in)) continue;
            ++found;
            o.corpus.push_back(in);
            if (o.keep.empty()) continue;
            std::ofstream out(o.keep, std::ios::app);
            for (uint8_t v : in) out << "0123456789abcdef"[v >> 4] << "0123456789abcdef"[v & 15];
            out << '\n';
        }
    }
    std::printf("%llu inputs, %zu places in the code, %zu inputs kept\n",
                static_cast<unsigned long long>(runs), g_seen.count(), found);
    return 0;
}
