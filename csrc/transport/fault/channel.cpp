#include "transport/fault/channel.h"

#include <algorithm>
#include <cstring>

namespace tent::transport::fault {

FaultChannel::FaultChannel(Faults& faults, FaultLink link, Sink& sink)
    : faults_(faults), link_(std::move(link)), sink_(sink) {
    for (size_t i = 0; i < faults_.plan().faults.size(); ++i) {
        FaultSide side = hits(faults_.plan().faults[i], link_);
        if (side == FaultSide::none) continue;
        mine_.push_back(i);
        sides_.push_back(side);
    }
    faults_.wake_at(next_change_of_any());
}

FaultChannel::~FaultChannel() {
    faults_.forget(this);
}

void FaultChannel::wrap(std::unique_ptr<LinkChannel> inner) {
    owned_ = std::move(inner);
    inner_ = owned_.get();
}

void FaultChannel::wrap(Channel& inner) {
    inner_ = &inner;
}

// ---- which fault is on

int FaultChannel::fault(FaultKind kind, uint64_t number) const {
    const FaultPlan& plan = faults_.plan();
    Nanos now = faults_.now();
    for (size_t i : mine_) {
        const Fault& f = plan.faults[i];
        if (f.kind == kind && on_at(f, now) && strikes(plan, i, link_, number)) return static_cast<int>(i);
    }
    return -1;
}

int FaultChannel::swallowed(bool outgoing) const {
    if (int by = fault(FaultKind::silent, next_number()); by >= 0) return by;
    for (size_t k = 0; k < mine_.size(); ++k) {
        const Fault& f = faults_.plan().faults[mine_[k]];
        if (on_at(f, faults_.now()) && swallows(f, sides_[k], outgoing)) return static_cast<int>(mine_[k]);
    }
    return -1;
}

// True if there is such a fault: it is counted as having struck.
bool FaultChannel::struck(int by) {
    if (by >= 0) ++faults_.struck[static_cast<size_t>(by)];
    return by >= 0;
}

int FaultChannel::broken_by() const {
    for (FaultKind kind : {FaultKind::down, FaultKind::flap}) {
        if (int by = fault(kind, next_number()); by >= 0) return by;
    }
    for (size_t i : mine_) {
        const Fault& f = faults_.plan().faults[i];
        if (f.kind == FaultKind::fail_after && on_at(f, faults_.now()) && faults_.posted(link_) >= f.count)
            return static_cast<int>(i);
    }
    return -1;
}

Status FaultChannel::broken() const {
    int by = broken_by();
    if (by < 0) return Status::good();
    const std::string& error = faults_.plan().faults[static_cast<size_t>(by)].error;
    return {Code::link_failed, error.empty() ? "broken by the fault plan" : error};
}

Nanos FaultChannel::next_change_of_any() const {
    Nanos next = kNever;
    for (size_t i : mine_) next = std::min(next, next_change(faults_.plan().faults[i], faults_.now()));
    return next;
}

// ---- towards the inner channel

Status FaultChannel::dial() {
    dialled_at_ = monotonic_now();
    if (struck(broken_by())) return broken();
    // Where nothing goes through, dialling is not refused: it comes to nothing.
    if (struck(swallowed(true)) || struck(swallowed(false)) || struck(fault(FaultKind::stall, next_number())))
        return Status::good();
    return owned_ ? owned_->dial() : Status::good();
}

bool FaultChannel::up() const {
    return !closed_ && broken_by() < 0 && (!owned_ || owned_->up());
}

void FaultChannel::flush() {
    if (owned_) owned_->flush();
}

bool FaultChannel::send_frame(const proto::Header& header, ByteView body) {
    if (closed_ || broken_by() >= 0 || !owned_) return false;
    // Lost, and nobody is told.
    if (swallowed(true) >= 0 || fault(FaultKind::stall, next_number()) >= 0) return true;
    return owned_->send_frame(header, body);
}

Status FaultChannel::post(const Attempt& a) {
    if (closed_) return {Code::link_failed, "the link is closed"};
    if (Status s = broken(); !s.ok()) {
        faults_.wake_at(0);  // the link's end is told apart from this call
        return s;
    }
    uint64_t number = ++faults_.posted(link_);
    if (int by = fault(FaultKind::fail_submit, number); by >= 0) {
        const Fault& f = faults_.plan().faults[static_cast<size_t>(by)];
        struck(by);
        return {Code::link_failed, f.error.empty() ? "refused by the fault plan" : f.error};
    }
    Pending& p = pending_[a.id];
    p.op = a.op;
    p.priority = a.priority;
    p.bytes = a.bytes;
    p.number = number;
    p.remote.assign(a.remote.begin(), a.remote.end());
    p.local.assign(a.local.begin(), a.local.end());
    p.posted_at = faults_.now();
    if (struck(fault(FaultKind::drop, number)) || struck(swallowed(true))) {
        p.place = Place::lost;
        return Status::good();
    }
    if (int by = fault(FaultKind::corrupt, number); by >= 0 && p.op == Op::write) spoil(p, by);
    if (struck(fault(FaultKind::stall, number))) {
        p.place = Place::held;
        return Status::good();
    }
    Status s = hand_over(a.id, p);
    if (!s.ok()) pending_.erase(a.id);
    return s;
}

Status FaultChannel::hand_over(AttemptId id, Pending& p) {
    LocalPiece instead{p.spoilt.data(), p.spoilt.size()};
    Attempt a;
    a.id = id;
    a.op = p.op;
    a.priority = p.priority;
    a.bytes = p.bytes;
    a.remote = p.remote;
    a.local = p.spoilt.empty() ? std::span<const LocalPiece>(p.local) : std::span(&instead, 1);
    p.place = Place::inner;
    return inner_->post(a);
}

// Flips bytes that follow each other, somewhere: of a read in place, of a write in a copy.
void FaultChannel::spoil(Pending& p, int by) {
    auto fault = static_cast<size_t>(by);
    struck(by);
    uint64_t count = std::min<uint64_t>(faults_.plan().faults[fault].bytes, p.bytes);
    uint64_t at = draw(faults_.plan(), fault, link_, p.number) % (p.bytes - count + 1);
    if (p.op == Op::write) {
        p.spoilt.reserve(p.bytes);
        for (const LocalPiece& l : p.local) p.spoilt.insert(p.spoilt.end(), l.address, l.address + l.length);
        for (uint64_t i = at; i < at + count; ++i) p.spoilt[i] ^= 0x5a;
        return;
    }
    for (const LocalPiece& l : p.local) {
        for (uint64_t i = at; i < at + count && i < l.length; ++i) l.address[i] ^= 0x5a;
        uint64_t within = at < l.length ? std::min(count, l.length - at) : 0;
        count -= within;
        at = at + within - std::min(at + within, l.length);
    }
}

void FaultChannel::revoke(AttemptId id) {
    auto it = pending_.find(id);
    if (it == pending_.end()) return;
    if (it->second.place == Place::inner) return inner_->revoke(id);
    // It never went out, or it has ended already and nobody was told: nothing of it can land any more.
    it->second.end = End::revoked;
    it->second.status = {Code::cancelled, "given up"};
    tell(it);
}

void FaultChannel::fenced(AttemptId id) {
    auto it = pending_.find(id);
    if (it != pending_.end() && it->second.place == Place::inner) inner_->fenced(id);
}

bool FaultChannel::touches(const uint8_t* address, uint64_t length) const {
    if (inner_->touches(address, length)) return true;
    return std::any_of(pending_.begin(), pending_.end(), [&](const auto& one) {
        const Pending& p = one.second;
        return p.place == Place::held &&
               std::any_of(p.local.begin(), p.local.end(), [&](const LocalPiece& l) {
                   return l.address < address + length && address < l.address + l.length;
               });
    });
}

void FaultChannel::close(const Status& why) {
    if (closed_) return;
    closed_ = true;
    end_all(why);
}

// The link is gone: what the inner channel does not answer for any more ends here, the rest when it is
// fenced.
void FaultChannel::end_all(const Status& why) {
    std::vector<AttemptId> all;
    for (auto& [id, p] : pending_) all.push_back(id);
    for (AttemptId id : all) {
        auto it = pending_.find(id);
        if (it == pending_.end()) continue;
        it->second.by_link = true;
        if (it->second.place == Place::inner) {
            if (!owned_ && !closed_) inner_->revoke(id);
            continue;
        }
        it->second.end = End::link;
        it->second.status = why;
        tell(it);
    }
    if (owned_ || closed_) inner_->close(why);
}

// ---- back from the inner channel

void FaultChannel::channel_up(Channel*) {
    sink_.channel_up(this);
}

void FaultChannel::channel_down(Channel*, const Status& why) {
    if (closed_) return;
    closed_ = true;
    end_all(why);
    sink_.channel_down(this, why);
}

// What a fault keeps back or slows down shows no progress either.
void FaultChannel::attempt_progress(AttemptId id, uint64_t bytes) {
    auto it = pending_.find(id);
    if (it == pending_.end() || it->second.place != Place::inner || swallowed(false) >= 0) return;
    for (FaultKind kind : {FaultKind::stall, FaultKind::slow}) {
        if (fault(kind, it->second.number) >= 0) return;
    }
    sink_.attempt_progress(id, bytes);
}

void FaultChannel::attempt_ended(AttemptId id, End end, Status status, uint32_t piece) {
    auto it = pending_.find(id);
    if (it == pending_.end()) return;
    Pending& p = it->second;
    Nanos now = faults_.now();
    p.place = Place::ended;
    p.end = end == End::revoked && p.by_link ? End::link : end;
    p.status = std::move(status);
    p.piece = piece;
    if (end == End::revoked || end == End::link || closed_ || is_broken_) return tell(it);
    if (struck(swallowed(false))) {
        p.due = kNever;
        return;
    }
    if (int by = fault(FaultKind::corrupt, p.number); by >= 0 && p.op == Op::read && end == End::done)
        spoil(p, by);
    p.due = now;
    if (int by = fault(FaultKind::slow, p.number); by >= 0) {
        // It took `service` of the real link's time, and takes so many times as much of the slowed one's.
        Nanos service = now - std::max(last_end_, p.posted_at);
        struck(by);
        free_at_ =
            std::max(free_at_, p.posted_at) + service * faults_.plan().faults[static_cast<size_t>(by)].factor;
        p.due = std::max(now, free_at_);
    }
    last_end_ = now;
    if (int by = fault(FaultKind::delay, p.number); by >= 0) {
        auto which = static_cast<size_t>(by);
        const Fault& f = faults_.plan().faults[which];
        struck(by);
        p.due += f.delay;
        if (f.jitter > 0)
            p.due += static_cast<Nanos>(draw(faults_.plan(), which, link_, p.number) %
                                        static_cast<uint64_t>(f.jitter));
    }
    if (struck(fault(FaultKind::stall, p.number)) || p.due > now) return faults_.wake_at(p.due);
    tell(it);
}

void FaultChannel::tell(Iterator it) {
    AttemptId id = it->first;
    Pending p = std::move(it->second);
    pending_.erase(it);
    int twice = p.end == End::done ? fault(FaultKind::duplicate, p.number) : -1;
    sink_.attempt_ended(id, p.end, p.status, p.piece);
    if (struck(twice)) sink_.attempt_ended(id, p.end, p.status, p.piece);
}

// ---- time passes

void FaultChannel::tick() {
    if (inner_ == nullptr) return;
    bool broken_now = broken_by() >= 0;
    if (broken_now && !is_broken_ && !closed_) {
        break_link();
    } else if (!broken_now) {
        is_broken_ = false;
    }
    if (!closed_ && !is_broken_ && fault(FaultKind::stall, next_number()) < 0) tell_due();
    faults_.wake_at(next_change_of_any());
}

void FaultChannel::tell_due() {
    std::vector<AttemptId> all;
    for (auto& [id, p] : pending_) {
        if (p.place == Place::held || p.place == Place::ended) all.push_back(id);
    }
    Nanos now = faults_.now();
    for (AttemptId id : all) {
        auto it = pending_.find(id);
        if (it == pending_.end()) continue;
        if (it->second.place == Place::ended) {
            if (it->second.due <= now) {
                tell(it);
            } else {
                faults_.wake_at(it->second.due);
            }
        } else if (Status s = hand_over(id, it->second); !s.ok()) {
            it->second.end = End::link;
            it->second.status = s;
            tell(it);
        }
    }
    flush();
}

void FaultChannel::break_link() {
    Status why = broken();
    struck(broken_by());
    is_broken_ = true;
    closed_ = owned_ != nullptr;  // such a link is dialled again, as another channel
    end_all(why);
    sink_.channel_down(this, why);
}

}  // namespace tent::transport::fault
