#include "transport/rdma/channel.h"

#include <algorithm>

#include "base/log.h"
#include "base/switches.h"

namespace tent::transport::rdma {
namespace {

constexpr Capabilities kCapabilities{
    .name = "rdma",
    .same_host_only = false,
    .one_sided = true,
    .read_fence = Fence::local,
    .write_fence = Fence::owner,
    .remote_kinds = (1u << static_cast<int>(proto::SegmentKind::memfd)) |
                    (1u << static_cast<int>(proto::SegmentKind::region)),
    .max_pieces = proto::kMaxPieces,
    .max_bytes = proto::kMaxPayload,
};

constexpr size_t kLanes = 2;                // one at work, one warm
constexpr uint32_t kMostOfWork = 1 << 20;   // bytes of one request: progress is seen by requests
constexpr Nanos kGrace = 2 * kMillisecond;  // what a lane that delivers is given to end an attempt
constexpr Nanos kSpareAgain = kSecond;      // after one could not be made
constexpr int kMostAccessFaults = 3;
constexpr int kMostQuestions = 8;  // for the keys of one attempt

}  // namespace

RdmaChannel::RdmaChannel(Initiator& session, const Port& port, const Id128& towards, std::string name,
                         Sink& sink)
    : session_(session), port_(port), towards_(towards), name_(std::move(name)), sink_(sink) {}

RdmaChannel::~RdmaChannel() {
    session_.forget(this);
    pending_.clear();
    lanes_.clear();
}

const Capabilities& RdmaChannel::stated() {
    return kCapabilities;
}
const Capabilities& RdmaChannel::capabilities() const {
    return kCapabilities;
}

// ---- lanes

Status RdmaChannel::open_lane() {
    auto lane = std::make_unique<Lane>(*this);
    if (Status s = lane->open(port_, session_.fabric().options()); !s.ok()) return s;
    lane->number = session_.open(this, {lane->qp().end(), towards_});
    lanes_.push_back(std::move(lane));
    return Status::good();
}

Status RdmaChannel::dial() {
    dialled_at_ = monotonic_now();
    return open_lane();
}

void RdmaChannel::opened(uint64_t number, const Status& status, const proto::OpenedQueuePair& theirs) {
    for (auto& lane : lanes_) {
        if (lane->number != number) continue;
        if (!status.ok()) return lane_broken(*lane, status);
        return lane->connect(session_.fabric().connector(), theirs, session_.owner());
    }
}

Lane* RdmaChannel::ready_lane() {
    for (auto& lane : lanes_) {
        if (lane->ready()) return lane.get();
    }
    return nullptr;
}

void RdmaChannel::lane_ready(Lane&) {
    if (closed_) return;
    if (!std::exchange(up_, true)) sink_.channel_up(this);
    if (closed_ || lanes_.size() >= kLanes) return;
    if (!open_lane().ok()) spare_again_ = monotonic_now() + kSpareAgain;
}

// It never came to be ready, or takes no request any more.
void RdmaChannel::lane_broken(Lane& lane, const Status& why) {
    Status reason{why.code(), name_ + ": " + why.message()};
    if (lane.ready() || !up_) return lost(reason);
    log(LogLevel::info, reason.message() + ": there is no spare queue pair for now");
    drop(lane, Fate::again, reason);
    spare_again_ = monotonic_now() + kSpareAgain;
}

// Ends a lane. What was under way on it ends as `fate` says once it is fenced: reads at once, writes when the
// owner has ended its side, too.
void RdmaChannel::drop(Lane& lane, Fate fate, const Status& why, AttemptId guilty) {
    auto at = std::find_if(lanes_.begin(), lanes_.end(), [&](const auto& l) { return l.get() == &lane; });
    if (at == lanes_.end()) return;
    ended_.push_back(std::move(*at));
    lanes_.erase(at);
    lane.end();
    session_.forget(lane.number);
    std::vector<AttemptId> on_it, writes;
    for (auto& [id, p] : pending_) {
        if (p.lane == &lane) on_it.push_back(id);
    }
    std::sort(on_it.begin(), on_it.end());
    for (AttemptId id : on_it) {
        Pending& p = pending_[id];
        std::erase(queue_, id);
        p.lane = nullptr;
        p.fate = id == guilty ? Fate::guilty : fate;
        p.why = why;
        p.fencing = p.op == Op::write && p.outstanding > 0 && protection_on(Protection::fence);
        if (p.fencing) writes.push_back(id);
    }
    session_.session().close_at_owner(lane.number, writes);
    for (AttemptId id : on_it) {
        auto p = pending_.find(id);
        if (p != pending_.end() && !p->second.fencing) settle(id);
    }
    if (closed_ || !up_ || lanes_.size() >= kLanes || spare_again_ != 0) return;
    if (!open_lane().ok()) spare_again_ = monotonic_now() + kSpareAgain;
}

void RdmaChannel::failed(Lane& lane, int status, AttemptId guilty) {
    Status why{Code::link_failed, name_ + ": a request ended in " + status_name(status)};
    if (classify(status) != Fault::access || ++access_faults_ > kMostAccessFaults) return lost(why);
    drop(lane, Fate::again, why, guilty);
}

void RdmaChannel::lost(const Status& why) {
    if (closed_) return;
    close(why);
    sink_.channel_down(this, why);
}

void RdmaChannel::close(const Status& why) {
    if (closed_) return;
    closed_ = true;
    up_ = false;
    while (!lanes_.empty()) drop(*lanes_.back(), Fate::link, why);
    std::vector<AttemptId> rest;
    for (const auto& [id, p] : pending_) {
        if (!p.fencing) rest.push_back(id);
    }
    std::sort(rest.begin(), rest.end());
    for (AttemptId id : rest) end(id, End::link, why);
    queue_.clear();
    session_.forget(this);
}

// ---- attempts

Status RdmaChannel::post(const Attempt& a) {
    if (closed_ || !up_) return {Code::link_failed, name_ + " is not connected"};
    Pending& p = pending_[a.id];
    p.op = a.op;
    p.bytes = a.bytes;
    p.remote.assign(a.remote.begin(), a.remote.end());
    p.local.assign(a.local.begin(), a.local.end());
    queue_.push_back(a.id);
    return Status::good();
}

// The keys of its memory there and here. What is missing is asked for.
RdmaChannel::Prepared RdmaChannel::find_keys(AttemptId id, Pending& p, const Lane& lane, Status& why) {
    std::vector<proto::Piece> missing;
    for (const proto::Piece& r : p.remote) {
        for (uint64_t at = r.offset, end = r.offset + r.length; at < end;) {
            const proto::MemoryKey* key = session_.key(lane.domain(), r.segment, at, p.op);
            if (key == nullptr) {
                missing.push_back(r);
                break;
            }
            at = key->offset + key->length;
        }
    }
    if (!missing.empty()) {
        if (p.asked) return Prepared::waits;
        if (++p.questions > kMostQuestions) {
            why = {Code::link_failed, name_ + ": the owner gives no key to memory that it exposes"};
            return Prepared::no;
        }
        p.asked = true;
        p.missing = missing.size() == p.remote.size() ? std::vector<proto::Piece>() : missing;
        session_.ask(this, id, lane.number, lane.domain(), p.op, missing);
    }
    Prepared found = missing.empty() ? Prepared::yes : Prepared::waits;
    for (const LocalPiece& l : p.local) {
        for (uint8_t *at = l.address, *end = l.address + l.length; at < end;) {
            Region region;
            if (!session_.fabric().regions().region_at(at, region)) {
                why = {Code::internal, name_ + ": local memory of an attempt is not registered"};
                return Prepared::no;
            }
            uint64_t chunk = region.chunk_of(at);
            if (session_.fabric().memory().get(*port_.device, region, chunk, why) == nullptr) {
                if (!why.ok()) return Prepared::no;
                found = Prepared::waits;
            }
            at = region.base + chunk * kChunk + region.chunk_bytes(chunk);
        }
    }
    return found;
}

// Cuts it into requests: each of one contiguous remote range, gathered from, or scattered to, a few local
// ones.
void RdmaChannel::build(Pending& p, const Lane& lane, uint32_t most_elements) {
    p.works.clear();
    p.elements.clear();
    uint32_t most = std::min(kMostOfWork, port_.max_message != 0 ? port_.max_message : kMostOfWork);
    size_t l = 0;
    uint64_t l_at = 0;
    for (const proto::Piece& r : p.remote) {
        for (uint64_t at = r.offset, end = r.offset + r.length; at < end;) {
            const proto::MemoryKey* key = session_.key(lane.domain(), r.segment, at, p.op);
            uint64_t want = std::min<uint64_t>({most, end - at, key->offset + key->length - at});
            Work w{key->address + (at - key->offset), key->key, 0, static_cast<uint32_t>(p.elements.size()),
                   0};
            while (w.length < want && w.count < most_elements) {
                uint8_t* from = p.local[l].address + l_at;
                Region region;
                session_.fabric().regions().region_at(from, region);
                uint64_t chunk = region.chunk_of(from);
                Status good;
                uint32_t lkey = session_.fabric().memory().get(*port_.device, region, chunk, good)->lkey;
                uint64_t in_chunk =
                    region.chunk_bytes(chunk) - (static_cast<uint64_t>(from - region.base) - chunk * kChunk);
                auto n = static_cast<uint32_t>(
                    std::min<uint64_t>({want - w.length, p.local[l].length - l_at, in_chunk}));
                p.elements.push_back({reinterpret_cast<uint64_t>(from), n, lkey});
                ++w.count;
                w.length += n;
                l_at += n;
                if (l_at == p.local[l].length) {
                    ++l;
                    l_at = 0;
                }
            }
            at += w.length;
            p.works.push_back(w);
        }
    }
    p.domain = lane.domain();
}

void RdmaChannel::keys_came(AttemptId id, const Status& status, uint32_t piece) {
    auto it = pending_.find(id);
    if (it == pending_.end()) return;
    Pending& p = it->second;
    p.asked = false;
    if (status.ok()) return;
    if (status.code() == Code::busy) return end(id, End::range, status);
    if (status.code() == Code::no_memory)
        return lost(status);  // its owner can register no more: other links carry
    // Of those asked about, which is it among all?
    if (!p.missing.empty() && piece < p.missing.size()) {
        const proto::Piece& bad = p.missing[piece];
        piece = kNoId;
        for (uint32_t i = 0; i < p.remote.size() && piece == kNoId; ++i) {
            if (p.remote[i].segment == bad.segment && p.remote[i].offset == bad.offset) piece = i;
        }
    }
    end(id, End::range, status, piece);
}

void RdmaChannel::pump() {
    Lane* lane = ready_lane();
    if (lane == nullptr) return;
    for (size_t i = 0; i < queue_.size() && lane->room() > 0;) {
        AttemptId id = queue_[i];
        Pending& p = pending_[id];
        if (p.works.empty() || (p.next == 0 && p.domain != lane->domain())) {
            Status why;
            Prepared found = find_keys(id, p, *lane, why);
            if (found == Prepared::no) return lost(why);
            if (found == Prepared::waits) {
                ++i;
                continue;
            }
            build(p, *lane, lane->qp().most_elements());
        }
        p.lane = lane;
        while (p.next < p.works.size() && lane->room() > 0) {
            const Work& w = p.works[p.next++];
            ++p.outstanding;
            lane->add(w, std::span(p.elements).subspan(w.first, w.count), p.op, id, p.next == p.works.size());
        }
        if (p.next < p.works.size()) break;
        queue_.erase(queue_.begin() + static_cast<std::ptrdiff_t>(i));
    }
    if (Status s = lane->submit(); !s.ok()) lane_broken(*lane, s);
}

void RdmaChannel::completed(Lane& lane, AttemptId id, uint64_t bytes) {
    auto it = pending_.find(id);
    if (it == pending_.end() || it->second.lane != &lane) return;
    Pending& p = it->second;
    --p.outstanding;
    p.done += bytes;
    access_faults_ = 0;
    if (p.outstanding > 0) return;
    if (p.next == p.works.size()) {
        end(id, End::done, Status::good());
    } else if (p.given_up) {
        end(id, End::revoked, {Code::cancelled, "given up"});
    }
}

void RdmaChannel::end(AttemptId id, End how, Status status, uint32_t piece) {
    auto it = pending_.find(id);
    if (it == pending_.end()) return;
    if (it->second.given_up) how = End::revoked;
    std::erase(queue_, id);
    pending_.erase(it);
    sink_.attempt_ended(id, how, std::move(status), piece);
}

// It is fenced.
void RdmaChannel::settle(AttemptId id) {
    auto it = pending_.find(id);
    if (it == pending_.end()) return;
    Pending& p = it->second;
    p.fencing = false;
    if (p.given_up) return end(id, End::revoked, p.why);
    if (p.fate == Fate::link || closed_) return end(id, End::link, p.why);
    if (p.fate == Fate::again) return end(id, End::range, {Code::busy, p.why.message()});
    // The owner's adapter refused it: the owner says what was wrong, when it is asked for the keys anew.
    for (const proto::Piece& r : p.remote) session_.distrust(p.domain, r.segment);
    p.works.clear();
    p.next = p.outstanding = 0;
    p.fate = Fate::none;
    queue_.push_back(id);
}

void RdmaChannel::revoke(AttemptId id) {
    auto it = pending_.find(id);
    if (it == pending_.end() || it->second.given_up) return;
    Pending& p = it->second;
    p.given_up = true;
    if (p.fencing) return;
    if (p.outstanding == 0 || !protection_on(Protection::fence)) {
        end(id, End::revoked, {Code::cancelled, "given up"});
        return;
    }
    p.given_up_at = monotonic_now();
    std::erase(queue_, id);
    overdue_.push_back(id);
    session_.session().wake_at(p.given_up_at + kGrace);
}

// What was given up and does not end by itself takes its lane with it.
void RdmaChannel::end_overdue() {
    if (overdue_.empty()) return;
    Nanos now = monotonic_now();
    std::vector<AttemptId> waiting = std::move(overdue_);
    overdue_.clear();
    for (AttemptId id : waiting) {
        auto it = pending_.find(id);
        if (it == pending_.end() || it->second.lane == nullptr) continue;
        const Pending& p = it->second;
        bool delivers = p.lane->last_completion() > p.given_up_at - kGrace;
        if (delivers && now < p.given_up_at + kGrace) {
            overdue_.push_back(id);
            session_.session().wake_at(p.given_up_at + kGrace);
            continue;
        }
        drop(*p.lane, Fate::again, {Code::cancelled, "its queue pair was ended to fence another attempt"});
    }
}

void RdmaChannel::fenced(AttemptId id) {
    auto it = pending_.find(id);
    if (it != pending_.end() && it->second.fencing) settle(id);
}

void RdmaChannel::flush() {
    ended_.clear();
    if (closed_) return;
    end_overdue();
    if (!queue_.empty()) pump();
    if (closed_ || spare_again_ == 0 || monotonic_now() < spare_again_) return;
    spare_again_ = 0;
    if (up_ && lanes_.size() < kLanes && !open_lane().ok()) spare_again_ = monotonic_now() + kSpareAgain;
}

void RdmaChannel::report_progress() {
    for (const auto& [id, p] : pending_) {
        if (!p.given_up && p.done > 0) sink_.attempt_progress(id, p.done);
    }
}

bool RdmaChannel::touches(const uint8_t* address, uint64_t length) const {
    for (const auto& [id, p] : pending_) {
        for (const LocalPiece& l : p.local) {
            if (l.address < address + length && address < l.address + l.length) return true;
        }
    }
    return false;
}

}  // namespace tent::transport::rdma
