// A session's attempts: posting and giving up, and the revokes that its owner confirms.
#include "engine/engine.h"
#include "engine/peer.h"
#include "proto/verbs_messages.h"

namespace tent::engine {

using proto::FrameType;
using proto::Header;
using transport::Channel;

Status Peer::post(AttemptId id, AttemptRecord record, std::span<const proto::Piece> remote,
                  std::span<const transport::LocalPiece> local, uint64_t bytes, Priority priority) {
    Channel* channel = channel_of(record.link);
    if (channel == nullptr) return {Code::link_failed, "the link is not connected"};
    transport::Attempt a;
    a.id = id;
    a.op = record.transfer->op_;
    a.priority = priority;
    a.remote = remote;
    a.local = local;
    a.bytes = bytes;
    a.leaves = record.transfer->leaves_;
    record.channel = channel;
    last_used_ = monotonic_now();
    attempts_[id] = std::move(record);
    Status s = channel->post(a);
    if (!s.ok()) {
        attempts_.erase(id);
    } else if (a.leaves) {
        a.leaves->carrying(bytes);
    }
    return s;
}

void Peer::revoke(AttemptId id) {
    auto it = attempts_.find(id);
    if (it != attempts_.end()) it->second.channel->revoke(id);
}

void Peer::revoke_at_owner(Channel*, AttemptId attempt) {
    to_revoke_.push_back(attempt);
}

void Peer::forget_at_owner(AttemptId attempt) {
    to_forget_.push_back(attempt);
}

void Peer::close_at_owner(uint64_t lane, const std::vector<AttemptId>& attempts) {
    to_close_.push_back({lane, attempts});
}

void Peer::wake_at(Nanos when) {
    engine_.wake_at(when);
}

void Peer::send_closes() {
    while (!to_close_.empty()) {
        size_t n = std::min(to_close_.size(), proto::kMaxLanes);
        std::vector<uint64_t> lanes;
        for (size_t i = 0; i < n; ++i) lanes.push_back(to_close_[i].lane);
        Bytes body;
        proto::encode_attempts(lanes, body);
        Header h;
        h.type = FrameType::qp_close;
        h.attempt = next_request_++;
        if (!send_revoke(h, body)) return;  // asked again when there is a way, or fenced by the lease
        auto end = to_close_.begin() + static_cast<std::ptrdiff_t>(n);
        closing_[h.attempt].assign(std::make_move_iterator(to_close_.begin()), std::make_move_iterator(end));
        to_close_.erase(to_close_.begin(), end);
    }
}

void Peer::report_progress() {
    if (attempts_.empty()) return;
    for (Link& l : links_) {
        if (l.channel) l.channel->report_progress();
    }
}

// The control connection may lie on the very rail that is lost, so the links that are up carry it as well:
// what comes twice does no harm, and the first answer counts. False: there is no way to ask.
bool Peer::send_revoke(const Header& h, ByteView body) {
    bool sent = control_ && control_->open();
    if (sent) control_->send(h, body);
    if (by_unix_) return sent;
    for (Link& l : links_) {
        if (l.channel && l.id != kNoId && engine_.link_is_up(l.id))
            sent = l.channel->send_frame(h, body) || sent;
    }
    return sent;
}

void Peer::send_revokes() {
    send_closes();
    if (to_revoke_.empty() && to_forget_.empty()) return;
    AttemptId floor = attempts_.empty() ? 0 : attempts_.begin()->first;
    if (!to_forget_.empty()) {
        Bytes body;
        proto::encode_attempts(to_forget_, body);
        Header h;
        h.type = FrameType::revoke;
        h.aux = std::min(floor, to_forget_.front());
        if (send_revoke(h, body)) to_forget_.clear();
    }
    if (to_revoke_.empty()) return;
    Bytes body;
    proto::encode_attempts(to_revoke_, body);
    Header h;
    h.type = FrameType::revoke;
    h.attempt = next_request_++;
    h.aux = floor;
    if (!send_revoke(h, body)) return;  // asked again when there is a way, or fenced by the lease
    revoking_[h.attempt] = std::move(to_revoke_);
    to_revoke_.clear();
}

// What was asked over a way that may be lost is asked again.
void Peer::repeat_revokes() {
    for (auto& [id, list] : revoking_) to_revoke_.insert(to_revoke_.end(), list.begin(), list.end());
    revoking_.clear();
    for (auto& [id, list] : closing_) to_close_.insert(to_close_.end(), list.begin(), list.end());
    closing_.clear();
}

void Peer::revoked(uint64_t request) {
    if (auto closed = closing_.find(request); closed != closing_.end()) {
        std::vector<Closing> lanes = std::move(closed->second);
        closing_.erase(closed);
        for (const Closing& c : lanes) {
            for (AttemptId id : c.attempts) fenced(id);
        }
        return;
    }
    auto it = revoking_.find(request);
    if (it == revoking_.end()) return;
    std::vector<AttemptId> list = std::move(it->second);
    revoking_.erase(it);
    for (AttemptId id : list) fenced(id);
}

// Its own answer may have ended the attempt before the revoke's came, and its channel with it: so the channel
// is looked up, not remembered.
void Peer::fenced(AttemptId id) {
    auto it = attempts_.find(id);
    if (it != attempts_.end()) it->second.channel->fenced(id);
}

void Peer::fence(bool pulls_too) {
    std::vector<AttemptId> all = std::move(to_revoke_);
    to_revoke_.clear();
    for (auto& [id, list] : revoking_) all.insert(all.end(), list.begin(), list.end());
    revoking_.clear();
    // Our own half has ended: nothing more of it leaves this host, and its owner ends the other with the
    // session.
    for (auto& [id, list] : closing_) to_close_.insert(to_close_.end(), list.begin(), list.end());
    closing_.clear();
    for (const Closing& c : std::exchange(to_close_, {}))
        all.insert(all.end(), c.attempts.begin(), c.attempts.end());
    for (AttemptId id : all) {
        auto it = attempts_.find(id);
        bool pull = it != attempts_.end() && it->second.channel == memory_channel();
        if (pull && !pulls_too) {
            to_revoke_.push_back(id);
        } else {
            fenced(id);
        }
    }
}

bool Peer::touches(const uint8_t* address, uint64_t length) const {
    for (const Link& l : links_) {
        for (const auto* ch : {&l.channel, &l.probe, &l.earlier}) {
            if (*ch && (*ch)->touches(address, length)) return true;
        }
    }
    for (const auto& c : retired_) {
        if (c->touches(address, length)) return true;
    }
    return shm_ && memory_channel()->touches(address, length);
}

}  // namespace tent::engine
