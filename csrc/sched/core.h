// The sprayer's inside, one concept a file: topology.cpp (rails, links, what they carry together), flows.cpp
// (queues and their ends), binding.cpp (which link takes which slice), hedge.cpp (late ones move early),
// policy.cpp (others to compare with), attempts.cpp (posting and outcomes), health.cpp (suspicion, probes,
// re-issue), accounts.cpp (views and sums).
#pragma once

#include <map>
#include <set>

#include "sched/math.h"
#include "sched/state.h"
#include "sched/tables.h"

namespace tent::sched {

class Core {
  public:
    explicit Core(const Settings& settings);

    // topology.cpp
    RailId add_rail(const RailSpec& spec);
    bool forget_rail(RailId rail);
    LinkId add_link(const LinkSpec& spec);
    void remove_link(LinkId link);
    bool forget_link(LinkId link);
    void link_window(LinkId link, uint64_t bytes, Nanos until);
    // flows.cpp
    void add_flow(FlowId id, const FlowSpec& spec);
    void set_priority(FlowId id, Priority priority);
    void cancel_flow(FlowId id);
    // attempts.cpp
    void attempt_ended(AttemptId id, Outcome outcome, uint16_t reason);
    void attempt_progress(AttemptId id, uint64_t bytes);
    // health.cpp
    void link_down(LinkId link);
    void link_up(LinkId link);
    void link_probe(LinkId link, bool good);
    void link_corrupting(LinkId link);
    void link_asleep(LinkId link);
    void rail_shared(RailId rail, uint64_t in_flight, uint64_t arrived);
    void own_lag(Nanos lag);
    void tick();
    Nanos next_wakeup() const { return std::min({deadlines_.earliest(), checks_.earliest(), hedge_due_}); }
    // binding.cpp
    bool next(Action& action);
    Nanos predict(PeerId peer, uint64_t bytes, Priority priority);
    // accounts.cpp
    LinkView view(LinkId link) const;
    RailView rail(RailId rail) const;
    AttemptView attempt(AttemptId id) const;
    bool balanced() const;
    size_t flows() const { return flow_slots_.size(); }
    uint64_t outstanding() const { return attempt_slots_.size(); }
    uint64_t hedged() const { return hedged_; }

    // Every event says when it happened; time never runs backwards here.
    void at(Nanos now) { now_ = std::max(now_, now); }

  private:
    friend struct Checkpoint;  // checkpoint.cpp: reads and writes all of it
    // topology.cpp
    uint32_t peer_slot(PeerId id);
    bool usable(const Link& l) const { return l.state == LinkState::up || l.state == LinkState::probation; }
    bool other_usable(LinkId link) const;
    void topology_changed();
    void refresh(Peer& p);
    void refresh_all();
    uint64_t link_rate(const Link& l) const;
    void set_rate(Link& l, uint64_t rate);
    void set_pipe(Link& l);
    void set_group(Peer& p, size_t group);
    void count_link(LinkId link, bool counted);
    void load_add(Link& l, int priority, uint64_t bytes);
    void load_less(Link& l, int priority, uint64_t bytes, bool attempt);
    template <class F>
    void each_rail(const Link& l, F f) {
        f(rails_[l.spec.local]);
        if (l.spec.remote != l.spec.local) f(rails_[l.spec.remote]);
    }
    void delivered(LinkId link, uint64_t bytes, bool more);
    void judge_path(Link& l, RateModel::Verdict verdict);

    // flows.cpp
    void enqueue(uint32_t slot);
    void dequeue(uint32_t slot);
    void add_backlog(Peer& p, int priority, uint64_t bytes);
    void drop_backlog(Peer& p, int priority, uint64_t bytes);
    void give_back(Flow& f, uint32_t slot, Span span);
    Span next_span(const Flow& f) const;
    void take_span(Flow& f, uint32_t slot, uint64_t end);
    void end_flow(uint32_t slot);
    void fail_flow(uint32_t slot, uint16_t reason);
    void release_if_over(uint32_t slot);

    // binding.cpp
    struct Choice {
        LinkId link = kNoId;
        uint64_t want = 0;
        Nanos finish = 0;
    };
    bool bind(Action& action);
    bool bind_starved(Action& action);
    // `rank`: the class whose room it may use; that of a better class when it is starving.
    bool bind_peer(uint32_t peer, int priority, int rank, Action& action);
    bool any_room(const Peer& p, int rank) const;
    bool has_room(const Link& l, int rank, uint64_t want) const;
    bool load_has_room(const InFlight& load, uint64_t others, int rank, uint64_t want, uint64_t pipe) const;
    bool any_local_room(int rank) const;
    uint64_t window_of(const Link& l, const Flow& f) const;
    bool within_window(const Link& l, const Flow& f, int rank, uint64_t want) const;
    const Capacity* capacity_for(const Peer& p, const Flow& f) const;
    Nanos ends_in(const Peer& p, const Capacity& c, int priority, uint64_t backlog) const;
    Nanos wait_of(const Link& l, int rank, uint64_t extra) const;
    Nanos finish_in(const Link& l, int rank, uint64_t bytes) const {
        return add_time(l.latency.get(), wait_of(l, rank, bytes));
    }
    uint64_t slice_for(const Link& l, const Flow& f, Nanos left, bool single) const;
    Choice choose(const Peer& p, const Flow& f, int rank, const Capacity& c, Nanos ends) const;
    bool allowed(const Flow& f, LinkId link) const;

    // hedge.cpp
    void hedge();
    void hedge_peer(const Peer& p);
    LinkId idle_link(const Peer& p) const;
    bool move_late(LinkId from, LinkId to);
    void doubt_rate(LinkId link);

    // policy.cpp
    Choice choose_bound(Peer& p, Flow& f, int rank);
    void assign(Peer& p, Flow& f);
    uint64_t merit_of(const Link& l, uint64_t bytes) const;
    void share_out(Peer& p, Flow& f, const std::vector<LinkId>& links, uint64_t bytes);
    void give_share(Flow& f, LinkId link, uint64_t bytes);
    void take_share(Flow& f, LinkId link, uint64_t bytes);
    void drop_shares(Flow& f);
    void average_rate(Link& l, const Attempt& a);

    // attempts.cpp
    void post(uint32_t flow, const Choice& choice, Action& action);
    void revoke(uint32_t attempt);
    void forget(uint32_t attempt);

    // health.cpp
    void set_state(LinkId link, LinkState state);
    void go_down(LinkId link);
    void to_probation(LinkId link);
    void prove(Link& l, LinkId link);
    void sign_of_life(LinkId link);
    void be_patient(Link& l);
    Nanos patience(const Link& l) const;
    Nanos patient_until(const Link& l) const;
    void arm(LinkId link);
    void check_link(LinkId link);
    bool out_of_patience(LinkId link);
    bool somewhere_better(LinkId link) const;
    void bound_rate(Link& l);
    void reissue(LinkId link, bool all);
    uint64_t first_ramp() const { return settings_.slice_min; }

    // accounts.cpp
    bool flows_balanced() const;

    void emit(const Action& action) { actions_.push(action); }

    Settings settings_;
    Nanos now_ = 0;
    Nanos lag_ = 0;  // sum of our own lag
    std::vector<Rail> rails_;
    std::vector<Link> links_;
    std::set<RailId> free_rails_;  // forgotten: to be used again
    std::set<LinkId> free_links_;
    std::vector<RailId> locals_;  // rails that links start at
    std::vector<Peer> peers_;
    std::map<PeerId, uint32_t> peer_slots_;
    std::array<Group, kTiers> groups_;
    uint64_t version_ = 1;           // of links and rates
    uint64_t groups_refreshed_ = 0;  // version of groups_[].rate
    Nanos refresh_due_ = 0;

    Pool<Flow> flow_pool_;
    Pool<Attempt> attempt_pool_;
    IdTable flow_slots_, attempt_slots_;
    uint64_t next_order_ = 1;
    AttemptId next_attempt_ = 1;
    Timers deadlines_;  // by flow slot
    Timers checks_;     // by link
    Ring<Action> actions_;
    bool dirty_ = false;                          // binding may succeed
    std::array<uint32_t, kPriorities> turn_{};    // peer served next
    std::array<uint32_t, kPriorities> queued_{};  // flows in the queues of a class
    uint64_t reissue_credit_ = 0;
    uint64_t hedge_credit_ = 0, hedged_ = 0;  // bytes that may be moved early; attempts that were
    Nanos hedge_due_ = kNever;                // when the next one may be late
    // Invariant 9 for flows.
    uint64_t submitted_ = 0, completed_ = 0, failed_ = 0, cancelled_ = 0;
};

}  // namespace tent::sched
