#include "engine/neighbours.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "transport/socket.h"

namespace tent::engine {

namespace {

constexpr size_t kName = 48;  // of a rail; longer ones are not shared
constexpr uint32_t kVersion = 1;
constexpr Nanos kFresh = 100 * kMillisecond;  // older news of bytes in flight is none
constexpr Nanos kLook = 10 * kMillisecond;    // from one knock to the next
// More than this is in no rail's flight, and arrives nowhere between two looks.
constexpr uint64_t kCredible = uint64_t{1} << 36;

struct Greeting {
    char magic[8] = {'T', 'E', 'N', 'T', 'R', 'A', 'I', 'L'};
    uint32_t version = kVersion;
    uint32_t number = 0;  // in its name
    Id128 who{};
};

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
    Rail rail[kRails];
};

struct Neighbours::Neighbour final : PollHandler {
    Neighbour(Neighbours& a, UniqueFd f, uint32_t n) : of(a), fd(std::move(f)), number(n) {}
    ~Neighbour() override { of.poller_.remove(token, fd.get()); }
    void on_ready(uint32_t events) override;
    bool greeted();

    Neighbours& of;
    UniqueFd fd;
    Poller::Token token = 0;
    uint32_t number;  // in its name, as far as is known; kNames: not
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
    if (hello.number < kNames) number = hello.number;
    memory = std::move(*map);
    return true;
}

Neighbours::Neighbours(Poller& poller, const Id128& me) : poller_(poller), me_(me) {}

Neighbours::~Neighbours() {
    all_.clear();
    poller_.remove(token_, listener_.get());
}

// A name is taken before anybody is asked after: of two that start at once, one at least finds the other.
Status Neighbours::open() {
    if (Status s = make_page(); !s.ok()) return s;
    for (uint32_t n = 0; n < kNames && !listener_; ++n) {
        auto listener = transport::listen_unix(name_of(n));
        if (!listener.ok()) continue;
        listener_ = std::move(*listener);
        number_ = n;
        token_ = poller_.add(listener_.get(), EPOLLIN, this);
    }
    for (uint32_t n = 0; n < kNames; ++n) knock(n);
    return Status::good();
}

std::string Neighbours::name_of(uint32_t number) const {
    return "tent-rails-" + std::to_string(geteuid()) + "-" + std::to_string(number);
}

// Whoever was busy, full or out of descriptors when it was knocked at is not missed for good.
void Neighbours::look(Nanos now) {
    if (now - looked_at_ < kLook) return;
    looked_at_ = now;
    knock(next_);
    next_ = (next_ + 1) % kNames;
}

void Neighbours::knock(uint32_t number) {
    if (number == number_ || all_.size() >= kConnections) return;
    if (std::any_of(all_.begin(), all_.end(), [&](const auto& n) { return n->number == number; })) return;
    auto dialled = transport::dial_unix(name_of(number));
    if (dialled.ok()) meet(std::move(dialled->fd), number);
}

size_t Neighbours::page_bytes() {
    return sizeof(Page);
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

void Neighbours::on_ready(uint32_t) {
    UniqueFd fd = transport::accept_one(listener_.get());
    if (fd && all_.size() < kConnections) meet(std::move(fd), kNames);
    if (!fd && (errno == EMFILE || errno == ENFILE)) {  // lest it be knocked at for ever: we knock ourselves
        poller_.remove(std::exchange(token_, 0), listener_.get());
        listener_.reset();
        number_ = kNames;
    }
}

void Neighbours::meet(UniqueFd fd, uint32_t number) {
    if (!same_user(fd.get()) || !introduce(fd.get())) return;
    auto n = std::make_unique<Neighbour>(*this, std::move(fd), number);
    n->token = poller_.add(n->fd.get(), EPOLLIN, n.get());
    all_.push_back(std::move(n));
}

bool Neighbours::introduce(int fd) const {
    Greeting hello;
    hello.who = me_;
    hello.number = number_;
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

bool Neighbours::first_of(size_t index) const {
    const Neighbour& one = *all_[index];
    if (!one.memory || one.who == me_) return false;
    return std::none_of(all_.begin(), all_.begin() + static_cast<std::ptrdiff_t>(index),
                        [&](const auto& n) { return bool(n->memory) && n->who == one.who; });
}

size_t Neighbours::count() const {
    size_t sum = 0;
    for (size_t i = 0; i < all_.size(); ++i) sum += first_of(i) ? 1 : 0;
    return sum;
}

void Neighbours::publish(const std::string& rail, uint64_t in_flight, uint64_t arrived, Nanos now) {
    if (page_ == nullptr || rail.empty() || rail.size() >= kName) return;
    uint32_t rails = page_->rails.load(std::memory_order_relaxed), i = 0;
    while (i < rails && rail != page_->rail[i].name) ++i;
    if (i == kRails) return;
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
        if (!first_of(n)) continue;
        Neighbour& other = *all_[n];
        const Page& page = *reinterpret_cast<const Page*>(other.memory.address());
        Nanos age = now - page.written.load(std::memory_order_acquire);
        size_t rails = std::min<size_t>(page.rails.load(std::memory_order_acquire), kRails);
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
