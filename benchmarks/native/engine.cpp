// The engine as a C++ caller sees it: the same coprocess protocol as floors.cpp, so that both can be
// interleaved. Argument 1: shm or tcp. The owner of the other segment is a forked child with an engine of its
// own.
//
//   write BYTES COUNT [RANGES]   COUNT intents of RANGES ranges of BYTES each, at most two under way
//   read BYTES COUNT [RANGES]
//   put BYTES COUNT              COUNT writes one at a time
//   get BYTES COUNT              COUNT reads one at a time
//
// Each answers "SECONDS [P50_US P99_US]". End of input ends it, and its child.
#include "engine/engine.h"

#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace {

using tent::Nanos;
constexpr uint64_t kSegment = 64 << 20;
constexpr Nanos kPatience = 30 * tent::kSecond;

[[noreturn]] void die(const char* what, const tent::Status& status) {
    std::fprintf(stderr, "%s: %s\n", what, status.text().c_str());
    std::exit(1);
}

std::unique_ptr<tent::engine::Engine> make_engine(const std::string& transport, const char* name) {
    tent::engine::Settings settings;
    settings.secret = "benchmark of one user on one host";
    settings.name = name;
    settings.bind = {"127.0.0.1"};
    settings.shm = transport == "shm";
    settings.tcp = transport == "tcp";
    auto engine = tent::engine::Engine::create(settings);
    if (!engine.ok()) die("create", engine.status());
    return std::move(*engine);
}

std::shared_ptr<tent::engine::Segment> warm_segment(tent::engine::Engine& engine, const char* name) {
    auto segment = engine.allocate(kSegment, kSegment, name, tent::Rights::read_write);
    if (!segment.ok()) die("allocate", segment.status());
    std::memset((*segment)->base, 1, kSegment);
    return *segment;
}

// The child: hands over its descriptor, then stays until the parent closes its end.
[[noreturn]] void own(const std::string& transport, int pipe) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    auto engine = make_engine(transport, "owner");
    auto segment = warm_segment(*engine, "bench");
    tent::Bytes blob = engine->descriptor();
    auto size = static_cast<uint32_t>(blob.size());
    char end = 0;
    if (write(pipe, &size, sizeof size) != sizeof size || write(pipe, blob.data(), size) != size)
        std::_Exit(1);
    (void)!read(pipe, &end, 1);
    engine->close(tent::kSecond);
    std::_Exit(0);
}

class Caller {
  public:
    Caller(tent::engine::Engine& engine, tent::ByteView descriptor) : engine_(engine) {
        auto peer = engine.connect(descriptor, kPatience);
        if (!peer.ok()) die("connect", peer.status());
        peer_ = *peer;
        segment_ = warm_segment(engine, "local");
        for (const auto& info : engine.segments_of(*peer_, kPatience)) {
            if (info.name == "bench") remote_ = info.id;
        }
    }

    void stream(tent::Op op, uint64_t bytes, size_t count, size_t ranges) {
        // Walks through the segment, as the floors do. Two live transfers may not share a destination: where
        // the segment has room for one only, one is under way.
        size_t slots = kSegment / (bytes * ranges);
        Nanos started = tent::monotonic_now();
        std::shared_ptr<tent::engine::Transfer> before;
        for (size_t i = 0; i < count; ++i) {
            prepare(bytes, ranges, i % slots * bytes * ranges);
            if (before && slots < 2) finish(*std::exchange(before, nullptr));
            auto transfer = submit(op, bytes, false);
            if (before) finish(*before);
            before = transfer;
        }
        if (before) finish(*before);
        std::printf("%.9f\n", static_cast<double>(tent::monotonic_now() - started) / 1e9);
    }

    void one_by_one(tent::Op op, uint64_t bytes, size_t count) {
        std::vector<double> times(count);
        Nanos started = tent::monotonic_now();
        for (size_t i = 0; i < count; ++i) {
            prepare(bytes, 1, i % (kSegment / bytes) * bytes);
            Nanos before = tent::monotonic_now();
            finish(*submit(op, bytes, true));
            times[i] = static_cast<double>(tent::monotonic_now() - before) / 1e3;
        }
        double seconds = static_cast<double>(tent::monotonic_now() - started) / 1e9;
        std::sort(times.begin(), times.end());
        std::printf("%.9f %.3f %.3f\n", seconds, times[count / 2], times[count * 99 / 100]);
    }

  private:
    void prepare(uint64_t bytes, size_t ranges, uint64_t base) {
        local_.resize(ranges);
        offset_.resize(ranges);
        for (size_t i = 0; i < ranges; ++i) {
            offset_[i] = base + i * bytes;
            local_[i] = reinterpret_cast<uint64_t>(segment_->base) + offset_[i];
        }
    }

    std::shared_ptr<tent::engine::Transfer> submit(tent::Op op, const uint64_t& bytes, bool will_wait) {
        tent::engine::Intent intent;
        intent.op = op;
        intent.peer = peer_;
        intent.local = local_;
        intent.segment = std::span(&remote_, 1);
        intent.offset = offset_;
        intent.length = std::span(&bytes, 1);
        auto transfer = engine_.submit(intent, will_wait);
        if (!transfer.ok()) die("submit", transfer.status());
        return *transfer;
    }

    void finish(tent::engine::Transfer& transfer) {
        if (!engine_.wait(transfer, kPatience)) die("wait", {tent::Code::deadline, "no end within 30 s"});
        if (!engine_.wait_released(transfer, kPatience))
            die("wait", {tent::Code::deadline, "never released"});
        if (!transfer.result().ok()) die("transfer", transfer.result());
    }

    tent::engine::Engine& engine_;
    std::shared_ptr<tent::engine::Peer> peer_;
    std::shared_ptr<tent::engine::Segment> segment_;
    uint32_t remote_ = 0;
    std::vector<uint64_t> local_, offset_;
};

tent::Bytes receive_descriptor(int pipe) {
    uint32_t size = 0;
    if (read(pipe, &size, sizeof size) != sizeof size) std::exit(1);
    tent::Bytes blob(size);
    size_t got = 0;
    while (got < size) {
        ssize_t n = read(pipe, blob.data() + got, size - got);
        if (n <= 0) std::exit(1);
        got += static_cast<size_t>(n);
    }
    return blob;
}

}  // namespace

int main(int argc, char** argv) {
    std::string transport = argc > 1 ? argv[1] : "";
    if (transport != "shm" && transport != "tcp") {
        std::fputs("usage: tent_bench_engine shm|tcp\n", stderr);
        return 2;
    }
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return 1;
    if (fork() == 0) {
        close(ends[0]);
        own(transport, ends[1]);
    }
    close(ends[1]);
    tent::Bytes blob = receive_descriptor(ends[0]);
    auto engine = make_engine(transport, "caller");
    Caller caller(*engine, blob);
    char line[256];
    while (std::fgets(line, sizeof line, stdin) != nullptr) {
        char name[16] = {};
        unsigned long bytes = 0, count = 1, ranges = 1;
        std::sscanf(line, "%15s %lu %lu %lu", name, &bytes, &count, &ranges);
        std::string command = name;
        if (bytes == 0 || count == 0 || ranges == 0 || bytes > kSegment / ranges) {
            std::puts("error: bad numbers");
        } else if (command == "write" || command == "read") {
            caller.stream(command == "write" ? tent::Op::write : tent::Op::read, bytes, count, ranges);
        } else if (command == "put" || command == "get") {
            caller.one_by_one(command == "put" ? tent::Op::write : tent::Op::read, bytes, count);
        } else {
            std::puts("error: unknown command");
        }
        std::fflush(stdout);
    }
    engine->close(tent::kSecond);
    return 0;
}
