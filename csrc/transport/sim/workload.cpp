// Who transfers what: closed loops, each with a buffer that it uses again as soon as the last transfer was
// released.
#include "transport/sim/world.h"

namespace tent::sim {

void World::submit(uint32_t id) {
    Worker& worker = workers_[id];
    Workload& w = workloads_[worker.workload];
    const WorkloadSpec& spec = w.spec;
    if ((spec.count != 0 && w.begun >= spec.count) || now_ >= spec.stop) {
        --busy_workers_;
        return;
    }
    ++w.begun;
    auto transfer = static_cast<uint32_t>(report_.transfers.size());
    TransferRecord t;
    t.workload = worker.workload;
    t.bytes = std::max<uint64_t>(1, w.random.between(spec.bytes_low, spec.bytes_high));
    t.submitted = now_;
    report_.transfers.push_back(t);
    transfers_.push_back({id, worker.session, t.bytes});
    live_transfers_.push_back(transfer);
    worker.holder = transfer;
    ++live_;
    ++sessions_[worker.session].transfers;
    sched::FlowSpec f;
    f.peer = spec.to;
    f.bytes = t.bytes;
    f.op = spec.op;
    f.priority = spec.priority;
    f.deadline = spec.deadline == kNever ? kNever : now_ + spec.deadline;
    if (w.random.chance(spec.cancel_ppm)) {
        Nanos soon = sched::time_of(t.bytes, 1'000'000'000) + kMillisecond;
        agenda_.add(now_ + static_cast<Nanos>(w.random.below(static_cast<uint64_t>(soon))), What::cancel,
                    transfer);
    }
    nodes_[spec.from].sprayer->add_flow(transfer + 1, f, now_);
    settle(spec.from);
}

void World::again(uint32_t id) {
    Worker& worker = workers_[id];
    Workload& w = workloads_[worker.workload];
    --sessions_[worker.session].transfers;
    Nanos pause = w.spec.pause > 0 ? w.random.exponential(w.spec.pause) : 0;
    agenda_.add(now_ + pause, What::submit, id);
}

}  // namespace tent::sim
