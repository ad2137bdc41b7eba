// What the sprayer costs per slice: a post, its outcome and the binding of the next one, with the transport
// answering at once. Prints one JSON object; times are the thread's CPU time, so that a busy machine does not
// count.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
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
    uint64_t live;  // flows at a time
};

// Runs about `slices` slices of flows that are replaced as they end; time in the sprayer's world advances by
// what each slice would take.
void measure(const Row& row, uint64_t slices, size_t recorder, bool last) {
    Settings settings;
    settings.slice_max = 64 << 10;  // many slices, whatever the flow's size
    RecordedSprayer s(settings, recorder);
    std::vector<RailId> local;
    for (uint32_t i = 0; i < row.rails; ++i) local.push_back(s.add_rail({"local", 2'000'000'000}));
    Nanos now = kSecond;
    for (PeerId p = 0; p < row.peers; ++p) {
        for (uint32_t j = 0; j < row.rails; ++j) {
            RailId remote = s.add_rail({"remote", 2'000'000'000});
            for (uint32_t i = 0; i < row.rails; ++i) {
                if (!row.crossed && i != j) continue;
                LinkSpec spec;
                spec.peer = p;
                spec.local = local[i];
                spec.remote = remote;
                spec.latency = 10 * kMicrosecond;
                s.add_link(spec, now);
            }
        }
    }
    FlowId next_flow = 1;
    auto submit = [&] {
        FlowSpec f;
        f.peer = static_cast<PeerId>(next_flow % row.peers);
        f.bytes = row.flow_bytes;
        f.deadline = now + 30 * kSecond;
        s.add_flow(next_flow++, f, now);
    };
    for (uint64_t i = 0; i < row.live; ++i) submit();
    std::vector<AttemptId> in_flight(1 << 16);  // a ring
    uint64_t first = 0, end = 0;
    uint64_t posted = 0, released = 0, counted_from = 0, allocated = 0;
    Nanos began = 0;
    while (posted < slices) {
        if (counted_from == 0 && posted >= slices / 10) {  // warm
            counted_from = posted;
            allocated = allocations;
            began = cpu_time();
        }
        Action a;
        while (s.next(a, now)) {
            if (a.kind == Action::Kind::post) {
                ++posted;
                in_flight[end++ & 0xffff] = a.attempt;
            } else if (a.kind == Action::Kind::flow_released) {
                ++released;
            }
        }
        for (; released > 0; --released) submit();
        if (first == end) continue;
        now += 8 * kMicrosecond;
        s.attempt_ended(in_flight[first++ & 0xffff], Outcome::done, 0, now);
    }
    Nanos took = cpu_time() - began;
    uint64_t n = posted - counted_from;
    std::printf(
        "  \"%s\": {\"ns_per_slice\": %lld, \"slices_per_second\": %lld, \"allocations_per_1000_slices\": "
        "%llu}%s\n",
        row.name, static_cast<long long>(took / static_cast<Nanos>(n)),
        static_cast<long long>(static_cast<Nanos>(n) * kSecond / took),
        static_cast<unsigned long long>((allocations - allocated) * 1000 / n), last ? "" : ",");
}

}  // namespace

// tent_bench_sched [--recorder] [SLICES]: with the flight recorder on, as in an engine, or without.
int main(int argc, char** argv) {
    size_t recorder = 0;
    if (argc > 1 && std::strcmp(argv[1], "--recorder") == 0) {
        recorder = 4 << 20;
        --argc;
        ++argv;
    }
    uint64_t slices = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1'000'000;
    const Row rows[] = {
        {"one rail, large flows", 1, 1, false, 256 << 20, 4},
        {"four rails, large flows", 4, 1, false, 256 << 20, 4},
        {"four by four links, large flows", 4, 1, true, 256 << 20, 4},
        {"four rails, 64 KiB flows", 4, 1, false, 64 << 10, 64},
        {"four rails, eight peers, large flows", 4, 8, false, 256 << 20, 32},
        {"four rails, 64 peers, 1 MiB flows", 4, 64, false, 1 << 20, 512},
    };
    std::printf("{\n");
    for (const Row& row : rows)
        measure(row, slices < 20 ? 20 : slices, recorder, &row == &rows[std::size(rows) - 1]);
    std::printf("}\n");
}
