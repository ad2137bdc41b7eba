// The floors that TENT is measured against: plain memcpy and plain sockets, without a library in between.
//
// A coprocess: one command a line on standard input, one answer a line on standard output, so that a
// benchmark can interleave it with its own measurements. The peer is a forked child on the other end of
// loopback connections.
//
//   memcpy BYTES COUNT THREADS   COUNT copies of BYTES between two warm shared mappings, split over THREADS
//   cold BYTES                   one copy into a fresh mapping
//   write BYTES COUNT STREAMS    COUNT blocks of BYTES to the peer over STREAMS connections, one
//   acknowledgement each read BYTES COUNT STREAMS     the same from the peer: a request, then the bytes put
//   BYTES COUNT              COUNT times: BYTES to the peer, wait for its acknowledgement; one at a time
//
// Each answers "SECONDS [P50_US P99_US]". End of input ends it, and its child.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr size_t kMaxBytes = size_t{1} << 30;
constexpr size_t kWindow = 64 << 20;
constexpr int kMaxStreams = 4;
constexpr int kBuffer = 16 << 20;

struct Request {
    uint64_t bytes;
    uint64_t count;
    uint64_t write;   // 1: the peer receives, 0: it sends
    uint64_t window;  // both sides walk through so many bytes, block by block
    // Where block `i` lies.
    uint64_t at(uint64_t i) const { return i % std::max<uint64_t>(1, window / bytes) * bytes; }
};

[[noreturn]] void die(const char* what) {
    std::perror(what);
    std::exit(1);
}

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

char* map_shared(size_t bytes) {
    int fd = memfd_create("tent-bench-floor", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, static_cast<off_t>(bytes)) != 0) die("memfd");
    void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (at == MAP_FAILED) die("mmap");
    return static_cast<char*>(at);
}

// Two warm mappings that grow on demand.
struct Mappings {
    size_t bytes = 0;
    char* from = nullptr;
    char* to = nullptr;

    void need(size_t wanted) {
        if (wanted <= bytes) return;
        if (bytes != 0) {
            munmap(from, bytes);
            munmap(to, bytes);
        }
        bytes = wanted;
        from = map_shared(bytes);
        to = map_shared(bytes);
        std::memset(from, 1, bytes);
        std::memset(to, 2, bytes);
    }
};

void send_all(int fd, const char* data, size_t bytes) {
    while (bytes > 0) {
        ssize_t sent = send(fd, data, bytes, MSG_NOSIGNAL);
        if (sent <= 0) die("send");
        data += sent;
        bytes -= static_cast<size_t>(sent);
    }
}

// False at the end of the connection.
bool receive_all(int fd, char* data, size_t bytes) {
    while (bytes > 0) {
        ssize_t got = recv(fd, data, bytes, MSG_WAITALL);
        if (got <= 0) return false;
        data += got;
        bytes -= static_cast<size_t>(got);
    }
    return true;
}

void tune(int fd) {
    int one = 1;
    int buffer = kBuffer;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "cubic", 5);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
}

// The peer's side of one connection: does as asked until the connection ends.
void serve(int fd, char* memory) {
    Request request{};
    while (receive_all(fd, reinterpret_cast<char*>(&request), sizeof request)) {
        for (uint64_t i = 0; i < request.count; ++i) {
            char token = 1;
            if (request.write != 0) {
                if (!receive_all(fd, memory + request.at(i), request.bytes)) return;
                send_all(fd, &token, 1);
            } else {
                if (!receive_all(fd, &token, 1)) return;
                send_all(fd, memory + request.at(i), request.bytes);
            }
        }
    }
}

std::array<int, kMaxStreams> connect_peer(char* memory) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    tune(listener);
    if (bind(listener, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
        listen(listener, kMaxStreams) != 0 ||
        getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
        die("listen");
    }
    pid_t child = fork();
    if (child < 0) die("fork");
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        std::vector<std::thread> threads;
        for (int i = 0; i < kMaxStreams; ++i) {
            int fd = accept(listener, nullptr, nullptr);
            if (fd < 0) die("accept");
            tune(fd);
            threads.emplace_back(serve, fd, memory + static_cast<size_t>(i) * (kMaxBytes / kMaxStreams));
        }
        for (auto& thread : threads) thread.join();
        std::_Exit(0);
    }
    std::array<int, kMaxStreams> streams{};
    for (int& fd : streams) {
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        tune(fd);
        if (connect(fd, reinterpret_cast<sockaddr*>(&address), size) != 0) die("connect");
    }
    close(listener);
    return streams;
}

// Copies walk through a window, as pages of a cache do: one block copied over and over would stay in the
// core's cache.
void copies(Mappings& maps, size_t bytes, size_t count, size_t threads) {
    size_t slots = std::max<size_t>(1, kWindow / bytes);
    maps.need(std::max(bytes, kWindow));
    size_t share = bytes / threads;
    auto work = [&](size_t index) {
        for (size_t i = 0; i < count; ++i) {
            size_t at = i % slots * bytes + index * share;
            std::memcpy(maps.to + at, maps.from + at, share);
        }
    };
    std::vector<std::thread> helpers;
    double started = now();
    for (size_t i = 1; i < threads; ++i) helpers.emplace_back(work, i);
    work(0);
    for (auto& helper : helpers) helper.join();
    std::printf("%.9f\n", now() - started);
}

void cold(Mappings& maps, size_t bytes) {
    maps.need(bytes);
    char* fresh = map_shared(bytes);
    double started = now();
    std::memcpy(fresh, maps.from, bytes);
    std::printf("%.9f\n", now() - started);
    munmap(fresh, bytes);
}

// One stream's part of COUNT blocks; at most two blocks are under way, so that the next one is never waited
// for.
void stream_part(int fd, char* memory, Request request) {
    send_all(fd, reinterpret_cast<char*>(&request), sizeof request);
    char token = 1;
    if (request.write != 0) {
        for (uint64_t i = 0; i < request.count; ++i) {
            send_all(fd, memory + request.at(i), request.bytes);
            if (i > 0 && !receive_all(fd, &token, 1)) die("recv");
        }
        if (!receive_all(fd, &token, 1)) die("recv");
        return;
    }
    send_all(fd, &token, 1);
    for (uint64_t i = 0; i < request.count; ++i) {
        if (i + 1 < request.count) send_all(fd, &token, 1);
        if (!receive_all(fd, memory + request.at(i), request.bytes)) die("recv");
    }
}

void streams(const std::array<int, kMaxStreams>& fds, Mappings& maps, Request request, size_t used) {
    request.bytes /= used;
    request.window = std::max<uint64_t>(request.bytes, kWindow / used);
    maps.need(request.window * used);
    std::vector<std::thread> helpers;
    double started = now();
    for (size_t i = 1; i < used; ++i) {
        helpers.emplace_back(stream_part, fds[i], maps.from + i * request.window, request);
    }
    stream_part(fds[0], maps.from, request);
    for (auto& helper : helpers) helper.join();
    std::printf("%.9f\n", now() - started);
}

void puts_one_by_one(int fd, Mappings& maps, size_t bytes, size_t count) {
    Request request{bytes, count, 1, std::max(bytes, kWindow)};
    maps.need(request.window);
    send_all(fd, reinterpret_cast<char*>(&request), sizeof request);
    std::vector<double> times(count);
    double started = now();
    for (size_t i = 0; i < count; ++i) {
        double before = now();
        char token = 0;
        send_all(fd, maps.from + request.at(i), bytes);
        if (!receive_all(fd, &token, 1)) die("recv");
        times[i] = (now() - before) * 1e6;
    }
    double seconds = now() - started;
    std::sort(times.begin(), times.end());
    std::printf("%.9f %.3f %.3f\n", seconds, times[count / 2], times[count * 99 / 100]);
}

}  // namespace

int main() {
    char* memory = map_shared(kMaxBytes);
    auto fds = connect_peer(memory);
    Mappings maps;
    char line[256];
    while (std::fgets(line, sizeof line, stdin) != nullptr) {
        char name[16] = {};
        unsigned long bytes = 0;
        unsigned long count = 1;
        unsigned long ways = 1;
        std::sscanf(line, "%15s %lu %lu %lu", name, &bytes, &count, &ways);
        std::string command = name;
        bool network = command == "write" || command == "read" || command == "put";
        if (bytes == 0 || bytes > (network ? kMaxBytes / kMaxStreams : kMaxBytes) || count == 0 ||
            ways == 0 || ways > static_cast<unsigned long>(kMaxStreams)) {
            std::puts("error: bad numbers");
        } else if (command == "memcpy") {
            copies(maps, bytes, count, ways);
        } else if (command == "cold") {
            cold(maps, bytes);
        } else if (command == "write" || command == "read") {
            streams(fds, maps, Request{bytes, count, command == "write" ? 1u : 0u, 0}, ways);
        } else if (command == "put") {
            puts_one_by_one(fds[0], maps, bytes, count);
        } else {
            std::puts("error: unknown command");
        }
        std::fflush(stdout);
    }
    return 0;
}
