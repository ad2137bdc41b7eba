// A session's RDMA links: one for each pair of rails that both have a port, beside the TCP link of that pair.
#include <algorithm>

#include "base/log.h"
#include "engine/engine.h"
#include "engine/peer.h"
#include "transport/rdma/channel.h"

namespace tent::engine {

namespace {
// A TCP link waits so long for the RDMA link beside it, so that it is known which of them leads.
constexpr Nanos kRdmaFirst = 300 * kMillisecond;
constexpr Nanos kAskAgain = 5 * kSecond;  // after one end said that it has no port, or no memory for it
}  // namespace

// Both ends have a device: said when the control connection opens.
void Peer::meet_verbs() {
    if (engine_.fabric() == nullptr || (control_->peer().capabilities & proto::kVerbs) == 0) return;
    if (!rdma_)
        rdma_ =
            std::make_unique<transport::rdma::Initiator>(*engine_.fabric(), *this, descriptor_.incarnation);
    rdma_->ask_again();
}

void Peer::make_rdma_links(Nanos now) {
    if (!rdma_) return;
    size_t locals = engine_.rails().size(), remotes = descriptor_.rails.size();
    if (locals == 0 || remotes == 0) return;
    for (size_t i = 0; i < std::max(locals, remotes); ++i) {
        size_t from = i % locals, to = i % remotes;
        bool known = std::any_of(links_.begin(), links_.end(),
                                 [&](const Link& l) { return l.is_rdma && l.from == from && l.to == to; });
        const LocalRail& local = engine_.rails()[from];
        std::string why;
        if (known || engine_.fabric()->port_of(local.address.host, why) == nullptr) continue;
        const RailAddress& remote = descriptor_.rails[to];
        Link l;
        l.is_rdma = true;
        l.since = now;
        l.from = from;
        l.to = to;
        l.local = local.rail;
        l.remote = engine_.remote_rail(descriptor_.name, remote.address.text());
        l.name = descriptor_.name + "/" + local.name + "-" + remote.name + "/rdma";
        l.rail = local.name;
        l.peer_rail = remote.name;
        links_.push_back(std::move(l));
    }
}

Peer::Link* Peer::rdma_beside(const Link& link) {
    for (Link& l : links_) {
        if (l.is_rdma && l.from == link.from && l.to == link.to) return &l;
    }
    return nullptr;
}

bool Peer::waits_for_rdma(const Link& link, Nanos now) {
    if (link.is_rdma || link.id != kNoId) return false;
    const Link* beside = rdma_beside(link);
    bool undecided =
        beside != nullptr && beside->id == kNoId && !beside->refused && now - beside->since < kRdmaFirst;
    if (undecided) engine_.wake_at(beside->since + kRdmaFirst);
    return undecided;
}

// Null: the rail has no port now.
std::unique_ptr<transport::LinkChannel> Peer::make_channel(const Link& l, transport::Sink& sink) {
    if (!l.is_rdma) {
        return std::make_unique<transport::tcp::TcpChannel>(engine_.poller(), l.route, l.local,
                                                            &Peer::handshake, this, *this, sink);
    }
    std::string why;
    const transport::rdma::Port* port = engine_.fabric()->port_of(engine_.rails()[l.from].address.host, why);
    Id128 towards{};
    if (port == nullptr || !transport::rdma::gid_of(descriptor_.rails[l.to].address.host, towards))
        return nullptr;
    return std::make_unique<transport::rdma::RdmaChannel>(*rdma_, *port, towards, l.name, sink);
}

void Peer::rdma_down(Link& l, const Status& why) {
    bool hopeless = why.code() == Code::unsupported || why.code() == Code::no_memory;
    if (!hopeless) return;
    l.refused = true;
    l.next_dial = monotonic_now() + kAskAgain;
    engine_.wake_at(monotonic_now());  // the TCP link beside it need not wait any more
}

bool Peer::carried_by_rdma(const Transfer& t) const {
    if (!t.epoch_.empty() && std::any_of(t.epoch_.begin(), t.epoch_.end(), [](uint32_t e) { return e != 0; }))
        return false;
    return std::all_of(t.segment_.begin(), t.segment_.end(), [&](SegmentId id) {
        auto s = std::find_if(segments_.begin(), segments_.end(), [&](const auto& i) { return i.id == id; });
        return s == segments_.end() || s->kind == proto::SegmentKind::memfd ||
               s->kind == proto::SegmentKind::region;
    });
}

void Peer::ports_changed() {
    Nanos now = monotonic_now();
    for (Link& l : links_) {
        if (!l.is_rdma || l.asleep) continue;
        std::string reason;
        if (engine_.fabric()->port_of(engine_.rails()[l.from].address.host, reason) != nullptr) {
            l.refused = false;
            l.next_dial = l.dial_backoff = 0;
            if (l.id != kNoId && !l.channel && !l.probe) dial(l, now);
            continue;
        }
        Status why{Code::link_failed, "rail " + l.rail + ": " + reason};
        for (auto* ch : l.channels()) {
            if (!*ch) continue;
            transport::LinkChannel* lost = ch->get();
            lost->close(why);
            channel_down(lost, why);
        }
    }
    rails_changed();
}

}  // namespace tent::engine
