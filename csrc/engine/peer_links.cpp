// A session's links: shared memory, and the pairs of rails that TCP connections are dialled over.
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>

#include "base/log.h"
#include "engine/engine.h"
#include "engine/peer.h"

namespace tent::engine {

using transport::Channel;
using transport::FrameStream;

namespace {

constexpr Nanos kRedial = 50 * kMillisecond;
constexpr Nanos kRedialSlow = kSecond;
// The other end of a wire learns of its carrier at about the same time as we do, and drops what comes before.
constexpr Nanos kCarrierSettles = 10 * kMillisecond;
// A rail without a working link for so long is given another one.
constexpr Nanos kCoverAfter = 200 * kMillisecond;
constexpr uint8_t kMemoryTier = 0;

// Proves that we may read the peer's memory, and that `pid` is the process that wrote the descriptor.
bool can_read_memory(pid_t pid, uint64_t address, const Id128& expected) {
    Id128 got{};
    iovec local{got.data(), got.size()}, remote{reinterpret_cast<void*>(address), got.size()};
    ssize_t n = process_vm_readv(pid, &local, 1, &remote, 1, 0);
    return n == static_cast<ssize_t>(got.size()) && got == expected;
}

}  // namespace

// The owner is on this host, and its control connection is a unix socket.
void Peer::make_shm(FrameStream& stream) {
    ucred cred{};
    socklen_t size = sizeof cred;
    bool known = getsockopt(stream.fd(), SOL_SOCKET, SO_PEERCRED, &cred, &size) == 0 && cred.pid > 0;
    if (!known) {
        log(LogLevel::info,
            "peer '" + descriptor_.name +
                "': its process is in a pid namespace that ours does not see; going over TCP");
        return;
    }
    pidfd_owner_ = UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, cred.pid, 0)));
    pidfd_ = pidfd_owner_.get();
    bool pull = engine_.settings().pull &&
                can_read_memory(cred.pid, descriptor_.probe_address, descriptor_.incarnation);
    if (!pull && engine_.settings().pull) {
        log(LogLevel::info, "peer '" + descriptor_.name +
                                "': process_vm_readv is not permitted; its private memory goes over TCP");
    }
    shm_shell_ = shell("shm", "memory", "memory");
    shm_ = std::make_unique<transport::shm::ShmChannel>(
        *this, shm_shell_ ? static_cast<transport::Sink&>(*shm_shell_) : engine_, engine_.copier(), cred.pid,
        pidfd_, pull);
    if (shm_shell_) shm_shell_->wrap(*shm_);
}

// Null unless something stands before this engine's channels.
std::unique_ptr<transport::Shell> Peer::shell(const char* transport, const std::string& rail,
                                              const std::string& theirs) {
    transport::Decorator* decorator = engine_.settings().decorator.get();
    if (decorator == nullptr) return nullptr;
    return decorator->shell({transport, engine_.name(), rail, descriptor_.name, theirs}, engine_);
}

Channel* Peer::memory_channel() const {
    return shm_shell_ ? static_cast<Channel*>(shm_shell_.get()) : shm_.get();
}

void Peer::open_shm() {
    if (!shm_) return;
    Status s = shm_->open();
    if (!s.ok()) {
        log(LogLevel::warning, "peer '" + descriptor_.name + "': no shared memory: " + s.message());
        shm_shell_.reset();
        shm_.reset();
        return;
    }
    shm_->set_segments(&segments_);
    sched::LinkSpec spec;
    spec.peer = index_;
    spec.local = engine_.memory_rail();
    spec.remote = engine_.memory_rail();
    spec.tier = kMemoryTier;
    spec.max_attempts = static_cast<uint32_t>(2 * (engine_.copier().threads() + 1));
    spec.name = descriptor_.name + "/shm";
    shm_link_ = engine_.add_link(spec, this);
    Link l;
    l.id = shm_link_;
    l.is_shm = true;
    l.local = l.remote = engine_.memory_rail();
    l.name = spec.name;
    links_.push_back(std::move(l));
}

bool Peer::any_link_up() const {
    return std::any_of(links_.begin(), links_.end(),
                       [](const Link& l) { return l.channel && l.channel->up(); });
}

// Same-index pairs of rails carry (local i with remote i modulo their number); what comes later joins them.
// Several connections of one pair are links of their own: a switch may lose one of them, and they share their
// rails' rate.
void Peer::make_links() {
    if (!engine_.settings().tcp) return;
    size_t locals = engine_.rails().size(), remotes = descriptor_.rails.size();
    if (locals == 0 || remotes == 0 || (locals == local_rails_ && remotes == remote_rails_)) return;
    local_rails_ = locals;
    remote_rails_ = remotes;
    for (size_t i = 0; i < std::max(locals, remotes); ++i) {
        for (int path = 0; path < engine_.settings().connections; ++path)
            make_link(i % locals, i % remotes, path, false);
    }
}

void Peer::make_link(size_t from, size_t to, int path, bool cross) {
    for (Link& l : links_) {
        if (l.is_shm || l.is_rdma || l.from != from || l.to != to || l.path != path) continue;
        l.cross = l.cross && cross;
        l.waking = l.waking || l.asleep;
        l.asleep = false;
        return;
    }
    const LocalRail& local = engine_.rails()[from];
    const RailAddress& remote = descriptor_.rails[to];
    Link l;
    l.from = from;
    l.to = to;
    l.path = path;
    l.cross = cross;
    l.local = local.rail;
    l.remote = engine_.remote_rail(descriptor_.name, remote.address.text());
    l.name = descriptor_.name + "/" + local.name + "-" + remote.name;
    l.rail = local.name;
    l.peer_rail = remote.name;
    if (path > 0) l.name.append("#").append(std::to_string(path + 1));
    l.route.to = remote.address;
    l.route.options = engine_.socket_options();
    if (!local.loopback) l.route.from = {local.address.host, engine_.device_towards(local, remote.address)};
    links_.push_back(std::move(l));
}

// Whether both of its rails have another link that works.
bool Peer::covered(const Link& link) const {
    bool from = false, to = false;
    for (const Link& l : links_) {
        if (l.is_shm || l.cross || l.id == kNoId || !engine_.link_is_up(l.id)) continue;
        from = from || l.from == link.from;
        to = to || l.to == link.to;
    }
    return from && to;
}

// Whether it serves its rails, or may soon: what has only just been dialled or lost is waited for.
bool Peer::covers(Link& l, Nanos now) const {
    if (l.is_shm || l.asleep) return false;
    if (l.cross) return true;
    if (l.id != kNoId && engine_.link_is_up(l.id)) {
        l.lost_at = 0;
        return true;
    }
    if (l.lost_at == 0) l.lost_at = now;
    return engine_.rails()[l.from].alive && now - l.lost_at < kCoverAfter;
}

// A rail whose own partner is lost still carries, towards another one, where that can be reached by its
// device.
void Peer::cover_rails(Nanos now) {
    for (Link& l : links_) {
        if (l.cross && !l.asleep && covered(l))
            sleep(l, {Code::link_failed, "both of its rails have their own links"});
    }
    std::vector<uint8_t> from(local_rails_), to(remote_rails_);  // that have a link, or may soon have one
    for (Link& l : links_) {
        if (covers(l, now)) from[l.from] = to[l.to] = 1;
    }
    auto best = [](const std::vector<uint8_t>& have) {
        return static_cast<size_t>(std::find(have.begin(), have.end(), 1) - have.begin());
    };
    size_t any_from = best(from), any_to = best(to);
    for (size_t i = 0; i < from.size(); ++i) {
        if (!from[i] && engine_.rails()[i].alive && any_to < to.size()) make_link(i, any_to, 0, true);
    }
    for (size_t i = 0; i < to.size(); ++i) {
        if (!to[i] && any_from < from.size()) make_link(any_from, i, 0, true);
    }
}

void Peer::sleep(Link& l, const Status& why) {
    l.asleep = true;
    for (auto* ch : l.channels()) {
        if (!*ch) continue;
        (*ch)->close(why);
        retired_.push_back(std::move(*ch));
    }
    l.waking = false;
    if (l.id != kNoId) engine_.link_asleep(l.id);
}

// A link without work costs both sides a descriptor. What waits for a link is work, too.
void Peer::close_idle_links(Nanos now) {
    if (!want_tcp_ || !attempts_.empty() || now - last_used_ < engine_.settings().idle_close) return;
    if (engine_.has_transfers(*this)) return;
    want_tcp_ = false;
    for (Link& l : links_) {
        if (!l.is_shm && !l.asleep) sleep(l, {Code::link_failed, "closed for want of work"});
    }
}

void Peer::wake_links() {
    last_used_ = monotonic_now();
    if (std::exchange(want_tcp_, true)) return;
    for (Link& l : links_) {
        l.waking = l.asleep && !l.cross;
        l.asleep = l.asleep && l.cross;
        l.lost_at = l.next_dial = l.dial_backoff = 0;
    }
}

void Peer::rails_changed() {
    if (want_tcp_ && state_ == PeerState::alive) dial_links(monotonic_now());
}

void Peer::set_rails(const std::vector<RailAddress>& rails) {
    // A rail keeps its index: links name it. What the peer does not list any more ends by its silence.
    for (const RailAddress& r : rails) {
        bool known = std::any_of(descriptor_.rails.begin(), descriptor_.rails.end(),
                                 [&](const auto& k) { return k.address == r.address; });
        if (!known) descriptor_.rails.push_back(r);
    }
    rails_changed();
}

void Peer::rail_changed(const LocalRail& rail) {
    Nanos now = monotonic_now();
    for (Link& l : links_) {
        if (l.is_shm || l.local != rail.rail || l.asleep) continue;
        if (rail.alive) {
            l.dial_backoff = 0;
            l.next_dial = l.back_at = now + kCarrierSettles;
            engine_.wake_at(l.back_at);
            continue;
        }
        Status why{Code::link_failed, "interface " + rail.name + " is down"};
        for (auto* ch : l.channels()) {
            if (!*ch) continue;
            transport::LinkChannel* lost = ch->get();
            lost->close(why);
            channel_down(lost, why);
        }
    }
    rails_changed();
}

void Peer::dial(Link& l, Nanos now) {
    // Where the kernel says that there is no carrier, asking for the neighbour's address in vain would make
    // it wait a second before it asks again, with the carrier back meanwhile: rail_changed() dials then.
    if (!engine_.rails()[l.from].alive || now < l.back_at) {
        l.next_dial = std::max(now + kRedialSlow, l.back_at);
        return;
    }
    l.back_at = 0;
    dialling_ = true;
    bool room = l.is_rdma || engine_.make_room(now);
    dialling_ = false;
    if (!room && any_link_up()) {  // another one more can wait until something is idle
        l.next_dial = now + kRedialSlow;
        engine_.wake_at(l.next_dial);
        return;
    }
    auto before = shell(l.is_rdma ? "rdma" : "tcp", l.rail, l.peer_rail);
    auto channel = make_channel(l, before ? static_cast<transport::Sink&>(*before) : engine_);
    if (!channel) {
        l.next_dial = now + kRedialSlow;
        return;
    }
    if (before) {
        before->wrap(std::move(channel));
        channel = std::move(before);
    }
    l.dial_backoff = std::clamp(l.dial_backoff * 2, kRedial, kRedialSlow);
    l.next_dial = now + l.dial_backoff;
    engine_.wake_at(l.next_dial);
    Status s = channel->dial();
    if (!s.ok()) return;
    auto& place = l.id == kNoId ? l.channel : l.probe;
    if (place) {
        if (!l.earlier) {
            l.earlier = std::move(place);
        } else {
            place->close({Code::link_failed, "no answer, and dialled again"});
            retired_.push_back(std::move(place));
        }
    }
    place = std::move(channel);
}

void Peer::dial_links(Nanos now) {
    make_links();
    make_rdma_links(now);
    if (was_up_) cover_rails(now);
    for (Link& l : links_) {
        if (l.is_shm || l.asleep) continue;
        for (auto* ch : l.channels()) {
            if (!*ch || (*ch)->up() || now - (*ch)->dialled_at() <= engine_.settings().connect_timeout)
                continue;
            Status why{Code::link_failed, "no answer in time"};
            (*ch)->close(why);
            channel_down(ch->get(), why);  // it is not told by a close of our own, and is to be dialled again
        }
        bool wanted = l.id == kNoId || l.waking || (l.back_at != 0 && now >= l.back_at);
        if (wanted && !l.channel && !l.probe && now >= l.next_dial && !waits_for_rdma(l, now)) dial(l, now);
    }
}

bool Peer::exposes(SegmentId segment) const {
    return std::any_of(segments_.begin(), segments_.end(), [&](const auto& s) { return s.id == segment; });
}

std::optional<Peer::Ways> Peer::ways_for(const Transfer& t, Status& hopeless) {
    if (state_ == PeerState::dead) {
        hopeless = why_;
        return std::nullopt;
    }
    wake();
    if (dead()) hopeless = why_;
    if (state_ != PeerState::alive) return std::nullopt;  // comes back here once the session is open
    bool by_shm = shm_ != nullptr;
    for (size_t i = 0; i < t.segment_.size(); ++i) {
        auto it = std::find_if(segments_.begin(), segments_.end(),
                               [&](const auto& s) { return s.id == t.segment_[i]; });
        if (it == segments_.end()) continue;  // refused by the owner, by name
        by_shm = by_shm && shm_->reaches(*it, t.op_);
    }
    if (by_shm) return Ways{kMemoryTier, {}};
    if (!engine_.settings().tcp) {
        hopeless = {Code::unsupported, "shared memory does not reach that segment and tcp.enabled is false"};
        return std::nullopt;
    }
    wake_links();
    dial_links(monotonic_now());
    Ways ways{kNetworkTier, {}};
    bool any_rdma = false;
    for (const Link& l : links_) {
        if (l.is_shm || l.id == kNoId) continue;
        any_rdma = any_rdma || l.is_rdma;
        if (!l.is_rdma) ways.links.push_back(l.id);
    }
    bool all = !any_rdma || carried_by_rdma(t);
    if (ways.links.empty() && !(all && any_rdma)) return std::nullopt;
    if (all) ways.links.clear();
    std::sort(ways.links.begin(), ways.links.end());
    return ways;
}

bool Peer::forget_links() {
    for (Link& l : links_) {
        if (l.id != kNoId && !engine_.forget_link(l.id)) return false;
        l.id = kNoId;
    }
    return true;
}

Peer::Link* Peer::link_of(LinkId id) {
    for (Link& l : links_) {
        if (l.id == id) return &l;
    }
    return nullptr;
}

Channel* Peer::channel_of(LinkId id) {
    Link* l = link_of(id);
    if (l == nullptr) return nullptr;
    if (l->is_shm) return memory_channel();
    return l->channel.get();
}

bool Peer::owns(const Channel* channel) const {
    if (memory_channel() == channel) return true;
    return std::any_of(links_.begin(), links_.end(), [&](const Link& l) {
        return l.channel.get() == channel || l.probe.get() == channel || l.earlier.get() == channel;
    });
}

void Peer::channel_up(Channel* channel) {
    for (Link& l : links_) {
        if (l.channel.get() == channel && l.id == kNoId) {
            sched::LinkSpec spec;
            spec.peer = index_;
            spec.local = l.local;
            spec.remote = l.remote;
            Link* beside = l.is_rdma ? nullptr : rdma_beside(l);
            spec.tier = beside != nullptr && !beside->refused ? kBehindRdma : kNetworkTier;
            spec.name = l.name;
            l.id = engine_.add_link(spec, this);
            was_up_ = true;
            l.dial_backoff = 0;
            engine_.peer_changed(*this);
            return;
        }
        if (l.probe.get() == channel || l.earlier.get() == channel) {
            if (l.channel) retired_.push_back(std::move(l.channel));
            bool late = l.earlier.get() == channel;
            l.channel = std::move(late ? l.earlier : l.probe);
            if (auto& other = late ? l.probe : l.earlier) {
                other->close({Code::link_failed, "another one came through"});
                retired_.push_back(std::move(other));
            }
            l.waking = false;
            l.dial_backoff = 0;
            engine_.link_probe(l.id, true);
            return;
        }
    }
}

void Peer::channel_down(Channel* channel, const Status& why) {
    if (channel == memory_channel()) {
        if (shm_link_ != kNoId) engine_.link_down(shm_link_);
        return;
    }
    for (Link& l : links_) {
        if (l.channel.get() == channel) {
            log(LogLevel::info, "link " + l.name + " is down: " + why.message());
            if (l.is_rdma) rdma_down(l, why);
            retired_.push_back(std::move(l.channel));
            if (l.id != kNoId) engine_.link_down(l.id);
            return;
        }
        for (auto* probe : {&l.probe, &l.earlier}) {
            if (probe->get() != channel) continue;
            if (l.is_rdma) rdma_down(l, why);
            retired_.push_back(std::move(*probe));
            engine_.link_probe(l.id, false);
            return;
        }
    }
}

void Peer::link_state(LinkId, sched::LinkState state) {
    if (state == sched::LinkState::up || state == sched::LinkState::probation) return;
    repeat_revokes();
    keep_control_alive(monotonic_now());
}

void Peer::probe(LinkId id) {
    Link* l = link_of(id);
    if (l == nullptr) return;
    if (l->is_shm)
        return engine_.link_probe(id, state_ == PeerState::alive && (!shm_shell_ || shm_shell_->up()));
    if (l->asleep) return;
    if (state_ != PeerState::alive) return engine_.link_probe(id, false);
    dial(*l, monotonic_now());
    if (!l->probe) engine_.link_probe(id, false);
}

}  // namespace tent::engine
