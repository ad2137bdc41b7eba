#include "engine/peer.h"

#include <poll.h>

#include <algorithm>

#include "engine/engine.h"

namespace tent::engine {

namespace {
// An owner that ends every session at once is not dialled as fast as it can do that.
constexpr Nanos kComeAgain = 10 * kMillisecond;
}  // namespace

void Call::finish(Status s, ByteView bytes) {
    status = std::move(s);
    reply.assign(bytes.begin(), bytes.end());
    done.store(true, std::memory_order_release);
}

Peer::Peer(Engine& engine, uint32_t index, Descriptor descriptor)
    : engine_(engine),
      index_(index),
      descriptor_(std::move(descriptor)),
      session_(engine.random_id()),
      lease_(engine.settings().lease, boottime_now()) {}

Peer::~Peer() = default;

bool Peer::same_host() const {
    return engine_.settings().shm && !descriptor_.unix_name.empty() && descriptor_.host == engine_.host();
}

bool Peer::owner_exited() const {
    if (pidfd_ < 0) return false;
    pollfd p{pidfd_, POLLIN, 0};
    return poll(&p, 1, 0) > 0;
}

void Peer::start(Nanos now) {
    last_used_ = now;
    dial_control(now);
}

// ---- parked

bool Peer::idle() const {
    bool quiet = attempts_.empty() && calls_.empty() && notifications_.empty() && to_revoke_.empty() &&
                 to_forget_.empty() && revoking_.empty() && to_close_.empty() && closing_.empty() &&
                 loans_.empty() && segment_request_ == 0;
    bool offered = std::any_of(segments_.begin(), segments_.end(), [](const proto::SegmentInfo& s) {
        return s.kind == proto::SegmentKind::offer;
    });
    return state_ == PeerState::alive && quiet && !offered && !by_unix_ && !dialling_ && control_ &&
           control_->open() && !engine_.has_transfers(*this);
}

void Peer::park() {
    proto::Header h;
    h.type = proto::FrameType::bye;
    control_->send(h, as_bytes("idle, and there are too many connections"));
    control_->flush();
    if (state_ != PeerState::alive) return;  // it was lost already, and its owner's process with it
    end_session({Code::closed, "closed for want of room, idle as it was"});
}

// Its owner takes nothing of this session any more. What is under way begins again in the next one.
void Peer::end_session(const Status& why) {
    state_ = PeerState::parked;
    if (control_) {
        auto stream = std::move(control_);
        stream->close(why);
        dead_streams_.push_back(std::move(stream));
    }
    if (spare_) spare_->close(why);
    want_tcp_ = false;
    for (Link& l : links_) {
        if (!l.is_shm && !l.asleep) sleep(l, why);
    }
    fence(true);
    if (rdma_) rdma_->session_over();
    loans_.clear();
    bool asked = segment_request_ != 0 || !calls_.empty();
    if (asked || !notifications_.empty() || engine_.has_transfers(*this)) wake(kComeAgain);
}

// A session is never used again once it has ended: this is another one.
void Peer::wake(Nanos pause) {
    last_used_ = monotonic_now();
    if (state_ != PeerState::parked) return;
    session_ = engine_.random_id();
    state_ = PeerState::connecting;
    lease_ = proto::WriterLease(engine_.settings().lease, boottime_now());
    refused_in_a_row_ = 0;
    next_control_dial_ = last_used_ + pause;
    engine_.wake_at(next_control_dial_);
    if (pause == 0) dial_control(last_used_);
    if (!dead() && engine_.has_transfers(*this)) wake_links();
}

void Peer::die(const Status& why) {
    if (state_ == PeerState::dead) return;
    state_ = PeerState::dead;
    why_ = why;
    if (control_) {
        auto stream = std::move(control_);
        stream->close(why);
        dead_streams_.push_back(std::move(stream));
    }
    if (spare_) spare_->close(why);
    for (auto& [id, open] : calls_) open.call->finish(why, {});
    calls_.clear();
    engine_.wake_followers();
    for (Link& l : links_) {
        if (l.id != kNoId) engine_.remove_link(l.id);
        for (auto* ch : l.channels()) {
            if (!*ch) continue;
            (*ch)->close(why);
            retired_.push_back(std::move(*ch));
        }
    }
    if (shm_) memory_channel()->close(why);
    engine_.peer_died(*this);
    // A process that is gone takes nothing more; of any other the lease has to run out first (tick).
    if (owner_exited()) fence(true);
}

void Peer::close(const Status& why) {
    if (control_ && !control_->closed()) {
        send_revokes();
        proto::Header h;
        h.type = proto::FrameType::bye;
        // Copies into memory that was lent to us may still be under way: then it is ours until this process
        // ends.
        h.aux = shm_ && !memory_channel()->quiet() ? 1 : 0;
        control_->send(h, as_bytes(why.message()));
        control_->flush();
    }
    die(why);
}

void Peer::tick(Nanos now, Nanos lease_now) {
    dead_streams_.clear();
    std::erase_if(retired_, [](const auto& c) { return c->quiet(); });
    if (state_ == PeerState::dead) {
        if (lease_now >= lease_.fenced_at() || owner_exited()) fence(true);
        return;
    }
    if (state_ == PeerState::parked) return;
    if (was_alive_ && lease_now >= lease_.fenced_at()) {
        die({Code::peer_unreachable, "node '" + descriptor_.name + "' has been silent for its whole lease"});
        fence(true);
        return;
    }
    if (control_ && !control_->open() && now - control_->born() > engine_.settings().connect_timeout) {
        control_->close({Code::peer_unreachable, control_->name + ": no answer to the handshake in time"});
    }
    // The rail that carries the control connection may be lost without a word. Tokens come four times a
    // lease: another rail is tried before it runs out, so that one link's fault does not end the session.
    if (control_ && control_->open() && !by_unix_ && descriptor_.rails.size() > 1 &&
        now - control_->last_received() > engine_.settings().lease / 2) {
        control_->close({Code::link_failed, control_->name + ": silent for half a lease"});
    }
    if (!control_ && state_ != PeerState::dead && now >= next_control_dial_) dial_control(now);
    keep_control_alive(now);
    close_idle_links(now);
    if (want_tcp_ && state_ == PeerState::alive) dial_links(now);
}

void Peer::flush() {
    send_revokes();
    if (control_ && control_->dirty()) control_->flush();
    if (spare_ && spare_->dirty()) spare_->flush();
    for (Link& l : links_) {
        for (auto* ch : l.channels()) {
            if (*ch) (*ch)->flush();
        }
    }
    if (to_close_.empty()) return;  // what the channels have given up just now
    send_closes();
    if (control_ && control_->dirty()) control_->flush();
}

bool Peer::quiet() const {
    bool channels = std::all_of(retired_.begin(), retired_.end(), [](const auto& c) { return c->quiet(); });
    return attempts_.empty() && channels && (!shm_ || memory_channel()->quiet());
}

}  // namespace tent::engine
