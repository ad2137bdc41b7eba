// A fuzz input read as a program: its bytes decide what a hostile process does, one decision after the other.
// When they run out, it is over. What the processes of a run share is here, too.
#pragma once

#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "../inputs.h"
#include "base/bytes.h"

namespace tent::fuzz {

inline constexpr const char* kSecret = "known to the fuzzer, so that what it sends is looked at";
inline constexpr const char* kCluster = "fuzz";
inline constexpr uint64_t kData = 256 << 10;          // bytes of each exposed segment
inline constexpr uint64_t kExtent = 64 << 10;         // of the page store's pool
inline constexpr uint8_t kForbidden = 0xee;           // fills all that no peer may see
inline constexpr Id128 kOffers[] = {{0x51}, {0x52}};  // names: one to be read, one to be written
inline constexpr size_t kForbiddenRun = 8;            // of these in a row are no accident

// What was seen to happen: an input that made something new happen is kept. Filled by the interpreters, and
// by the compiler's coverage calls where the program was built with them. In shared memory: processes come
// and go.
class Seen {
  public:
    void note(uint64_t what) {
        what *= 0x9e3779b97f4a7c15ull;
        std::atomic<bool>& seen = seen_[what >> 48];
        if (seen.load(std::memory_order_relaxed) || seen.exchange(true)) return;
        fresh_.fetch_add(1);
    }
    size_t take_fresh() { return fresh_.exchange(0); }

  private:
    std::atomic<bool> seen_[1 << 16];
    std::atomic<size_t> fresh_;
};

// Mapped before the processes part.
struct Shared {
    std::atomic<uint32_t> current_bytes[2];  // what each hostile process runs, for whoever dies of it
    uint8_t current[2][4096];
    Seen seen[2];
    std::atomic<bool> ready, stop;
    uint16_t port;            // of the engine that is attacked
    uint16_t false_ports[2];  // of the process that passes for an owner
    char unix_name[64];
    Id128 incarnation;
    uint32_t segments[5];  // writable, read only, not exposed, memfd, pool
};

inline void print_hex(FILE* to, ByteView bytes) {
    print_hex(to, bytes.data(), bytes.size());
}

// Said by the fuzzer itself: an engine sent or did what it must not.
inline void demand(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "\nfuzz_engine: %s\n", what);
    std::abort();
}

class Program {
  public:
    explicit Program(ByteView bytes) : bytes_(bytes) {}
    bool done() const { return at_ >= bytes_.size(); }
    uint8_t u8() { return done() ? 0 : bytes_[at_++]; }
    uint16_t u16() { return static_cast<uint16_t>(u8() | (u8() << 8)); }
    Input some(size_t most) {
        Input out;
        for (size_t n = u8() % (most + 1); n > 0 && !done(); --n) out.push_back(u8());
        return out;
    }
    // Mostly what lies at some border.
    uint64_t number() {
        static constexpr uint64_t kNumbers[] = {0,          1,          2,           3,
                                                4,          63,         64,          4095,
                                                4096,       kExtent,    kData,       kData - 1,
                                                kData + 1,  1 << 20,    64ull << 20, (64ull << 20) + 1,
                                                1ull << 31, 0xffffffff, 1ull << 32,  1ull << 62,
                                                1ull << 63, ~0ull - 1,  ~0ull};
        uint8_t which = u8();
        if (which < std::size(kNumbers)) return kNumbers[which];
        if (which < 160) return which - std::size(kNumbers);
        return which < 224 ? u16() : (static_cast<uint64_t>(u16()) << 16) | u16();
    }

  private:
    ByteView bytes_;
    size_t at_ = 0;
};

// The interpreters: a peer that attacks an engine, and a process that passes for an owner to an engine.
void attack(Program& program, const Shared& shared, Seen& seen);
void impersonate(Program& program, const Shared& shared, int listener, Seen& seen);

}  // namespace tent::fuzz
