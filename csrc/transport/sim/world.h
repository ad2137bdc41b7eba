// A cluster in one thread, under a clock that jumps from event to event: the engine's own sprayer, attempt
// table, leases and responder at both ends, and rails, switches, faults and workloads from a seed between
// them. The same description and seed give the same run, bit for bit. One file a concept: wires.cpp (how
// bytes travel), asking.cpp (the end that asks), owning.cpp (the end that owns), sessions.cpp (leases,
// revokes, probes), faults.cpp, workload.cpp, world.cpp (building and running).
#pragma once

#include <map>

#include "transport/sim/report.h"
#include "transport/sim/state.h"

namespace tent::sim {

class World {
  public:
    explicit World(const Options& options);
    ~World();

    static constexpr Nanos kStart = kSecond;  // no time is 0; times of a description count from here

    // ---- building; all before the first run() ----
    uint32_t add_node(const NodeSpec& spec);
    uint32_t add_switch(const SwitchSpec& spec);
    uint32_t add_rail(const RailSpec& spec);
    void add_workload(const WorkloadSpec& spec);
    void set_plan(const FaultPlan& plan) { plan_ = plan; }
    void add_unregister(const UnregisterSpec& spec) { unregisters_.push_back(spec); }
    void add_churn(const ChurnSpec& spec);

    // Until `until`, or until no transfer is left and none will come.
    void run(Nanos until);
    // All work is over: nothing is left to do but what leases and probes do for ever.
    bool idle() const { return live_ == 0 && busy_workers_ == 0; }
    Nanos now() const { return now_; }
    // Sums, and what can only be judged at the end.
    const Report& finish();
    const std::vector<Wire>& wires() const { return wires_; }

  private:
    // world.cpp
    void start();
    void connect(uint32_t session);
    uint32_t session_for(uint32_t from, uint32_t to);
    void handle(const Event& e);
    bool held_by_stop(const Event& e);
    uint32_t node_of(const Event& e) const;
    void check_accounts(uint32_t node);
    void touched(int what, uint64_t a, uint64_t b);

    // wires.cpp
    bool dead(const Wire& w, Way way) const;
    uint32_t new_lane(uint32_t wire, Way way);
    void fresh_lanes(uint32_t wire);
    void send(uint32_t lane, const Frame& frame);
    void pump(uint32_t lane);
    void piece_sent(uint32_t piece);
    void hold(Lane& lane, uint32_t piece);
    void travel(uint32_t piece);
    void piece_through(uint32_t piece);
    void piece_arrived(uint32_t piece);
    void let_go(uint32_t piece);
    void resume(uint32_t lane);
    void wire_changed(uint32_t wire, Nanos late);
    void tell(const Message& m);
    void unhold(uint32_t attempt);

    // asking.cpp
    void settle(uint32_t node);
    void progress(uint32_t node);
    void perform(uint32_t node, const sched::Action& action);
    void post(uint32_t node, const sched::Action& action);
    void give_up(uint32_t attempt);
    void end_attempt(uint32_t attempt, sched::Outcome outcome, uint16_t reason);
    void answer_landed(const Piece& piece);
    void link_state(uint32_t node, const sched::Action& action);
    void transfer_over(uint32_t transfer, Fate fate, uint16_t reason);
    void transfer_released(uint32_t transfer);
    void finish_attempt(uint32_t attempt, sched::Outcome outcome);
    void landed(uint64_t bytes);
    bool may_touch(const Attempt& a, const char* what);

    // owning.cpp
    void asked(const Message& m);
    void serve(uint32_t rail);
    void write_landed(const Piece& piece);
    void give_credit(uint32_t wire, uint64_t bytes);
    void owner_gives(Attempt& a, Piece& piece);
    void unregister(uint32_t node);
    static bool takes_bytes(void* world, uint64_t lane);

    // sessions.cpp
    void message_came(uint32_t message);
    void owner_heard(const Message& m);
    void asker_heard(const Message& m);
    void heartbeat(uint32_t session);
    void lease_due(uint32_t session);
    void session_lost(uint32_t session);
    void session_again(uint32_t session);
    void revoke_at_owner(uint32_t attempt);
    void ask_again(uint32_t session);
    uint32_t control_wire(Session& s, bool next);
    void probe(uint32_t wire);

    // faults.cpp
    void place_plan();
    void planned(uint32_t fault);
    void apply(uint32_t fault, bool on);
    void kill_wire(uint32_t wire, bool there, bool back, bool on);
    void ail(uint32_t wire, bool on);
    void announce(uint32_t wire, bool back);
    void carrier(uint32_t wire, bool back);
    bool strike(uint32_t slot);
    void slow_rail(uint32_t rail, uint64_t ppm, bool on);
    void note_penalties(uint32_t fault);
    void settle_penalties(uint32_t transfer);
    void stop_node(uint32_t node);
    void go_on(uint32_t node);
    void churn(uint32_t churn, bool on);

    // workload.cpp
    void submit(uint32_t worker);
    void again(uint32_t worker);

    Options options_;
    Report report_;
    Nanos now_ = kStart;
    bool started_ = false;
    Agenda agenda_;
    std::vector<Node> nodes_;
    std::vector<Switch> switches_;
    std::vector<Rail> rails_;
    std::vector<Wire> wires_;
    std::vector<Session> sessions_;
    std::map<std::pair<uint32_t, uint32_t>, uint32_t> session_of_;
    std::vector<Lane> lanes_;
    sched::Pool<Piece> pieces_;
    sched::Pool<Message> messages_;
    sched::Pool<Attempt> attempts_;
    std::vector<Transfer> transfers_;  // beside report_.transfers
    std::vector<Workload> workloads_;
    std::vector<Worker> workers_;
    FaultPlan plan_;
    std::vector<Planned> planned_;
    std::vector<UnregisterSpec> unregisters_;
    std::vector<Churn> churns_;
    std::vector<uint32_t> live_transfers_;
    std::vector<uint32_t> pending_;  // penalties that are not known yet
    Random weather_;
    uint64_t live_ = 0, busy_workers_ = 0;
};

}  // namespace tent::sim
