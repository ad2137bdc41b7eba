// Engines of one host tell each other what they have in flight over a rail; who is gone has nothing.
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "engine/neighbours.h"
#include "transport/shm/memory.h"
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

// A greeting as neighbours send it, and a descriptor.
void greet(int fd, const UniqueFd& memory) {
    struct {
        char magic[8] = {'T', 'E', 'N', 'T', 'R', 'A', 'I', 'L'};
        uint32_t version = 1, number = 0;
        uint8_t who[16] = {200};
    } hello;
    iovec part{&hello, sizeof hello};
    msghdr m{};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    m.msg_iov = &part;
    m.msg_iovlen = 1;
    m.msg_control = control;
    m.msg_controllen = sizeof control;
    cmsghdr* c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    int page = memory.get();
    std::memcpy(CMSG_DATA(c), &page, sizeof page);
    REQUIRE(sendmsg(fd, &m, MSG_NOSIGNAL) == static_cast<ssize_t>(sizeof hello));
}

bool hung_up(int fd) {
    char byte[64];
    ssize_t n = 1;
    while (n > 0) n = recv(fd, byte, sizeof byte, MSG_DONTWAIT);
    return n == 0 || (errno != EAGAIN && errno != EINTR);
}

std::string name_of(uint32_t number) {
    return "tent-rails-" + std::to_string(geteuid()) + "-" + std::to_string(number);
}

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
    std::string name = name_of(a.all->number());
    for (const char* greeting :
         {"", "hello", "TENTRAIL but nothing that follows is right, and no descriptor"}) {
        auto d = transport::dial_unix(name);
        REQUIRE(d.ok());
        REQUIRE(write(d->fd.get(), greeting, std::strlen(greeting)) >= 0);
        if (*greeting == 0) continue;  // closed without a word
        CHECK(a.until([&] { return hung_up(d->fd.get()); }));
    }
    // Memory that is too small, or that may become so.
    auto small = transport::shm::make_memfd("small", 4096);
    REQUIRE(small.ok());
    UniqueFd unsealed(memfd_create("unsealed", MFD_CLOEXEC));
    REQUIRE(ftruncate(unsealed.get(), 1 << 20) == 0);
    for (const UniqueFd* memory : {&*small, &unsealed}) {
        auto d = transport::dial_unix(name);
        REQUIRE(d.ok());
        greet(d->fd.get(), *memory);
        CHECK(a.until([&] { return hung_up(d->fd.get()); }));
    }
}

TEST_CASE("a page full of nonsense is no rail's, and harms nobody") {
    One a(1);
    auto page = transport::shm::make_memfd("nonsense", Neighbours::page_bytes());
    REQUIRE(page.ok());
    std::vector<uint8_t> nonsense(Neighbours::page_bytes(), 0xff);
    REQUIRE(write(page->get(), nonsense.data(), nonsense.size()) == static_cast<ssize_t>(nonsense.size()));
    size_t before = a.all->count();
    auto d = transport::dial_unix(name_of(a.all->number()));
    REQUIRE(d.ok());
    greet(d->fd.get(), *page);
    CHECK(a.until([&] { return a.all->count() > before; }));
    for (const std::string& rail_name : {rail(), std::string(47, '\xff'), std::string(48, '\xff')}) {
        RailUse use = a.all->others(rail_name, monotonic_now());
        CHECK(use.in_flight == 0);
        CHECK(use.arrived == 0);
    }
}

TEST_CASE("who could not be met at the start is met later") {
    One a(1);
    Result<UniqueFd> late = Status{Code::closed, "none yet"};
    for (uint32_t n = Neighbours::kNames; n-- > 0 && !late.ok();) late = transport::listen_unix(name_of(n));
    REQUIRE(late.ok());
    Nanos now = monotonic_now();
    UniqueFd knocked;
    for (uint32_t n = 0; n < Neighbours::kNames && !knocked; ++n) {
        a.all->look(now += kSecond);
        knocked = transport::accept_one(late->get());
    }
    CHECK(bool(knocked));
    // Once is enough.
    for (uint32_t n = 0; n < Neighbours::kNames; ++n) a.all->look(now += kSecond);
    CHECK(!transport::accept_one(late->get()));
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
