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

#include <bitset>
#include <cstring>

#include "inputs.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using namespace tent::fuzz;

constexpr size_t kLargest = 4096;
constexpr size_t kMap = 1 << 16;

std::bitset<kMap> g_seen;
size_t g_fresh = 0;
Input g_current;

void print_current() {
    std::fprintf(stderr, "\nfailing input: ");
    print_hex(stderr, g_current.data(), g_current.size());
}

void on_signal(int number) {
    print_current();
    _exit(128 + number);
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
            put_in_noise(in, at, some, random);
            break;
        case 4:
            leave_out(in, at, some);
            break;
        case 5:  // cut
            if (random.below(3) == 0) in.resize(at);
            break;
        case 6:
            repeat(in, at, some * 4, random);
            break;
        default:
            join(in, at, corpus, random);
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
    if (o.corpus.empty()) o.corpus.emplace_back();
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
            FILE* to = std::fopen(o.keep.c_str(), "a");
            if (to == nullptr) continue;
            print_hex(to, in.data(), in.size());
            std::fclose(to);
        }
    }
    std::printf("%llu inputs, %zu places in the code, %zu inputs kept\n",
                static_cast<unsigned long long>(runs), g_seen.count(), found);
    return 0;
}
