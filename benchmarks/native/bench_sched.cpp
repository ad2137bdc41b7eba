// What the sprayer costs per slice: a post, its outcome and the binding of the next one, with the transport
// answering at once. Prints one JSON list of rows; times are the thread's CPU time, so that a busy machine
// does not count.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <span>
#include <vector>

#include "sched/recorder.h"

namespace {
uint64_t allocations = 0;

tent::Nanos cpu_time() {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec * tent::kSecond + t.tv_nsec;
}
}  // namespace

void* operator new(size_t size) {
    ++allocations;
    void* p = std::malloc(size);
    if (p == nullptr) throw std::bad_alloc();
    return p;
}
void operator delete(void* p) noexcept {
    std::free(p);
}
void operator delete(void* p, size_t) noexcept {
    std::free(p);
}

namespace {

using namespace tent;
using namespace tent::sched;

struct Row {
    const char* name;
    uint32_t rails, peers;
    bool crossed;  // every local rail reaches every remote one
    uint64_t flow_bytes;
    uint64_t live;        // flows at a time
    uint64_t window = 2;  // slices in flight on a rail, beyond what fills it
};

constexpr uint64_t kSlice = 64 << 10;

// Virtual links: the transport is a ring of what was posted, oldest first.
class Bench {
  public:
    Bench(const Row& row, size_t recorder) : row_(row), sprayer_(settings(row), recorder) {
        std::vector<RailId> local;
        for (uint32_t i = 0; i < row.rails; ++i) local.push_back(sprayer_.add_rail({"local", kRate}));
        for (PeerId p = 0; p < row.peers; ++p) {
            for (uint32_t j = 0; j < row.rails; ++j) {
                RailId remote = sprayer_.add_rail({"remote", kRate});
                for (uint32_t i = 0; i < row.rails; ++i) {
                    if (!row.crossed && i != j) continue;
                    LinkSpec spec;
                    spec.peer = p;
                    spec.local = local[i];
                    spec.remote = remote;
                    spec.latency = 10 * kMicrosecond;
                    sprayer_.add_link(spec, now_);
                    ++links_;
                }
            }
        }
        uint64_t room = 1 << 12;
        while (room < row.rails * (row.window + 4) * 2) room *= 2;
        ring_.resize(room);
        for (uint64_t i = 0; i < row.live; ++i) submit();
    }

    // Until so many slices were posted; flows that end are replaced.
    void run(uint64_t slices) {
        while (posted_ < slices) {
            uint64_t released = 0;
            for (Action a; sprayer_.next(a, now_);) {
                if (a.kind == Action::Kind::post) {
                    ++posted_;
                    ring_[end_++ & (ring_.size() - 1)] = a.attempt;
                } else if (a.kind == Action::Kind::flow_released) {
                    ++released;
                }
            }
            for (; released > 0; --released) submit();
            if (first_ == end_) continue;
            now_ += 8 * kMicrosecond;
            sprayer_.attempt_ended(ring_[first_++ & (ring_.size() - 1)], Outcome::done, 0, now_);
        }
    }
    uint64_t posted() const { return posted_; }
    uint64_t outstanding() const { return end_ - first_; }
    uint64_t links() const { return links_; }

  private:
    static constexpr uint64_t kRate = 2'000'000'000;
    static Settings settings(const Row& row) {
        Settings s;
        s.slice_max = kSlice;  // many slices, whatever the flow's size
        s.window_slices = row.window;
        return s;
    }
    void submit() {
        FlowSpec f;
        f.peer = static_cast<PeerId>(next_flow_ % row_.peers);
        f.bytes = row_.flow_bytes;
        f.deadline = now_ + 3000 * kSecond;
        sprayer_.add_flow(next_flow_++, f, now_);
    }

    const Row& row_;
    RecordedSprayer sprayer_;
    Nanos now_ = kSecond;
    FlowId next_flow_ = 1;
    std::vector<AttemptId> ring_;
    uint64_t first_ = 0, end_ = 0, posted_ = 0, links_ = 0;
};

void measure(const Row& row, uint64_t slices, size_t recorder, bool last) {
    Bench bench(row, recorder);
    // Until it has grown to its size: what is in flight has gone round twice.
    bench.run(slices / 10 + 2 * row.rails * row.window);
    uint64_t warm = bench.posted(), allocated = allocations;
    Nanos began = cpu_time();
    bench.run(warm + slices);
    auto took = static_cast<double>(cpu_time() - began);
    auto n = static_cast<double>(bench.posted() - warm);
    std::printf(
        "  {\"name\": \"%s\", \"links\": %llu, \"outstanding\": %llu, \"ns_per_slice\": %.1f, "
        "\"allocations_per_1000_slices\": %.3f}%s\n",
        row.name, static_cast<unsigned long long>(bench.links()),
        static_cast<unsigned long long>(bench.outstanding()), took / n,
        static_cast<double>(allocations - allocated) * 1000 / n, last ? "" : ",");
    std::fflush(stdout);
}

constexpr Row kShapes[] = {
    {"one rail, large flows", 1, 1, false, 256 << 20, 4},
    {"four rails, large flows", 4, 1, false, 256 << 20, 4},
    {"four by four links, large flows", 4, 1, true, 256 << 20, 4},
    {"four rails, 64 KiB flows", 4, 1, false, 64 << 10, 64},
    {"four rails, eight peers, large flows", 4, 8, false, 256 << 20, 32},
    {"four rails, 64 peers, 1 MiB flows", 4, 64, false, 1 << 20, 512},
};
// With the links of one peer, every local rail to every remote one; then with what is outstanding.
constexpr Row kGrowth[] = {
    {"links", 2, 1, true, 256 << 20, 4},
    {"links", 4, 1, true, 256 << 20, 4},
    {"links", 8, 1, true, 256 << 20, 4},
    {"links", 16, 1, true, 256 << 20, 4},
    {"outstanding", 4, 1, false, 256 << 20, 8, 1'000 / 4},
    {"outstanding", 4, 1, false, 256 << 20, 16, 10'000 / 4},
    {"outstanding", 4, 1, false, 256 << 20, 64, 100'000 / 4},
    {"outstanding", 4, 1, false, 256 << 20, 512, 1'000'000 / 4},
};

}  // namespace

// tent_bench_sched [--recorder] [--growth] [SLICES]: with the flight recorder on, as in an engine, or
// without; how the cost grows.
int main(int argc, char** argv) {
    size_t recorder = 0;
    uint64_t slices = 1'000'000;
    std::span<const Row> rows = kShapes;
    for (int i = 1; i < argc; ++i) {
        if (std::strcmp(argv[i], "--recorder") == 0) {
            recorder = 4 << 20;
        } else if (std::strcmp(argv[i], "--growth") == 0) {
            rows = kGrowth;
        } else {
            slices = std::max<uint64_t>(std::strtoull(argv[i], nullptr, 10), 1000);
        }
    }
    std::printf("[\n");
    for (const Row& row : rows) measure(row, slices, recorder, &row == &rows.back());
    std::printf("]\n");
}
