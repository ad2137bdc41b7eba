#include "engine/doubt.h"

#include <algorithm>
#include <map>
#include <set>

#include "base/digest.h"
#include "base/log.h"
#include "engine/engine.h"

namespace tent::engine {
namespace {

uint64_t hash_of(uint64_t address, uint64_t bytes) {
    return page_check(Id128{}, reinterpret_cast<const void*>(address), bytes);
}

}  // namespace

void Transfer::carried(uint64_t begin, uint64_t end, LinkId link) {
    if (remembers_) carried_.push_back({begin, end, link});
}

// Where the piece lies in our memory.
uint64_t Transfer::address_of(uint32_t range, uint64_t begin) const {
    return local_[range] + (begin - prefix_[range]);
}

std::shared_ptr<Doubt> Engine::doubt(const std::shared_ptr<Transfer>& t, std::vector<uint32_t> ranges) {
    auto d = std::make_shared<Doubt>();
    d->of = t;
    d->ranges = std::move(ranges);
    for (uint32_t i : d->ranges) {
        d->seen[i].insert(hash_of(t->local_[i], t->prefix_[i + 1] - t->prefix_[i]));
        for (const Transfer::Carried& c : t->carried_) {
            uint64_t begin = std::max(c.begin, t->prefix_[i]), end = std::min(c.end, t->prefix_[i + 1]);
            if (begin >= end) continue;
            d->parts.push_back({i, c.link, begin, end, hash_of(t->address_of(i, begin), end - begin)});
            d->brought[c.link].insert(i);
        }
    }
    return d;
}

// The link to read over next: of those that are not down the least suspected. kNoId: all were tried.
LinkId Engine::next_witness(Doubt& d) {
    LinkId best = kNoId;
    for (const Peer::Link& l : d.of->peer_->links()) {
        if (l.id == kNoId || d.tried.contains(l.id)) continue;
        bool reaches = !l.is_shm && !(l.is_rdma && !d.of->peer_->carried_by_rdma(*d.of));
        if (!reaches && !d.brought.contains(l.id)) continue;  // it may not reach that memory
        if (sprayer_.view(l.id).state == sched::LinkState::down) continue;
        if (best == kNoId || d.brought[l.id].size() < d.brought[best].size()) best = l.id;
    }
    d.tried.insert(best);
    return best;
}

// Reads what is still in doubt over the next link alone. False: there is none left, or it cannot be read.
bool Engine::read_again(const std::shared_ptr<Doubt>& d) {
    const Transfer& of = *d->of;
    bool kept = std::all_of(of.used_.begin(), of.used_.end(), [&](SegmentId id) {
        auto s = registry_.find(id);
        return s && !s->revoked;
    });
    if (d->ranges.empty() || of.peer_->dead() || closed_.load() || !kept) return false;
    LinkId link = next_witness(*d);
    if (link == kNoId) return false;
    auto t = std::make_shared<Transfer>();
    t->prefix_.push_back(0);
    std::vector<Destinations::Interval> to;
    for (uint32_t i : d->ranges) {
        uint64_t bytes = of.prefix_[i + 1] - of.prefix_[i];
        t->local_.push_back(of.local_[i]);
        t->offset_.push_back(of.offset_[i]);
        t->segment_.push_back(of.segment_.size() == 1 ? of.segment_[0] : of.segment_[i]);
        if (!of.epoch_.empty()) t->epoch_.push_back(of.epoch_[i]);
        t->left_.push_back(bytes);
        t->prefix_.push_back(t->prefix_.back() + bytes);
        to.push_back({of.local_[i], of.local_[i] + bytes});
    }
    // While the transfer lives, its destinations are its own; afterwards somebody else's, perhaps.
    if (of.released()) {
        if (!Destinations::normalise(to) || !destinations_.enter(0, to)) return false;
        t->destinations_ = std::move(to);
    }
    t->used_ = of.used_;
    for (SegmentId id : t->used_) ++registry_.find(id)->transfers;
    t->total_ = t->prefix_.back();
    t->states_ = std::vector<std::atomic<uint8_t>>(t->left_.size());
    t->op_ = Op::read;
    t->priority_ = of.priority_;
    t->peer_ = of.peer_;
    t->id_ = next_transfer_++;
    t->submitted_at_ = monotonic_now();
    t->deadline_ = of.deadline_;
    t->doubt_ = d;
    transfers_[t->id_] = t;

    sched::FlowSpec spec;
    spec.peer = t->peer_->index();
    spec.bytes = t->total_;
    spec.op = Op::read;
    spec.priority = t->priority_;
    spec.deadline = t->deadline_;
    spec.shape = t.get();
    spec.allowed = {link};
    t->in_sprayer_ = true;
    ++counters_.read_again;
    sprayer_.add_flow(t->id_, spec, t->submitted_at_);
    return true;
}

void Engine::read_again_ended(Transfer& t) {
    auto d = std::move(t.doubt_);
    Transfer& of = *d->of;
    if (of.reading_again_) {
        std::vector<uint32_t> good;
        for (uint32_t i : d->ranges) {
            if (!of.done() && of.check_ok(i)) good.push_back(i);
        }
        settle(*d, good);
        for (uint32_t i : good) of.accept(i);
        if (!of.done() && read_again(d)) return;
        of.reading_again_ = false;
        for (uint32_t i : of.doubted_) of.fail_check(i);
        finish(d->of, of.errors_.empty() ? Status::good() : of.errors_.front().status, RangeState::failed);
        if (!of.in_sprayer_) release(d->of);
    }
    d->ended.store(true, std::memory_order_release);
    wake_followers();
}

// Which links spoilt what is good now. A page that is still bad is its owner's to look at.
void Engine::settle(Doubt& d, std::span<const uint32_t> good) {
    std::set<uint32_t> now_good(good.begin(), good.end());
    std::set<LinkId> guilty;
    for (const Doubt::Part& p : d.parts) {
        if (!now_good.contains(p.range)) continue;
        if (hash_of(d.of->address_of(p.range, p.begin), p.end - p.begin) != p.before) guilty.insert(p.link);
    }
    std::erase_if(d.parts, [&](const Doubt::Part& p) { return now_good.contains(p.range); });
    // What came over two links alike is what its owner has: nothing is gained by reading it once more.
    auto settled = [&](uint32_t i) {
        const Transfer& of = *d.of;
        return now_good.contains(i) ||
               !d.seen[i].insert(hash_of(of.local_[i], of.prefix_[i + 1] - of.prefix_[i])).second;
    };
    std::erase_if(d.ranges, settled);
    for (LinkId link : guilty) {
        Peer::Link* l = d.of->peer_->link_of(link);
        if (l == nullptr || link_peer_[link] != d.of->peer_.get()) continue;  // the peer is gone
        log(LogLevel::warning,
            "link " + l->name +
                " is corrupting: bytes that it brought do not match their check, and do when "
                "they come over another one. It is taken down");
        sprayer_.link_corrupting(link, monotonic_now());
    }
}

// Ends the second readings of a transfer that is not wanted any more.
void Engine::stop_reading_again(Transfer& of) {
    std::vector<std::shared_ptr<Transfer>> all;
    for (const auto& [id, t] : transfers_) {
        if (t->doubt_ && t->doubt_->of.get() == &of) all.push_back(t);
    }
    for (const auto& t : all) {
        finish(t, {Code::cancelled, "not wanted any more"}, RangeState::cancelled);
        sprayer_.cancel_flow(t->id_, monotonic_now());
    }
}

// ---- any thread

std::shared_ptr<Doubt> Engine::doubt(Transfer& transfer, std::vector<uint32_t> ranges) {
    std::lock_guard token(token_);
    std::erase_if(ranges, [&](uint32_t i) { return i >= transfer.ranges(); });
    return doubt(transfer.shared_from_this(), std::move(ranges));
}

bool Engine::read_again(const std::shared_ptr<Doubt>& d, Nanos timeout) {
    {
        std::lock_guard token(token_);
        if (!usable().ok() || !d->of->done()) return false;
        d->ended = false;
        if (!read_again(d)) return false;
        pump();
        tick_soon(monotonic_now(), true);
    }
    if (wait_for(d->ended, timeout)) return true;
    {
        std::lock_guard token(token_);
        stop_reading_again(*d->of);
        pump();
    }
    wait_for(d->ended, kNever);  // reads are fenced on this side
    return true;
}

void Engine::settle_doubt(Doubt& d, std::span<const uint32_t> good) {
    std::lock_guard token(token_);
    settle(d, good);
    pump();
}

}  // namespace tent::engine
