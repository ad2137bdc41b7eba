// Engines of one host tell each other what they have in flight over a rail; who is gone has nothing.
#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "engine/neighbours.h"
#include "transport/socket.h"
#include "world.h"

namespace tent::test {
namespace {

using engine::Neighbours;
using engine::RailUse;

struct One {
    explicit One(uint8_t number) {
        REQUIRE(poller.open().ok());
        Id128 id{};
        id.fill(number);
        // Not those of another test run at the same time.
        pid_t pid = getpid();
        std::memcpy(id.data(), &pid, sizeof pid);
        all = std::make_unique<Neighbours>(poller, id);
        Status s = all->open();
        REQUIRE_MESSAGE(s.ok(), s.text());
    }
    void listen(Nanos timeout = 0) {
        Poller::Batch batch;
        poller.wait(batch, timeout);
        poller.dispatch(batch);
    }
    template <class F>
    bool until(F holds) {
        Nanos end = monotonic_now() + 20 * kSecond;
        while (!holds() && monotonic_now() < end) listen(10 * kMillisecond);
        return holds();
    }
    Poller poller;  // outlives them
    std::unique_ptr<Neighbours> all;
};

// Nobody else uses a rail of that name.
std::string rail() {
    return "rail of " + std::to_string(getpid());
}

uint64_t counter(Engine& e, const std::string& name) {
    for (const auto& [n, value] : e.stats().counters) {
        if (n == name) return value;
    }
    return 0;
}

}  // namespace

TEST_CASE("three engines of a host see the sum of the others, and what has arrived since they last looked") {
    One a(1), b(2);
    auto c = std::make_unique<One>(3);
    Nanos now = monotonic_now();
    a.all->publish(rail(), 100, 1000, now);
    b.all->publish(rail(), 20, 0, now);
    c->all->publish(rail(), 3, 0, now);
    CHECK(a.until([&] {
        b.listen();
        c->listen();
        return a.all->others(rail(), now).in_flight == 23 && b.all->others(rail(), now).in_flight == 103;
    }));
    CHECK(b.all->others(rail(), now).arrived == 0);
    a.all->publish(rail(), 50, 1500, now);
    CHECK(b.all->others(rail(), now).arrived == 500);
    CHECK(b.all->others(rail(), now).arrived == 0);
    CHECK(b.all->others("another", now).in_flight == 0);
    // What is old, or more than can be, is not believed.
    CHECK(b.all->others(rail(), now + kSecond).in_flight == 0);
    a.all->publish(rail(), UINT64_MAX, UINT64_MAX, now);
    RailUse use = b.all->others(rail(), now);
    CHECK(use.in_flight < UINT64_MAX / 2);
    CHECK(use.arrived == 0);
    c.reset();
    CHECK(a.until([&] { return a.all->others(rail(), now).in_flight == 20; }));
}

TEST_CASE("a neighbour that is killed is gone at once") {
    One a(1);
    std::string name = rail();
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        Poller poller;
        Id128 id{};
        id.fill(9);
        if (!poller.open().ok()) _exit(1);
        Neighbours mine(poller, id);
        if (!mine.open().ok()) _exit(1);
        for (Poller::Batch batch;;) {
            mine.publish(name, 4242, 0, monotonic_now());
            poller.wait(batch, 5 * kMillisecond);
            poller.dispatch(batch);
        }
    }
    Nanos seen = 0;
    CHECK(a.until([&] { return a.all->others(name, seen = monotonic_now()).in_flight == 4242; }));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    // At the time at which it was seen, so that the age of its word is not what counts.
    CHECK(a.until([&] { return a.all->others(name, seen).in_flight == 0; }));
}

TEST_CASE("who does not greet as a neighbour does is none") {
    One a(1);
    Id128 id{};
    id.fill(1);
    pid_t pid = getpid();
    std::memcpy(id.data(), &pid, sizeof pid);
    std::string name = "tent-rails-" + std::to_string(geteuid()) + "-";
    for (uint8_t b : id) {
        char text[3];
        snprintf(text, sizeof text, "%02x", b);
        name += text;
    }
    for (const char* greeting :
         {"", "hello", "TENTRAIL but nothing that follows is right, and no descriptor"}) {
        auto d = transport::dial_unix(name);
        REQUIRE(d.ok());
        REQUIRE(write(d->fd.get(), greeting, std::strlen(greeting)) >= 0);
        if (*greeting == 0) continue;  // closed without a word
        // It hangs up.
        CHECK(a.until([&] {
            char byte[64];
            ssize_t n = 1;
            while (n > 0) n = recv(d->fd.get(), byte, sizeof byte, MSG_DONTWAIT);
            return n == 0 || (errno != EAGAIN && errno != EINTR);
        }));
    }
}

TEST_CASE("an engine's sprayer is told what another engine has in flight over the same rail") {
    engine::Settings s;
    s.secret = "native tests";
    s.shm = false;
    s.bind = {"127.0.0.1"};
    s.share_rails = s.share_loopback = true;
    s.name = "first";
    auto one = Engine::create(s);
    s.name = "second";
    auto two = Engine::create(s);
    REQUIRE(one.ok());
    REQUIRE(two.ok());
    std::atomic<bool> stop{false};
    {
        World w(false, true, 8 << 20);
        std::vector<uint8_t> memory(8 << 20);
        REQUIRE((*one)->add(memory.data(), memory.size(), "local", Rights::none, true).ok());
        auto peer = (*one)->connect(w.owner->descriptor(), 5 * kSecond);
        REQUIRE(peer.ok());
        std::thread mover([&] {
            uint64_t at = reinterpret_cast<uint64_t>(memory.data()), offset = 0, length = memory.size();
            uint32_t id = w.theirs->id;
            while (!stop) {
                Intent in;
                in.op = Op::write;
                in.peer = *peer;
                in.local = std::span(&at, 1);
                in.segment = std::span(&id, 1);
                in.offset = std::span(&offset, 1);
                in.length = std::span(&length, 1);
                auto t = (*one)->submit(in, true);
                if (!t.ok()) break;
                (*one)->wait_released(**t, 20 * kSecond);
            }
        });
        Nanos end = monotonic_now() + 20 * kSecond;
        uint64_t seen = 0;
        while (seen == 0 && monotonic_now() < end) seen = counter(**two, "neighbours_in_flight");
        CHECK(seen > 0);
        stop = true;
        mover.join();
    }
    uint64_t with = counter(**two, "neighbours");
    CHECK(with >= 1);
    (*one)->close(kSecond);
    Nanos end = monotonic_now() + 20 * kSecond;
    while (counter(**two, "neighbours") >= with && monotonic_now() < end) std::this_thread::yield();
    CHECK(counter(**two, "neighbours") < with);
    while (counter(**two, "neighbours_in_flight") > 0 && monotonic_now() < end) std::this_thread::yield();
    CHECK(counter(**two, "neighbours_in_flight") == 0);
}

}  // namespace tent::test
