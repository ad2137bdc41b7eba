#include "engine/neighbours.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>

#include "transport/socket.h"

namespace tent::engine {

namespace {

constexpr size_t kName = 48;  // of a rail; longer ones are not shared
constexpr uint32_t kVersion = 1;
constexpr Nanos kFresh = 100 * kMillisecond;  // older news of bytes in flight is none
// More than this is in no rail's flight, and arrives nowhere between two looks.
constexpr uint64_t kCredible = uint64_t{1} << 36;

struct Greeting {
    char magic[8] = {'T', 'E', 'N', 'T', 'R', 'A', 'I', 'L'};
    uint32_t version = kVersion;
    uint32_t reserved = 0;
    Id128 who{};
};

std::string hex(const Id128& id) {
    std::string out;
    for (uint8_t b : id) {
        out += "0123456789abcdef"[b >> 4];
        out += "0123456789abcdef"[b & 15];
    }
    return out;
}

bool same_user(int fd) {
    ucred cred{};
    socklen_t size = sizeof cred;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) == 0 && cred.uid == geteuid();
}

}  // namespace

struct Neighbours::Page {
    struct Rail {
        char name[kName];
        std::atomic<uint64_t> in_flight, arrived;
    };
    std::atomic<uint32_t> rails;  // that have a name
    uint32_t reserved;
    std::atomic<int64_t> written;  // monotonic clock, the same in all processes
    Rail rail[kMost];
};

struct Neighbours::Neighbour final : PollHandler {
    Neighbour(Neighbours& a, UniqueFd f) : of(a), fd(std::move(f)) {}
    ~Neighbour() override { of.poller_.remove(token, fd.get()); }
    void on_ready(uint32_t events) override;
    bool greeted();

    Neighbours& of;
    UniqueFd fd;
    Poller::Token token = 0;
    Id128 who{};
    transport::shm::Mapping memory;
    std::map<std::string, uint64_t> seen;  // what had arrived, by rail
};

// The greeting, then nothing more: the end of the connection is the end of the process.
void Neighbours::Neighbour::on_ready(uint32_t) {
    if (memory) {
        char byte;
        ssize_t n = recv(fd.get(), &byte, 1, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    } else if (greeted()) {
        return;
    }
    of.forget(this);
}

bool Neighbours::Neighbour::greeted() {
    Greeting hello;
    iovec part{&hello, sizeof hello};
    msghdr m{};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * 4)];
    m.msg_iov = &part;
    m.msg_iovlen = 1;
    m.msg_control = control;
    m.msg_controllen = sizeof control;
    ssize_t n = recvmsg(fd.get(), &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0) return errno == EAGAIN || errno == EINTR;
    std::vector<UniqueFd> got;
    for (cmsghdr* c = CMSG_FIRSTHDR(&m); c != nullptr; c = CMSG_NXTHDR(&m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
        size_t fds = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < fds; ++i) {
            int one;
            std::memcpy(&one, CMSG_DATA(c) + i * sizeof one, sizeof one);
            got.emplace_back(one);
        }
    }
    bool understood = n == sizeof hello &&
                      std::memcmp(hello.magic, Greeting().magic, sizeof hello.magic) == 0 &&
                      hello.version == kVersion && got.size() == 1;
    if (!understood) return false;
    auto map = transport::shm::map_foreign(got[0], sizeof(Page), false);
    if (!map.ok()) return false;
    who = hello.who;
    memory = std::move(*map);
    return true;
}

Neighbours::Neighbours(Poller& poller, const Id128& me)
    : poller_(poller),
      me_(me),
      prefix_("tent-rails-" + std::to_string(geteuid()) + "-"),
      name_(prefix_ + hex(me)) {}

Neighbours::~Neighbours() {
    all_.clear();
    poller_.remove(token_, listener_.get());
}

Status Neighbours::open() {
    if (Status s = make_page(); !s.ok()) return s;
    auto listener = transport::listen_unix(name_);
    if (!listener.ok()) return listener.status();
    listener_ = std::move(*listener);
    token_ = poller_.add(listener_.get(), EPOLLIN, this);
    find_others();  // after we can be found: of two that start at once, one at least finds the other
    return Status::good();
}

Status Neighbours::make_page() {
    auto fd = transport::shm::make_memfd("tent-rails", sizeof(Page));
    if (!fd.ok()) return fd.status();
    auto map = transport::shm::map_own(*fd, sizeof(Page), true);
    if (!map.ok()) return map.status();
    auto ro = transport::shm::read_only(*fd);
    if (!ro.ok()) return ro.status();
    page_fd_ = std::move(*fd);
    page_read_only_ = std::move(*ro);
    page_memory_ = std::move(*map);
    page_ = reinterpret_cast<Page*>(page_memory_.address());
    return Status::good();
}

// The kernel lists this network namespace's sockets; abstract ones begin with '@'.
void Neighbours::find_others() {
    std::ifstream list("/proc/net/unix");
    for (std::string line; std::getline(list, line) && all_.size() < kMost;) {
        size_t at = line.rfind('@');
        if (at == std::string::npos || line.compare(at + 1, prefix_.size(), prefix_) != 0) continue;
        std::string name = line.substr(at + 1);
        if (name == name_ || name.size() != name_.size()) continue;
        auto dialled = transport::dial_unix(name);
        if (dialled.ok()) meet(std::move(dialled->fd));
    }
}

void Neighbours::on_ready(uint32_t) {
    UniqueFd fd = transport::accept_one(listener_.get());
    if (fd && all_.size() < kMost) meet(std::move(fd));
    if (!fd && (errno == EMFILE || errno == ENFILE)) {  // lest it knock for ever: later ones do without
        poller_.remove(std::exchange(token_, 0), listener_.get());
        listener_.reset();
    }
}

void Neighbours::meet(UniqueFd fd) {
    if (!same_user(fd.get()) || !introduce(fd.get())) return;
    auto n = std::make_unique<Neighbour>(*this, std::move(fd));
    n->token = poller_.add(n->fd.get(), EPOLLIN, n.get());
    all_.push_back(std::move(n));
}

bool Neighbours::introduce(int fd) const {
    Greeting hello;
    hello.who = me_;
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
    int page = page_read_only_.get();
    std::memcpy(CMSG_DATA(c), &page, sizeof page);
    return sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT) == static_cast<ssize_t>(sizeof hello);
}

void Neighbours::forget(Neighbour* gone) {
    std::erase_if(all_, [&](const auto& n) { return n.get() == gone; });
}

size_t Neighbours::count() const {
    return static_cast<size_t>(
        std::count_if(all_.begin(), all_.end(), [](const auto& n) { return bool(n->memory); }));
}

void Neighbours::publish(const std::string& rail, uint64_t in_flight, uint64_t arrived, Nanos now) {
    if (page_ == nullptr || rail.empty() || rail.size() >= kName) return;
    uint32_t rails = page_->rails.load(std::memory_order_relaxed), i = 0;
    while (i < rails && rail != page_->rail[i].name) ++i;
    if (i == kMost) return;
    Page::Rail& r = page_->rail[i];
    if (i == rails) {
        std::memcpy(r.name, rail.c_str(), rail.size() + 1);
        page_->rails.store(rails + 1, std::memory_order_release);
    }
    r.in_flight.store(in_flight, std::memory_order_relaxed);
    r.arrived.store(arrived, std::memory_order_relaxed);
    page_->written.store(now, std::memory_order_release);
}

RailUse Neighbours::others(const std::string& rail, Nanos now) {
    RailUse sum;
    for (size_t n = 0; n < all_.size(); ++n) {
        Neighbour& other = *all_[n];
        // Two that started at once have found each other twice.
        auto same = [&](const auto& one) { return bool(one->memory) && one->who == other.who; };
        if (!other.memory || std::any_of(all_.begin(), all_.begin() + static_cast<std::ptrdiff_t>(n), same))
            continue;
        const Page& page = *reinterpret_cast<const Page*>(other.memory.address());
        Nanos age = now - page.written.load(std::memory_order_acquire);
        size_t rails = std::min<size_t>(page.rails.load(std::memory_order_acquire), kMost);
        for (size_t i = 0; i < rails; ++i) {
            const Page::Rail& r = page.rail[i];
            if (strnlen(r.name, kName) != rail.size() || std::memcmp(r.name, rail.data(), rail.size()) != 0)
                continue;
            uint64_t in_flight = r.in_flight.load(std::memory_order_relaxed);
            uint64_t arrived = r.arrived.load(std::memory_order_relaxed);
            if (age > -kFresh && age < kFresh) sum.in_flight += std::min(in_flight, kCredible);
            auto [seen, first] = other.seen.try_emplace(rail, arrived);
            uint64_t more = arrived - std::exchange(seen->second, arrived);
            if (!first && more < kCredible) sum.arrived += more;
            break;
        }
    }
    return sum;
}

}  // namespace tent::engine
