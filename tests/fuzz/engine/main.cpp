// Throws everything at live engines: at one that owns memory, as peers that dial it (attacker.cpp), and at
// one that dials, as owners that lie (impostor.cpp). Inputs are programs for those two; they run in processes
// of their own, so that whatever a peer holds ends with it. The engines run here, with guards around what
// they expose, and serve an honest peer all the while.
//
//   fuzz_engine [--seconds N] [--seed S] [--keep FILE] [FILE.hex | FILE.txt | FOLDER]...
//
// A .hex file is one input, a .txt file one input a line. --keep appends inputs that made something new
// happen. A failure prints the inputs under way. Built with -fsanitize-coverage=trace-pc for all (see
// docs/tests.md), "new" is new code.
#include <arpa/inet.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <chrono>

#include "base/log.h"
#include "target.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace {

using namespace tent;
using namespace tent::fuzz;

constexpr size_t kLargest = 1024;
constexpr size_t kHostile = 2;  // processes: an attacker, an impostor
Shared* g_shared = nullptr;

void print_current() {
    static std::atomic<bool> once{false};
    if (g_shared == nullptr || once.exchange(true)) return;
    for (size_t i = 0; i < kHostile; ++i) {
        std::fprintf(stderr, "under way (%s): ", i == 0 ? "attacker" : "impostor");
        print_hex(stderr, ByteView(g_shared->current[i], g_shared->current_bytes[i].load()));
    }
}

void on_signal(int number) {
    print_current();
    _exit(128 + number);
}

Input invent(Random& random, const std::vector<Input>& corpus) {
    Input in = corpus.empty() || random.below(4) == 0 ? Input() : corpus[random.below(corpus.size())];
    if (in.empty()) {
        in.resize(16 + random.below(400));
        for (uint8_t& b : in) b = static_cast<uint8_t>(random.next());
        return in;
    }
    for (size_t n = 1 + random.below(8); n > 0; --n) {
        size_t at = random.below(in.size()), some = 1 + random.below(32);
        switch (random.below(6)) {
            case 0:
            case 1:
                if (!in.empty()) in[at] = static_cast<uint8_t>(random.next());
                break;
            case 2:
                put_in_noise(in, at, some, random);
                break;
            case 3:
                leave_out(in, at, some);
                break;
            case 4:
                repeat(in, at, some, random);
                break;
            default:
                join(in, at, corpus, random);
        }
    }
    if (in.size() > kLargest) in.resize(kLargest);
    return in;
}

void run_one(size_t which, int listener, const Input& in, Seen& seen) {
    std::copy(in.begin(), in.end(), g_shared->current[which]);
    g_shared->current_bytes[which] = static_cast<uint32_t>(in.size());
    alarm(120);  // an input that never ends
    Program program(in);
    if (which == 0)
        attack(program, *g_shared, seen);
    else
        impersonate(program, *g_shared, listener, seen);
}

int listen_loopback(uint16_t& port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in a{};
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof a;
    demand(bind(fd, reinterpret_cast<sockaddr*>(&a), size) == 0 && listen(fd, 64) == 0,
           "no port to listen on");
    getsockname(fd, reinterpret_cast<sockaddr*>(&a), &size);
    port = ntohs(a.sin_port);
    return fd;
}

void watch_signals() {
    for (int number : {SIGABRT, SIGSEGV, SIGILL, SIGTRAP, SIGALRM, SIGBUS}) {
#if defined(__SANITIZE_ADDRESS__)
        if (number == SIGSEGV || number == SIGBUS) continue;  // the sanitizer's
#endif
        signal(number, on_signal);
    }
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_set_death_callback(print_current);
#endif
}

// Some inputs in a process of their own; what is worth keeping comes by the pipe. Never returns.
[[noreturn]] void batch(size_t which, int listener, const std::vector<Input>& corpus, bool replay,
                        uint64_t seed, int out) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    watch_signals();
    Random random{seed * 2 + 1};
    Seen& seen = g_shared->seen[which];
    for (const Input& in : corpus) {
        if (!replay || g_shared->stop) break;
        run_one(which, listener, in, seen);
    }
    seen.take_fresh();
    uint32_t runs = 0;
    auto end = std::chrono::steady_clock::now() + std::chrono::seconds(2);
    while (!g_shared->stop && std::chrono::steady_clock::now() < end) {
        Input in = invent(random, corpus);
        run_one(which, listener, in, seen);
        ++runs;
        if (seen.take_fresh() == 0) continue;
        auto size = static_cast<uint32_t>(in.size());
        if (::write(out, &size, sizeof size) < 0 || ::write(out, in.data(), in.size()) < 0) break;
    }
    uint32_t zero = 0;
    [[maybe_unused]] ssize_t n = ::write(out, &zero, sizeof zero);
    n = ::write(out, &runs, sizeof runs);
    _exit(0);
}

// The parent of the hostile processes: it alone keeps the corpus. Forked before there is any thread.
[[noreturn]] void breed(size_t which, int listener, Options o) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (!g_shared->ready) usleep(1000);
    uint64_t runs = 0, kept = 0;
    for (uint64_t round = 0; !g_shared->stop; ++round) {
        int ends[2];
        demand(pipe(ends) == 0, "pipe");
        pid_t pid = fork();
        if (pid == 0) {
            ::close(ends[0]);
            batch(which, listener, o.corpus, round == 0, o.seed + round * kHostile + which, ends[1]);
        }
        ::close(ends[1]);
        FILE* in = fdopen(ends[0], "r");
        std::vector<Input> fresh;
        for (uint32_t size = 0; fread(&size, sizeof size, 1, in) == 1;) {
            if (size == 0) {
                uint32_t n = 0;
                if (fread(&n, sizeof n, 1, in) == 1) runs += n;
                break;
            }
            Input one(std::min<size_t>(size, kLargest));
            if (fread(one.data(), 1, one.size(), in) == one.size()) fresh.push_back(one);
        }
        fclose(in);
        int status = 0;
        waitpid(pid, &status, 0);
        if (status != 0) _exit(1);
        for (const Input& one : fresh) {
            if (o.corpus.size() < 512) o.corpus.push_back(one);
            ++kept;
            if (o.keep.empty()) continue;
            FILE* to = fopen((o.keep + (which == 0 ? "" : ".impostor")).c_str(), "a");
            print_hex(to, one);
            fclose(to);
        }
    }
    std::printf("%s: %llu inputs, %llu kept\n", which == 0 ? "attacker" : "impostor",
                static_cast<unsigned long long>(runs), static_cast<unsigned long long>(kept));
    std::fflush(stdout);
    _exit(0);
}

}  // namespace

// The engines' own code counts for both kinds of inputs, whichever is under way.
extern "C" __attribute__((no_sanitize_coverage)) void __sanitizer_cov_trace_pc() {
    static thread_local bool inside = false;
    if (g_shared == nullptr || inside || !g_shared->ready.load(std::memory_order_relaxed)) return;
    inside = true;
    auto pc = reinterpret_cast<uintptr_t>(__builtin_return_address(0));
    for (Seen& seen : g_shared->seen) seen.note(pc);
    inside = false;
}

int main(int argc, char** argv) {
    Options o = parse(argc, argv);
    std::erase(o.corpus, Input());
    void* at = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    g_shared = new (at) Shared;
    std::vector<pid_t> hostile;
    for (size_t i = 0; i < kHostile; ++i) {
        uint16_t port = 0;
        int listener = i == 1 ? listen_loopback(port) : -1;
        if (i == 1) g_shared->false_ports[1] = port;
        pid_t pid = fork();
        if (pid == 0) breed(i, listener, o);
        if (listener >= 0) ::close(listener);
        hostile.push_back(pid);
    }
    watch_signals();
    set_log_level(LogLevel::error);
    bool good = true;
    {
        Target target(*g_shared);
        target.serve_honestly();
        Target::Held before = target.settle(nullptr);
        g_shared->ready = true;
        std::thread visitor([&] {
            while (!g_shared->stop) target.visit_impostor(1);
        });
        auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(o.seconds);
        uint64_t rounds = 0;
        while (good && std::chrono::steady_clock::now() < end) {
            target.serve_honestly();
            target.check_guards();
            target.upkeep();
            ++rounds;
            usleep(20'000);
            for (pid_t pid : hostile) good = good && waitpid(pid, nullptr, WNOHANG) == 0;
        }
        g_shared->stop = true;
        visitor.join();
        for (pid_t pid : hostile) {
            int status = 0;
            if (waitpid(pid, &status, 0) == pid) good = good && status == 0;
        }
        if (good) {
            target.serve_honestly();
            target.check_guards();
            Target::Held after = target.settle(&before);
            std::printf("%llu honest rounds; descriptors %zu -> %zu, threads %zu -> %zu, bytes %zu -> %zu\n",
                        static_cast<unsigned long long>(rounds), before.descriptors, after.descriptors,
                        before.threads, after.threads, before.bytes, after.bytes);
            std::fflush(stdout);
            demand(after.bytes < before.bytes + (16 << 20), "memory leaks");
        }
    }
    std::printf(good ? "all well\n" : "a hostile process found something\n");
    return good ? 0 : 1;
}
