// Policies that bind a flow's bytes to links when it is submitted, over the same links, queues and health:
// what ours is compared with. What a link that fails was to carry is bound anew.
#include "sched/core.h"

namespace tent::sched {

namespace {
constexpr uint64_t kSlice = 64 << 10;
// Weight of a link by its affinity.
constexpr uint64_t kWeights[] = {1, 1, 3, 9};
}  // namespace

Core::Choice Core::choose_bound(Peer& p, Flow& f, int rank) {
    assign(p, f);
    Span span = next_span(f);
    for (const Share& s : f.shares) {
        uint64_t want = std::min({kSlice, s.bytes, span.end - span.begin});
        if (want == 0 || !has_room(links_[s.link], rank, want)) continue;
        return {s.link, want, finish_in(links_[s.link], f.priority(), want)};
    }
    return {};
}

// Every byte that is on no link belongs to one that can carry it.
void Core::assign(Peer& p, Flow& f) {
    uint64_t bound = 0;
    for (Share& s : f.shares) {
        if (s.bytes != 0 && !usable(links_[s.link])) take_share(f, s.link, s.bytes);
        bound += s.bytes;
    }
    if (bound >= f.unbound()) return;
    std::vector<LinkId> links;
    for (LinkId id : p.usable) {
        if (links_[id].spec.tier == links_[p.usable.front()].spec.tier && allowed(f, id)) links.push_back(id);
    }
    if (!links.empty()) share_out(p, f, links, f.unbound() - bound);
}

// What a link's share is in proportion to. Never 0.
uint64_t Core::merit_of(const Link& l, uint64_t bytes) const {
    if (settings_.policy == Policy::fixed) return std::max<uint64_t>(rails_[l.spec.local].nominal, 1);
    // 1 / score, scaled so that sums fit: rate / (queue + bytes) / weight.
    uint64_t rate = l.average != 0 ? l.average : link_rate(l);
    uint64_t weight = kWeights[std::min<size_t>(l.spec.affinity, 3)];
    return std::max<uint64_t>(mul_div(rate, 1 << 16, (l.load.all() + l.bound + bytes) * weight), 1);
}

void Core::share_out(Peer& p, Flow& f, const std::vector<LinkId>& links, uint64_t bytes) {
    if (settings_.policy == Policy::robin) {
        for (uint64_t left = bytes; left > 0;) {
            uint64_t n = std::min(left, kSlice);
            give_share(f, links[p.robin++ % links.size()], n);
            left -= n;
        }
        return;
    }
    std::vector<uint64_t> merit;
    uint64_t sum = 0;
    for (LinkId id : links) {
        merit.push_back(merit_of(links_[id], bytes));
        sum += merit.back();
    }
    size_t best = static_cast<size_t>(std::max_element(merit.begin(), merit.end()) - merit.begin());
    uint64_t left = bytes;
    for (size_t i = 0; bytes > kSlice && i < links.size(); ++i) {
        uint64_t n = mul_div(bytes, merit[i], sum) / kSlice * kSlice;
        give_share(f, links[i], n);
        left -= n;
    }
    give_share(f, links[best], left);
}

void Core::give_share(Flow& f, LinkId link, uint64_t bytes) {
    if (bytes == 0) return;
    links_[link].bound += bytes;
    for (Share& s : f.shares) {
        if (s.link != link) continue;
        s.bytes += bytes;
        return;
    }
    f.shares.push_back({link, bytes});
}

void Core::take_share(Flow& f, LinkId link, uint64_t bytes) {
    for (Share& s : f.shares) {
        if (s.link != link) continue;
        uint64_t n = std::min(bytes, s.bytes);
        s.bytes -= n;
        links_[link].bound -= n;
    }
}

void Core::drop_shares(Flow& f) {
    for (const Share& s : f.shares) links_[s.link].bound -= s.bytes;
    f.shares.clear();
}

// Exponentially weighted, between a tenth and ten times what the link was said to carry.
void Core::average_rate(Link& l, const Attempt& a) {
    uint64_t seen = rate_of(a.bytes(), now_ - std::max(a.posted_at, l.last_done));
    l.last_done = now_;
    l.average = l.average == 0 ? seen : l.average / 8 * 7 + seen / 8;
    uint64_t nominal = std::min(rails_[l.spec.local].nominal, rails_[l.spec.remote].nominal);
    if (nominal != 0) l.average = std::clamp(l.average, nominal / 10, nominal * 10);
}

}  // namespace tent::sched
