// The simulator: a description goes in as plain values, a whole run happens in native code, sums and columns
// come out. No logic here.
#include <pybind11/stl.h>

#include "bindings/bindings.h"
#include "transport/sim/world.h"

namespace tent::bindings {
namespace {

using namespace tent::sim;

template <class T, class Rows, class Get>
py::array_t<T> column(const Rows& rows, Get get) {
    py::array_t<T> out(static_cast<py::ssize_t>(rows.size()));
    T* at = out.mutable_data();
    for (const auto& row : rows) *at++ = static_cast<T>(get(row));
    return out;
}

// Times of a run count from its start.
int64_t since_start(Nanos t) {
    return t == kNever ? -1 : t - World::kStart;
}

py::dict transfers_of(const Report& r) {
    py::dict d;
    d["workload"] = column<uint32_t>(r.transfers, [](const auto& t) { return t.workload; });
    d["fate"] = column<uint8_t>(r.transfers, [](const auto& t) { return static_cast<int>(t.fate); });
    d["reason"] = column<uint16_t>(r.transfers, [](const auto& t) { return t.reason; });
    d["bytes"] = column<uint64_t>(r.transfers, [](const auto& t) { return t.bytes; });
    d["submitted"] = column<int64_t>(r.transfers, [](const auto& t) { return since_start(t.submitted); });
    d["ended"] = column<int64_t>(r.transfers, [](const auto& t) { return since_start(t.ended); });
    d["released"] = column<int64_t>(r.transfers, [](const auto& t) { return since_start(t.released); });
    return d;
}

py::dict penalties_of(const Report& r) {
    py::dict d;
    d["transfer"] = column<uint32_t>(r.penalties, [](const auto& p) { return p.transfer; });
    d["fault"] = column<uint32_t>(r.penalties, [](const auto& p) { return p.fault; });
    d["at"] = column<int64_t>(r.penalties, [](const auto& p) { return since_start(p.at); });
    d["took"] = column<int64_t>(r.penalties, [](const auto& p) { return p.took == kNever ? -1 : p.took; });
    return d;
}

py::dict health_of(const Report& r) {
    py::dict d;
    d["at"] = column<int64_t>(r.health, [](const auto& h) { return since_start(h.at); });
    d["wire"] = column<uint32_t>(r.health, [](const auto& h) { return h.wire; });
    d["state"] = column<uint8_t>(r.health, [](const auto& h) { return static_cast<int>(h.state); });
    d["alarm"] = column<uint8_t>(r.health, [](const auto& h) { return h.alarm; });
    d["last"] = column<uint8_t>(r.health, [](const auto& h) { return h.last; });
    return d;
}

py::dict slices_of(const Report& r) {
    py::dict d;
    d["wire"] = column<uint32_t>(r.drawn, [](const auto& s) { return s.wire; });
    d["transfer"] = column<uint32_t>(r.drawn, [](const auto& s) { return s.transfer; });
    d["attempt"] = column<uint64_t>(r.drawn, [](const auto& s) { return s.attempt; });
    d["begin"] = column<uint64_t>(r.drawn, [](const auto& s) { return s.begin; });
    d["end"] = column<uint64_t>(r.drawn, [](const auto& s) { return s.end; });
    d["posted"] = column<int64_t>(r.drawn, [](const auto& s) { return since_start(s.posted); });
    d["over"] = column<int64_t>(r.drawn, [](const auto& s) { return since_start(s.over); });
    d["predicted"] = column<int64_t>(r.drawn, [](const auto& s) { return since_start(s.predicted); });
    d["outcome"] = column<uint8_t>(r.drawn, [](const auto& s) { return static_cast<int>(s.outcome); });
    return d;
}

py::list wires_of(const Report& r) {
    py::list out;
    for (const WireSums& w : r.wires) {
        py::dict d;
        d["name"] = w.name;
        d["node"] = w.node;
        d["state"] = static_cast<int>(w.view.state);
        d["rate"] = w.view.rate_Bps;
        d["latency"] = w.view.latency;
        d["posted"] = w.view.posted;
        d["used"] = w.view.used;
        d["superseded"] = w.view.superseded;
        d["revoked"] = w.view.revoked;
        d["failed"] = w.view.failed;
        d["outstanding"] = w.view.outstanding;
        d["bytes_used"] = w.view.bytes_used;
        d["reissued"] = w.view.reissued;
        out.append(d);
    }
    return out;
}

py::dict report_of(const Report& r) {
    py::dict d;
    auto digest = r.digest.value();
    d["digest"] = py::make_tuple(digest[0], digest[1]);
    d["end"] = since_start(r.end);
    d["events"] = r.events;
    d["actions"] = r.actions;
    d["posts"] = r.posts;
    d["revokes"] = r.revokes;
    d["hedged"] = r.hedged;
    d["probes"] = r.probes;
    d["drained"] = r.drained;
    d["sessions"] = r.sessions;
    d["sessions_lost"] = r.sessions_lost;
    d["violated"] = r.violated;
    d["by_invariant"] = std::vector<uint64_t>(r.by_invariant.begin(), r.by_invariant.end());
    py::list violations;
    for (const Violation& v : r.violations)
        violations.append(py::make_tuple(v.invariant, since_start(v.at), v.what));
    d["violations"] = violations;
    d["transfers"] = transfers_of(r);
    d["penalties"] = penalties_of(r);
    d["health"] = health_of(r);
    d["slices"] = slices_of(r);
    d["bins"] = column<uint64_t>(r.bins, [](uint64_t b) { return b; });
    d["wires"] = wires_of(r);
    return d;
}

// A field of `d` is required: Python's side fills in every default.
template <class T>
T get(const py::dict& d, const char* key) {
    return py::cast<T>(d[key]);
}
Nanos time_of(const py::dict& d, const char* key) {
    py::object value = d[key];
    return value.is_none() ? kNever : py::cast<Nanos>(value);
}

Options options_of(const py::dict& d) {
    Options o;
    o.seed = get<uint64_t>(d, "seed");
    o.sched.policy = static_cast<sched::Policy>(get<int>(d, "policy"));
    o.sched.slice_min = get<uint64_t>(d, "slice_min");
    o.sched.slice_max = get<uint64_t>(d, "slice_max");
    o.sched.initial_rate_Bps = get<uint64_t>(d, "initial_rate");
    o.sched.suspect_floor = time_of(d, "suspect_floor");
    o.sched.probe_interval = time_of(d, "probe_interval");
    o.sched.window_slices = get<uint64_t>(d, "window_slices");
    o.sched.hedge_ppm = get<uint32_t>(d, "hedge");
    o.credits = get<bool>(d, "credits");
    o.lease = time_of(d, "lease");
    o.heartbeat = time_of(d, "heartbeat");
    o.bin = time_of(d, "bin");
    o.late = time_of(d, "late");
    o.warm = time_of(d, "warm");
    o.crossed = get<bool>(d, "crossed");
    o.fencing = get<bool>(d, "fencing");
    o.drawn = get<bool>(d, "drawn");
    o.check_every = get<uint64_t>(d, "check_every");
    return o;
}

void add_rail(World& w, const py::dict& d) {
    RailSpec r;
    r.node = get<uint32_t>(d, "node");
    r.name = get<std::string>(d, "name");
    r.rate = get<uint64_t>(d, "rate");
    r.burst = get<uint64_t>(d, "burst");
    r.line = get<uint64_t>(d, "line");
    r.latency = time_of(d, "latency");
    r.network = get<uint32_t>(d, "network");
    r.through = py::object(d["through"]).is_none() ? kNoId : get<uint32_t>(d, "through");
    r.reach_ppm = get<uint64_t>(d, "reach_ppm");
    r.reach_latency = time_of(d, "reach_latency");
    r.tier = get<uint8_t>(d, "tier");
    r.known = get<bool>(d, "known");
    w.add_rail(r);
}

void add_workload(World& w, const py::dict& d) {
    WorkloadSpec s;
    s.from = get<uint32_t>(d, "from");
    s.to = get<uint32_t>(d, "to");
    s.op = get<bool>(d, "write") ? Op::write : Op::read;
    s.priority = static_cast<Priority>(get<int>(d, "priority"));
    s.bytes_low = get<uint64_t>(d, "bytes_low");
    s.bytes_high = get<uint64_t>(d, "bytes_high");
    s.concurrent = get<uint32_t>(d, "concurrent");
    s.count = get<uint64_t>(d, "count");
    s.start = time_of(d, "start");
    s.stop = time_of(d, "stop");
    s.pause = time_of(d, "pause");
    s.deadline = time_of(d, "deadline");
    s.cancel_ppm = get<uint64_t>(d, "cancel_ppm");
    w.add_workload(s);
}

void add_churn(World& w, const py::dict& d) {
    ChurnSpec c;
    c.kind = static_cast<ChurnSpec::Kind>(get<int>(d, "kind"));
    c.targets = get<std::vector<uint32_t>>(d, "targets");
    c.on = time_of(d, "on");
    c.off = time_of(d, "off");
    c.low_ppm = get<uint64_t>(d, "low_ppm");
    c.high_ppm = get<uint64_t>(d, "high_ppm");
    c.extra = time_of(d, "extra");
    c.start = time_of(d, "start");
    c.stop = time_of(d, "stop");
    w.add_churn(c);
}

constexpr const char* kFaultKinds[] = {"drop",     "delay",       "corrupt",    "stall",
                                       "slow",     "down",        "silent",     "one_way",
                                       "flap",     "fail_submit", "fail_after", "duplicate_completion",
                                       "stop_node"};
static_assert(std::size(kFaultKinds) == static_cast<size_t>(FaultKind::count));

FaultPlan plan_of(const py::dict& d) {
    FaultPlan plan;
    plan.seed = get<uint64_t>(d, "seed");
    for (py::handle row : py::list(d["faults"])) {
        auto f = py::cast<py::dict>(row);
        Fault fault;
        auto kind = get<std::string>(f, "kind");
        for (size_t i = 0; i < std::size(kFaultKinds); ++i)
            if (kind == kFaultKinds[i]) fault.kind = static_cast<FaultKind>(i);
        fault.transport = get<std::string>(f, "transport");
        fault.node = get<std::string>(f, "node");
        fault.rail = get<std::string>(f, "rail");
        fault.peer = get<std::string>(f, "peer");
        fault.peer_rail = get<std::string>(f, "peer_rail");
        fault.at = get<Nanos>(f, "at_ns");
        fault.duration = get<Nanos>(f, "duration_ns");
        fault.from_attempt = get<uint64_t>(f, "from_attempt");
        fault.attempts = get<uint64_t>(f, "attempts");
        fault.chance_ppm = get<uint32_t>(f, "chance_ppm");
        fault.delay = get<Nanos>(f, "delay_ns");
        fault.jitter = get<Nanos>(f, "jitter_ns");
        fault.factor = get<uint32_t>(f, "factor");
        fault.period = get<Nanos>(f, "period_ns");
        fault.count = get<uint64_t>(f, "count");
        fault.direction = get<std::string>(f, "direction") == "in" ? FaultDirection::in : FaultDirection::out;
        plan.faults.push_back(fault);
    }
    return plan;
}

}  // namespace

void bind_sim(py::module_& m) {
    py::class_<World>(m, "SimWorld", "A simulated cluster; tent_core.sim describes one from a file.")
        .def(py::init([](const py::dict& options) { return new World(options_of(options)); }))
        .def("add_node", [](World& w, const std::string& name) { return w.add_node({name}); })
        .def("add_switch",
             [](World& w, const std::string& name, uint64_t rate, Nanos latency) {
                 return w.add_switch({name, rate, latency});
             })
        .def("add_rail", &add_rail)
        .def("add_workload", &add_workload)
        .def("add_churn", &add_churn)
        .def("set_plan", [](World& w, const py::dict& plan) { w.set_plan(plan_of(plan)); })
        .def("add_unregister",
             [](World& w, uint32_t node, Nanos at, std::optional<Nanos> back) {
                 w.add_unregister({node, at, back.value_or(kNever)});
             })
        .def(
            "run", [](World& w, std::optional<Nanos> until) { w.run(until.value_or(kNever)); },
            py::call_guard<py::gil_scoped_release>())
        .def("report", [](World& w) { return report_of(w.finish()); });
}

}  // namespace tent::bindings
