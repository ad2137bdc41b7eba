// The engine's rails: which interfaces they are, listening on them, and what becomes of them.
#include <fnmatch.h>

#include <algorithm>

#include "base/log.h"
#include "engine/door.h"
#include "engine/engine.h"
#include "transport/interfaces.h"

namespace tent::engine {

using transport::FrameStream;
using transport::Interface;

namespace {

bool matches(const std::vector<std::string>& patterns, const std::string& name) {
    return std::any_of(patterns.begin(), patterns.end(),
                       [&](const std::string& p) { return fnmatch(p.c_str(), name.c_str(), 0) == 0; });
}

bool is_loopback(const std::string& address) {
    return address.starts_with("127.") || address == "::1";
}

}  // namespace

Status Engine::listen() {
    if (settings_.shm) {
        char text[33];
        for (size_t i = 0; i < 16; ++i) snprintf(text + 2 * i, 3, "%02x", incarnation_[i]);
        unix_name_ = std::string("tent-") + text;
        auto fd = transport::listen_unix(unix_name_);
        if (!fd.ok()) return fd.status();
        door_->add(std::move(*fd));
    }
    if (!settings_.tcp) return Status::good();
    watch_ = std::make_unique<transport::InterfaceWatch>(poller_, [this] { interfaces_changed(); });
    Status watched = watch_->open();
    if (!watched.ok()) log(LogLevel::info, watched.message());
    interfaces_ = transport::interfaces();  // not before there is news of them
    watched_ = watched.ok();
    const std::vector<Interface>& known = interfaces_;
    std::vector<Interface> use;
    for (const std::string& address : settings_.bind) {
        Interface i{address, address, is_loopback(address), true};
        for (const auto& k : known) {
            if (k.address == address) i = k;
        }
        if (settings_.secret.empty() && !i.loopback) {
            return {Code::auth_failed,
                    "node.bind names " + address +
                        ", but there is no cluster.secret: without one "
                        "TENT listens on loopback only. Set cluster.secret or cluster.secret_file"};
        }
        use.push_back(i);
    }
    if (settings_.bind.empty()) use = discover(known);
    if (use.empty()) use.push_back({"lo", "127.0.0.1", true, true});
    for (const auto& i : use) {
        if (Status s = add_rail(i); !s.ok()) return s;
    }
    open_fabric();
    meet_neighbours();
    return Status::good();
}

// The RDMA ports of the rails, where there are any.
void Engine::open_fabric() {
    if (!settings_.rdma) return;
    fabric_ =
        std::make_unique<transport::rdma::Fabric>(poller_, settings_.verbs, regions_, incarnation_, [this] {
            for (const auto& p : peers_) {
                if (p && !p->dead()) p->ports_changed();
            }
        });
    std::string why;
    for (const LocalRail& rail : rails_) fabric_->port_of(rail.address.host, why);
    if (!fabric_->any()) fabric_.reset();
}

void Engine::meet_neighbours() {
    if (!settings_.share_rails || neighbours_) return;
    bool worth = std::any_of(rails_.begin(), rails_.end(),
                             [&](const LocalRail& r) { return !r.loopback || settings_.share_loopback; });
    if (!worth) return;
    neighbours_ = std::make_unique<Neighbours>(poller_, incarnation_);
    if (Status s = neighbours_->open(); !s.ok()) {
        log(LogLevel::info, "rails are not shared with other engines of this host: " + s.message());
        neighbours_.reset();
    }
}

// Every millisecond while there is work, and at once when there is none any more.
void Engine::share_rails(Nanos now) {
    if (!neighbours_) return;
    bool working = !posted_.empty();
    if (now - shared_at_ < kMillisecond && working == shared_busy_) return;
    shared_at_ = now;
    shared_busy_ = working;
    if (working) neighbours_->look(now);
    bool alone = neighbours_->count() == 0;
    for (LocalRail& rail : rails_) {
        if ((rail.loopback && !settings_.share_loopback) || (alone && !rail.shared)) continue;
        sched::RailView own = sprayer_.rail(rail.rail);
        neighbours_->publish(rail.name, own.in_flight, own.delivered, now);
        RailUse use = neighbours_->others(rail.name, now);
        bool busy = use.in_flight != 0 || use.arrived != 0;
        rail.others = use.in_flight;
        if (!std::exchange(rail.shared, busy) && !busy) continue;
        sprayer_.rail_shared(rail.rail, use.in_flight, use.arrived, now);
    }
}

// Without the kernel's news they are asked for each time.
const std::vector<Interface>& Engine::interfaces() {
    if (!watched_) interfaces_ = transport::interfaces();
    return interfaces_;
}

// The first IPv4 address of every interface that the settings let in. With no secret, nobody outside this
// host may even knock.
std::vector<Interface> Engine::discover(const std::vector<Interface>& known) const {
    std::vector<Interface> found;
    for (const Interface& i : known) {
        if (i.loopback || settings_.secret.empty() || i.address.find(':') != std::string::npos) continue;
        if (!settings_.include.empty() && !matches(settings_.include, i.name)) continue;
        if (matches(settings_.exclude, i.name)) continue;
        bool again = std::any_of(found.begin(), found.end(), [&](const auto& f) { return f.name == i.name; });
        if (!again) found.push_back(i);
    }
    return found;
}

Status Engine::add_rail(const Interface& i) {
    LocalRail rail;
    rail.address = {i.address, settings_.port};
    auto fd = transport::listen_tcp(rail.address, socket_options(), rail.address.port);
    if (!fd.ok()) return fd.status();
    door_->add(std::move(*fd));
    rail.name = i.name;
    rail.loopback = i.loopback;
    // What the settings say, or else the link's speed; measurements take over from both.
    auto rate = settings_.rail_rates.find(i.name);
    bool said = rate != settings_.rail_rates.end();
    rail.rail = sprayer_.add_rail({i.name, said ? rate->second : transport::speed_of(i.name)});
    rails_.push_back(std::move(rail));
    return Status::good();
}

// The kernel's word is believed at once: a rail that it says is down carries nothing, and one that is back is
// tried.
void Engine::interfaces_changed() {
    interfaces_ = transport::interfaces();
    if (fabric_) fabric_->refresh();
    const std::vector<Interface>& known = interfaces_;
    for (LocalRail& rail : rails_) {
        if (rail.loopback || rail.name == rail.address.host) continue;  // not the address of an interface
        bool alive = std::any_of(known.begin(), known.end(), [&](const Interface& k) {
            return k.address == rail.address.host && k.carrier;
        });
        if (std::exchange(rail.alive, alive) == alive) continue;
        log(LogLevel::warning,
            "rail " + rail.name + " (" + rail.address.host + ") is " + (alive ? "back" : "down"));
        for (const auto& p : peers_) {
            if (p && !p->dead()) p->rail_changed(rail);
        }
    }
    if (!settings_.bind.empty()) return;
    for (const Interface& i : discover(known)) {
        bool ours = std::any_of(rails_.begin(), rails_.end(),
                                [&](const LocalRail& r) { return r.address.host == i.address; });
        if (ours || !i.carrier) continue;
        if (Status s = add_rail(i); !s.ok()) {
            log(LogLevel::warning, "interface " + i.name + " is no rail: " + s.message());
            continue;
        }
        log(LogLevel::warning, "rail " + i.name + " (" + i.address + ") is new");
        meet_neighbours();
        for (const auto& p : peers_) {
            if (p && !p->dead()) p->rails_changed();
        }
    }
}

Bytes Engine::descriptor() {
    std::lock_guard token(token_);  // rails come and go
    Descriptor d;
    d.cluster = settings_.cluster;
    d.name = settings_.name;
    d.host = host_;
    d.incarnation = incarnation_;
    d.unix_name = unix_name_;
    d.probe_address = reinterpret_cast<uint64_t>(incarnation_.data());
    for (size_t i = 0; i < rails_.size(); ++i) {
        RailAddress r{rails_[i].address, rails_[i].name};
        if (i < settings_.advertise.size()) r.address.host = settings_.advertise[i];
        d.rails.push_back(r);
    }
    return encode(d);
}

RailId Engine::rail_of(const FrameStream& stream) const {
    std::string host = transport::local_host(stream.fd());
    for (const LocalRail& rail : rails_) {
        if (rail.address.host == host) return rail.rail;
    }
    return host.empty() || rails_.empty() ? memory_rail_
                                          : rails_.front().rail;  // unix socket; wildcard address
}

std::string Engine::device_towards(const LocalRail& rail, const transport::Address& to) {
    const std::vector<Interface>& known = interfaces();
    auto here = [&](const std::string& address) {
        return std::any_of(known.begin(), known.end(), [&](const auto& k) { return k.address == address; });
    };
    return here(to.host) || !here(rail.address.host) ? "" : rail.name;
}

RailId Engine::remote_rail(const std::string& node, const std::string& address) {
    std::string key = node + " " + address;
    auto it = remote_rails_.find(key);
    if (it == remote_rails_.end()) it = remote_rails_.emplace(key, sprayer_.add_rail({key, 0})).first;
    return it->second;
}

}  // namespace tent::engine
