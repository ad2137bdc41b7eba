#include "engine/engine.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/fork_guard.h"
#include "base/log.h"
#include "base/switches.h"
#include "engine/door.h"
#include "proto/observe_messages.h"
#include "transport/rdma/channel.h"

namespace tent::engine {

using transport::FrameStream;

void Engine::admit_stream(std::unique_ptr<FrameStream> stream) {
    make_room(monotonic_now());  // for members of the cluster only: no stranger closes anybody's session
    const proto::HandshakeResult& peer = stream->peer();
    OwnerSession* found = nullptr;
    for (auto& [id, s] : sessions_) {
        if (s->session() == peer.session && s->peer().incarnation == peer.peer.incarnation && !s->over())
            found = s.get();
    }
    bool control = peer.purpose == proto::Purpose::control;
    if (found != nullptr && found->closed()) {
        // It is over for good, even where its writer is still waited for: whoever comes back is told, and
        // asks in another session what was asked in vain. Not where it ended otherwise: what was carried out
        // there would be carried out again.
        if (control) {
            proto::Header h;
            h.type = proto::FrameType::bye;
            h.code = static_cast<uint16_t>(found->parked() ? Code::busy : Code::ok);
            stream->send(h, as_bytes("that session has ended: its lease ran out, or it said goodbye"));
            stream->flush();
        }
        door_->refuse(std::move(stream), {Code::closed, "a connection of a session that has ended"});
        return;
    }
    if (found == nullptr) {
        if (!control) {
            door_->refuse(std::move(stream), {Code::protocol, "a data connection of an unknown session"});
            return;
        }
        uint64_t id = next_session_++;
        auto s = std::make_unique<OwnerSession>(*this, id, peer);
        found = s.get();
        sessions_[id] = std::move(s);
    }
    found->attach(std::move(stream));
    wake_at(0);
}

// ---- start and end

Engine::Engine(const Settings& settings)
    : settings_(settings),
      host_(transport::host_identity(settings.host_identity)),
      born_(fork_generation()),
      sprayer_(sched::Settings{.policy = settings.policy,
                               .slice_min = settings.slice_min,
                               .slice_max = settings.slice_max,
                               .hedge_ppm = 10'000 * std::min(settings.hedge_percent, 100u)},
               settings.recorder_bytes),
      responders_(std::max<uint64_t>(settings.slice_min, 1 << 20)) {
    incarnation_ = random_id();
}

Engine::~Engine() {
    close(settings_.lease * 2);
}

Result<std::unique_ptr<Engine>> Engine::create(const Settings& settings) {
    install_fork_guard();
    std::unique_ptr<Engine> e(new Engine(settings));
    if (Status s = e->start(); !s.ok()) {
        e->closed_ = true;
        return s;
    }
    return e;
}

Status Engine::start() {
    if (Status s = poller_.open(); !s.ok()) return s;
    int cores = static_cast<int>(std::thread::hardware_concurrency());
    int threads = settings_.copy_threads > 0 ? settings_.copy_threads : std::clamp(cores / 2, 1, 4);
    copier_ = std::make_unique<transport::shm::Copier>(threads, [this] {
        if (!leading_.load(std::memory_order_relaxed) || std::this_thread::get_id() == thread_.get_id())
            poller_.wake();
    });
    door_ = std::make_unique<Door>(*this);
    if (settings_.decorator) {
        if (Status s = settings_.decorator->start(poller_); !s.ok()) return s;
    }
    memory_rail_ = sprayer_.add_rail({"memory", 4'000'000'000});
    if (Status s = listen(); !s.ok()) return s;
    thread_ = std::thread([this] { loop(); });
    return Status::good();
}

void Engine::close(Nanos timeout) {
    if (closed_.exchange(true)) {
        if (thread_.joinable() && fork_generation() == born_) thread_.join();
        return;
    }
    if (fork_generation() != born_) {  // the threads live in the parent; nothing here is ours to end
        if (thread_.joinable()) thread_.detach();
        copier_.release();  // NOLINT: its destructor would join threads that do not exist in this process
        if (fabric_) fabric_->abandon();
        fabric_.release();  // NOLINT
        return;
    }
    Nanos until = monotonic_now() + timeout;
    {
        std::lock_guard token(token_);
        door_->close();
        std::vector<std::shared_ptr<Transfer>> live;
        for (const auto& [id, t] : transfers_) live.push_back(t);
        for (const auto& t : live) {
            finish(t, {Code::closed, "the engine was closed"}, RangeState::cancelled);
            if (t->in_sprayer_) sprayer_.cancel_flow(t->id_, monotonic_now());
        }
        std::vector<SegmentId> ids;
        for (const auto& [id, s] : registry_.all()) ids.push_back(id);
        for (SegmentId id : ids) {
            if (auto s = registry_.find(id)) revoke_grant(*s);  // an offer goes with its memory
        }
        pump();
    }
    // Attempts are fenced by answers first; when those do not come, by the lease.
    auto quiet = [this] {
        std::lock_guard token(token_);
        std::vector<std::shared_ptr<Transfer>> waiting = waiting_;
        for (const auto& t : waiting) release(t);
        for (const auto& [id, s] : registry_.all()) {
            if (!segment_idle(*s)) return false;
        }
        return transfers_.empty();
    };
    while (protection_on(Protection::drain) && !quiet() && monotonic_now() < until) {
        poller_.wake();
        timespec nap{0, 200 * kMicrosecond};
        nanosleep(&nap, nullptr);
    }
    {
        std::lock_guard token(token_);
        for (auto& p : peers_) {
            if (p) p->close({Code::closed, "node '" + settings_.name + "' closed"});
        }
        for (auto& [id, s] : sessions_) s->close("node '" + settings_.name + "' closed");
        pump();
    }
    stop_ = true;
    poller_.wake();
    {
        std::lock_guard lock(away_mutex_);
        away_cv_.notify_all();
    }
    news_cv_.notify_all();
    if (thread_.joinable()) thread_.join();
    copier_->stop();
    std::lock_guard token(token_);
    drain_copies();
    pump();
    std::vector<std::shared_ptr<Transfer>> left;
    for (const auto& [id, t] : transfers_) left.push_back(t);
    for (const auto& t : left) release(t);
    if (fabric_) fabric_->stop();
    sessions_.clear();
    live_peers_.clear();
    peers_.clear();
    fabric_.reset();  // and with it every registration of memory
    door_.reset();
    neighbours_.reset();
    if (settings_.decorator) settings_.decorator->stop();
}

Status Engine::usable() const {
    if (fork_generation() != born_) {
        return {Code::forked, "this engine belongs to the parent process: make a new one after fork()"};
    }
    if (closed_.load(std::memory_order_relaxed)) return {Code::closed, "the engine was closed"};
    return Status::good();
}

// ---- who we are

Id128 Engine::random_id() {
    Id128 id{};
    size_t got = 0;
    while (got < id.size()) {
        ssize_t n = getrandom(id.data() + got, id.size() - got, 0);
        if (n > 0) got += static_cast<size_t>(n);
    }
    return id;
}

proto::HandshakeConfig Engine::handshake_config() {
    proto::HandshakeConfig c;
    c.self = {settings_.cluster, settings_.name, incarnation_, host_};
    c.secret = settings_.secret;
    c.nonce = random_id();
    c.capabilities = proto::kCredits | (fabric_ ? proto::kVerbs : 0);
    return c;
}

transport::SocketOptions Engine::socket_options() const {
    return {settings_.congestion, settings_.sndbuf, settings_.rcvbuf, settings_.notsent_lowat};
}

// ---- peers

// Waits for something about peers. `settled` is asked with the loop token held, and never with the
// condition's mutex, which finish() takes inside the token.
void Engine::wait_until(const std::function<bool()>& settled, Nanos timeout) {
    Nanos until = monotonic_now() + timeout;
    ++followers_;
    for (;;) {
        {
            std::lock_guard token(token_);
            if (settled()) break;
        }
        if (monotonic_now() >= until) break;
        std::unique_lock lock(done_mutex_);
        done_cv_.wait_for(lock, std::chrono::microseconds(500));
    }
    --followers_;
}

Result<std::shared_ptr<Peer>> Engine::connect(ByteView blob, Nanos timeout) {
    if (Status s = usable(); !s.ok()) return s;
    Result<Descriptor> d = decode_descriptor(blob);
    if (!d.ok()) return d.status();
    if (d->cluster != settings_.cluster) {
        return {Code::cluster_mismatch, "node '" + d->name + "' belongs to cluster '" + d->cluster +
                                            "', we to '" + settings_.cluster +
                                            "': set the same cluster.id on both"};
    }
    std::shared_ptr<Peer> peer;
    {
        std::lock_guard token(token_);
        for (const auto& [index, p] : live_peers_) {
            if (p->descriptor().incarnation == d->incarnation && !p->dead()) peer = p;
        }
        if (peer) {
            peer->set_rails(d->rails);  // they come and go
            peer->wake();
        } else {
            // In the place of one of which nothing is left.
            auto place = std::find(peers_.begin(), peers_.end(), nullptr);
            auto index = static_cast<uint32_t>(place - peers_.begin());
            peer = std::make_shared<Peer>(*this, index, std::move(*d));
            if (place == peers_.end()) peers_.emplace_back();
            peers_[index] = peer;
            live_peers_[index] = peer;
            peer->start(monotonic_now());
            pump();
        }
    }
    poller_.wake();
    // Parked: it was there, and has been closed for want of room since.
    auto met = [&] { return peer->state() == PeerState::alive || peer->state() == PeerState::parked; };
    wait_until([&] { return peer->dead() || (met() && peer->segments_fresh()); }, timeout);
    std::lock_guard token(token_);
    if (peer->dead()) return peer->why_dead();
    if (!met()) {
        Status why{Code::peer_unreachable,
                   "node '" + peer->descriptor().name + "' did not answer in time" +
                       (peer->why_dead().ok() ? "" : " (" + peer->why_dead().message() + ")")};
        peer->close(why);
        return why;
    }
    return peer;
}

void Engine::disconnect(const std::shared_ptr<Peer>& peer) {
    if (!usable().ok()) return;
    std::lock_guard token(token_);
    peer->close({Code::closed, "disconnected"});
    pump();
}

PeerState Engine::state_of(Peer& peer) {
    std::lock_guard token(token_);
    if (closed_) return PeerState::dead;
    return peer.reachable() ? PeerState::alive : peer.state();
}

std::vector<proto::SegmentInfo> Engine::segments_of(Peer& peer, Nanos timeout) {
    {
        std::lock_guard token(token_);
        if (peer.dead() || closed_) return {};
        peer.request_segments();
        peer.flush();
    }
    wait_until([&] { return peer.dead() || peer.segments_fresh(); }, timeout);
    std::lock_guard token(token_);
    return peer.segments();
}

Result<Bytes> Engine::call(Peer& peer, uint16_t method, ByteView request, Nanos timeout) {
    if (Status s = usable(); !s.ok()) return s;
    if (request.size() > proto::kMaxBody) return {Code::invalid_argument, "a call holds at most 256 KiB"};
    auto c = std::make_shared<Call>();
    {
        std::lock_guard token(token_);
        peer.call(method, request, c);
    }
    if (!wait_for(c->done, timeout)) {
        return {Code::deadline, "node '" + peer.descriptor().name + "' did not answer in time"};
    }
    if (!c->status.ok()) return c->status;
    return std::move(c->reply);
}

Status Engine::set_lender(SegmentId segment, std::shared_ptr<Lender> lender) {
    std::lock_guard token(token_);
    std::shared_ptr<Segment> s = registry_.find(segment);
    if (!s) return {Code::segment_gone, "there is no segment " + std::to_string(segment)};
    s->lender = lender;
    lender_ = std::move(lender);
    return Status::good();
}

bool Engine::deliver_notification(const std::string& peer, ByteView bytes) {
    {
        std::lock_guard lock(news_mutex_);
        if (notifications_.size() >= 65536 || notified_bytes_ + bytes.size() > kMostNotified) return false;
        notified_bytes_ += bytes.size();
        notifications_.emplace_back(peer, Bytes(bytes.begin(), bytes.end()));
        ++counters_.notifications;
    }
    news_cv_.notify_all();
    return true;
}

// ---- offers

Status Engine::offer(OfferSpec spec) {
    if (Status s = usable(); !s.ok()) return s;
    std::lock_guard token(token_);
    return offers_.add(std::move(spec));
}

bool Engine::end_offer(const Id128& name) {
    if (!usable().ok()) return false;
    std::lock_guard token(token_);
    return offers_.end(name, proto::OfferEnd::aborted);
}

size_t Engine::live_offers() {
    std::lock_guard token(token_);
    return offers_.live();
}

void Engine::offer_ended(const Id128& name, proto::OfferEnd how) {
    {
        std::lock_guard lock(news_mutex_);
        ended_offers_.emplace_back(name, how);
        if (ended_offers_.size() > Offers::kMost) ended_offers_.pop_front();  // nobody takes them
    }
    news_cv_.notify_all();
}

std::vector<std::pair<Id128, proto::OfferEnd>> Engine::take_ended_offers(Nanos timeout) {
    std::unique_lock lock(news_mutex_);
    news_cv_.wait_for(lock, std::chrono::nanoseconds(timeout),
                      [this] { return !ended_offers_.empty() || stop_; });
    std::vector<std::pair<Id128, proto::OfferEnd>> out(ended_offers_.begin(), ended_offers_.end());
    ended_offers_.clear();
    return out;
}

bool Engine::has_transfers(const Peer& peer) const {
    return std::any_of(transfers_.begin(), transfers_.end(), [&](const auto& one) {
        return one.second->peer_.get() == &peer && !one.second->done();
    });
}

void Engine::peer_changed(Peer& peer) {
    if (followers_.load() != 0) done_cv_.notify_all();
    std::vector<std::shared_ptr<Transfer>> ready;
    for (const auto& t : waiting_) {
        if (t->peer_.get() == &peer && !t->done()) ready.push_back(t);
    }
    for (const auto& t : ready) {
        std::erase(waiting_, t);
        schedule(t, monotonic_now());
    }
}

// ---- small public calls

void Engine::set_priority(Transfer& t, Priority priority) {
    std::lock_guard token(token_);
    t.priority_ = priority;
    if (t.in_sprayer_ && !t.done()) {
        sprayer_.set_priority(t.id_, priority, monotonic_now());
        pump();
    }
}

Nanos Engine::predict(Peer& peer, uint64_t bytes, Priority priority) {
    std::lock_guard token(token_);
    return sprayer_.predict(peer.index(), bytes, priority, monotonic_now());
}

bool Engine::shares_memory(Peer& peer) {
    std::lock_guard token(token_);
    return peer.shm() != nullptr && !peer.shm_decorated();
}

int Engine::event_fd(Transfer& t) {
    std::lock_guard token(token_);
    if (!t.event_) {
        t.event_ = UniqueFd(eventfd(t.done() ? 1 : 0, EFD_CLOEXEC | EFD_NONBLOCK));
    }
    return t.event_.get();
}

void Engine::want_callback(Transfer& t) {
    std::lock_guard token(token_);
    if (t.has_callback_.exchange(true)) return;
    if (!t.done()) return;
    {
        std::lock_guard lock(news_mutex_);
        finished_.push_back(t.id_);
    }
    news_cv_.notify_all();
}

bool Engine::take_finished(std::vector<TransferId>& ids, Nanos timeout) {
    ids.clear();
    std::unique_lock lock(news_mutex_);
    news_cv_.wait_for(lock, std::chrono::nanoseconds(timeout),
                      [this] { return !finished_.empty() || news_ || stop_; });
    news_ = false;
    ids.assign(finished_.begin(), finished_.end());
    finished_.clear();
    return !stop_;
}

bool Engine::take_notifications(std::vector<std::pair<std::string, Bytes>>& out, Nanos timeout) {
    out.clear();
    std::unique_lock lock(news_mutex_);
    news_cv_.wait_for(lock, std::chrono::nanoseconds(timeout),
                      [this] { return !notifications_.empty() || stop_; });
    for (auto& n : notifications_) out.push_back(std::move(n));
    notifications_.clear();
    notified_bytes_ = 0;
    return !stop_;
}

Counters Engine::counters() {
    std::lock_guard token(token_);
    return counters_;
}

std::vector<transport::Capabilities> Engine::capabilities() const {
    std::vector<transport::Capabilities> all;
    if (settings_.shm) all.push_back(transport::shm::ShmChannel::stated());
    if (settings_.tcp) all.push_back(transport::tcp::TcpChannel::stated());
    if (fabric_) all.push_back(transport::rdma::RdmaChannel::stated());
    return all;
}

LinkRow Engine::link_row(const Peer& peer, const Peer::Link& link) const {
    LinkRow row;
    row.peer = peer.descriptor().name;
    row.transport = link.is_shm ? "shm" : link.is_rdma ? "rdma" : "tcp";
    row.name = link.name;
    row.view = sprayer_.view(link.id);
    row.state = static_cast<uint8_t>(row.view.state);
    if (row.view.state == sched::LinkState::down && row.view.corrupting > 0) row.state = proto::kCorrupting;
    if (link.asleep) row.state = proto::kAsleep;
    return row;
}

std::vector<LinkRow> Engine::links() {
    std::vector<LinkRow> rows;
    std::lock_guard token(token_);
    each_link([&](const Peer& p, const Peer::Link& l) { rows.push_back(link_row(p, l)); });
    return rows;
}

}  // namespace tent::engine
