// From an intent to a transfer: everything that can be refused is refused here, before a byte moves.
#include <algorithm>

#include "engine/engine.h"

namespace tent::engine {
namespace {

std::string hex(uint64_t v) {
    char text[24];
    snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(v));
    return text;
}

template <class T>
void copy_into(std::span<const T> from, std::vector<T>& to) {
    to.assign(from.begin(), from.end());
}

}  // namespace

Status Engine::check(const Intent& in) const {
    size_t n = in.local.size();
    auto bad = [](std::string what) { return Status(Code::invalid_argument, std::move(what)); };
    if (!in.peer) return bad("an intent needs a peer");
    if (n == 0) return bad("an intent needs at least one range");
    if (n > (1u << 24)) return bad("an intent holds at most 16 million ranges");
    if (in.offset.size() != n) return bad("remote_offset must have as many entries as local");
    if (in.length.size() != n && in.length.size() != 1)
        return bad("length must have one entry, or as many as local");
    if (in.segment.size() != n && in.segment.size() != 1)
        return bad("remote_segment must have one entry, or as many as local");
    if (!in.epoch.empty() && in.epoch.size() != n) return bad("epoch must have as many entries as local");
    if (!in.group.empty() && in.group.size() != n) return bad("group must have as many entries as local");
    if (!in.checks.empty() && in.checks.size() != n) return bad("checks must have as many entries as local");
    if (!in.checks.empty() && in.op == Op::write)
        return {Code::unsupported, "checks on a write are not supported yet"};
    if (!in.digests.empty()) {
        if (in.group.empty()) return bad("digests of pages need a group for each range");
        for (uint32_t g : in.group) {
            if (g >= in.digests.size()) return bad("a group has no digest: there must be one for each");
        }
    }
    if (in.notify.size() > proto::kMaxNotify) return bad("a notification holds at most 64 KiB");
    if (in.timeout < 0) return bad("a deadline must be positive");
    return Status::good();
}

std::shared_ptr<Transfer> Engine::make_transfer(const Intent& in) const {
    auto t = std::make_shared<Transfer>();
    size_t n = in.local.size();
    t->op_ = in.op;
    t->priority_ = in.priority;
    t->peer_ = in.peer;
    copy_into(in.local, t->local_);
    copy_into(in.offset, t->offset_);
    copy_into(in.segment, t->segment_);
    copy_into(in.epoch, t->epoch_);
    copy_into(in.group, t->group_);
    copy_into(in.checks, t->checks_);
    t->prefix_.resize(n + 1);
    t->left_.resize(n);
    for (size_t i = 0; i < n; ++i) {
        uint64_t length = in.length.size() == 1 ? in.length[0] : in.length[i];
        t->left_[i] = length;
        t->prefix_[i + 1] = t->prefix_[i] + length;
    }
    t->total_ = t->prefix_[n];
    t->states_ = std::vector<std::atomic<uint8_t>>(n);
    t->notify_ = in.notify;
    t->has_notify_ = in.has_notify;
    t->remembers_ = in.op == Op::read && (in.remember_links || !in.checks.empty());
    return t;
}

// Local memory is registered, of the right kind and not the target of another live transfer.
Status Engine::admit(Transfer& t, const Intent& in) {
    std::vector<Destinations::Interval> to;
    to.reserve(t.ranges());
    uint32_t groups = 0;
    for (uint32_t i = 0; i < t.ranges(); ++i) {
        uint64_t length = t.left_[i];
        auto* address = reinterpret_cast<const uint8_t*>(t.local_[i]);
        auto who = [i] { return "range " + std::to_string(i); };
        if (length == 0) return {Code::invalid_argument, who() + " has length zero"};
        if (t.prefix_[i + 1] < t.prefix_[i] || t.offset_[i] + length < length) {
            return {Code::out_of_range, who() + ": offset and length overflow"};
        }
        Segment* s = registry_.locate(address, length);
        if (s == nullptr) {
            return {Code::unregistered, who() + ": [" + hex(t.local_[i]) + ", +" + std::to_string(length) +
                                            ") is not inside a registered segment: call register() first"};
        }
        if (s->revoked)
            return {Code::segment_gone, who() + ": segment '" + s->name + "' is being unregistered"};
        if (t.op_ == Op::read && !s->writable) {
            return {Code::read_only,
                    who() + ": segment '" + s->name + "' is a read-only buffer, it cannot be a destination"};
        }
        if (std::find(t.used_.begin(), t.used_.end(), s->id) == t.used_.end()) t.used_.push_back(s->id);
        uint64_t begin = t.op_ == Op::read ? t.local_[i] : t.offset_[i];
        // Writes of one intent into several segments share one space: the segment's number goes above its
        // offsets.
        if (t.op_ == Op::write && t.segment_.size() > 1) begin |= static_cast<uint64_t>(t.segment_[i]) << 44;
        to.push_back({begin, begin + length});
        if (!in.group.empty()) groups = std::max(groups, in.group[i] + 1);
    }
    if (groups > t.ranges()) return {Code::invalid_argument, "groups must be numbered 0, 1, 2 ..."};
    t.group_left_ = std::vector<std::atomic<uint32_t>>(groups);
    for (uint32_t g : t.group_) t.group_left_[g].fetch_add(1);
    if (!Destinations::normalise(to))
        return {Code::overlapping, "two destination ranges of the intent overlap"};
    if (t.op_ == Op::write) {
        t.destination_space_ = static_cast<uint64_t>(in.peer->index() + 1) << 32 |
                               (t.segment_.size() == 1 ? t.segment_[0] : kNoId);
    }
    if (!destinations_.enter(t.destination_space_, to)) {
        return {
            Code::overlapping,
            "a destination range overlaps one of a transfer that is still live: wait until it is released"};
    }
    t.destinations_ = std::move(to);
    for (SegmentId id : t.used_) ++registry_.find(id)->transfers;
    return Status::good();
}

Result<std::shared_ptr<Transfer>> Engine::submit(const Intent& in, bool will_wait) {
    if (Status s = usable(); !s.ok()) return s;
    if (Status s = check(in); !s.ok()) return s;
    std::shared_ptr<Transfer> t = make_transfer(in);
    std::unique_lock token(token_);
    if (Status s = usable(); !s.ok()) return s;
    if (in.peer->dead()) return in.peer->why_dead();
    if (Status s = admit(*t, in); !s.ok()) return s;
    if (!in.digests.empty())
        t->leaves_ = std::make_shared<transport::Leaves>(in.digests, t->group_, t->local_, t->prefix_);
    Nanos now = monotonic_now();
    t->id_ = next_transfer_++;
    t->submitted_at_ = now;
    Nanos timeout = in.timeout != 0 ? in.timeout : settings_.deadline;
    t->deadline_ = timeout > kNever - now ? kNever : now + timeout;
    transfers_[t->id_] = t;
    ++counters_.submitted;
    if (t->total_ <= settings_.inline_bytes && run_inline(token, *t)) return t;
    if (auto* shm = in.peer->shm()) shm->set_helper(will_wait);
    schedule(t, now);
    pump();
    if (auto* shm = in.peer->shm()) shm->set_helper(false);
    tick_soon(now, will_wait);
    return t;
}

// The loop may be asleep until long after the first timer of this transfer. A caller that goes on to wait
// sees to it.
void Engine::tick_soon(Nanos now, bool will_wait) {
    next_tick_ = std::min(next_tick_, now + kBusyTick);
    Nanos next = next_wakeup(now);
    if (next >= next_wakeup_.load()) return;
    next_wakeup_.store(next);
    if (!will_wait || leading_.load()) poller_.wake();  // who leads already sleeps by the old time
}

// A small intent whose only route is the memory bus completes in the submitting thread. False: it takes the
// usual way.
bool Engine::run_inline(std::unique_lock<std::mutex>& token, Transfer& t) {
    auto* shm = t.peer_->shm();
    if (shm == nullptr || t.peer_->shm_decorated() || t.ranges() > proto::kMaxPieces) return false;
    std::vector<uint32_t> ranges;
    transport::shm::CopyJob job;
    for (;;) {
        transport::Attempt a;
        a.op = t.op_;
        a.bytes = t.pieces(0, t.total_, true, pieces_, local_, ranges);
        if (a.bytes == 0) break;  // every range was refused
        a.remote = pieces_;
        a.local = local_;
        a.leaves = t.leaves_;
        if (!shm->prepare_inline(a, job)) return false;
        job.status = Status::good();
        job.refused = false;
        if (t.leaves_) t.leaves_->carrying(a.bytes);
        token.unlock();
        transport::shm::run_copy(job);
        token.lock();
        shm->inline_ended();
        if (job.status.ok()) {
            t.landed(0, t.total_);
            for (uint32_t i : t.doubted_) t.fail_check(i);  // the memory bus has no other link
            break;
        }
        if (!job.refused || job.bad_piece >= ranges.size()) return false;
        t.fail_range(ranges[job.bad_piece], job.status);
    }
    ++counters_.inline_transfers;
    auto self = t.shared_from_this();
    finish(self, t.errors_.empty() ? Status::good() : t.errors_.front().status, RangeState::failed);
    release(self);
    return true;
}

// Ranges in segments that the owner does not expose (any more) fail. False: it has to be asked first.
bool Engine::segments_known(Transfer& t) {
    Peer& peer = *t.peer_;
    auto unknown = [&](SegmentId id) { return !peer.exposes(id); };
    if (std::none_of(t.segment_.begin(), t.segment_.end(), unknown)) return true;
    if (!t.asked_segments_ && !peer.dead()) {
        t.asked_segments_ = true;
        peer.request_segments();
        return false;
    }
    if (!peer.segments_fresh() && !peer.dead()) return false;
    for (uint32_t i = 0; i < t.ranges(); ++i) {
        SegmentId id = t.segment_.size() == 1 ? t.segment_[0] : t.segment_[i];
        if (unknown(id)) {
            t.fail_range(i, {Code::segment_gone, "node '" + peer.descriptor().name + "' exposes no segment " +
                                                     std::to_string(id) + " to us"});
        }
    }
    return true;
}

void Engine::schedule(const std::shared_ptr<Transfer>& t, Nanos now) {
    if (!segments_known(*t)) {
        waiting_.push_back(t);
        wake_at(t->deadline_);
        return;
    }
    if (t->errors_.size() == t->ranges()) {
        finish(t, t->errors_.front().status, RangeState::failed);
        release(t);
        return;
    }
    Status hopeless;
    std::optional<Peer::Ways> ways = t->peer_->ways_for(*t, hopeless);
    if (!hopeless.ok()) {
        finish(t, hopeless, RangeState::failed);
        release(t);
        return;
    }
    if (!ways) {
        waiting_.push_back(t);
        wake_at(t->deadline_);
        return;
    }
    sched::FlowSpec spec;
    spec.peer = t->peer_->index();
    spec.bytes = t->total_;
    spec.op = t->op_;
    spec.priority = t->priority_;
    spec.deadline = t->deadline_;
    spec.shape = t.get();
    spec.from_tier = ways->tier;
    spec.allowed = std::move(ways->links);
    t->in_sprayer_ = true;
    sprayer_.add_flow(t->id_, spec, now);
}

}  // namespace tent::engine
