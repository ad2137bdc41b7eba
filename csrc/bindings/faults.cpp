// Fault plans from Python, in test builds only.
#include "bindings/bindings.h"

#ifdef TENT_TEST_SWITCHES
#include <array>

#include "transport/fault/faults.h"

namespace tent::bindings {
namespace {

// In the enumeration's order, as tent_core.faults names them.
constexpr std::array<const char*, static_cast<size_t>(FaultKind::count)> kKinds = {
    "drop",     "delay",   "corrupt", "stall",       "slow",       "down",
    "silent",   "one_way", "flap",    "fail_submit", "fail_after", "duplicate_completion",
    "stop_node"};

Fault fault_of(const py::dict& d) {
    Fault f;
    auto kind = d["kind"].cast<std::string>();
    auto it = std::find(kKinds.begin(), kKinds.end(), kind);
    if (it == kKinds.end()) raise({Code::invalid_argument, "there is no kind of fault '" + kind + "'"});
    f.kind = static_cast<FaultKind>(it - kKinds.begin());
    f.transport = d["transport"].cast<std::string>();
    f.node = d["node"].cast<std::string>();
    f.rail = d["rail"].cast<std::string>();
    f.peer = d["peer"].cast<std::string>();
    f.peer_rail = d["peer_rail"].cast<std::string>();
    f.at = d["at_ns"].cast<Nanos>();
    f.duration = d["duration_ns"].cast<Nanos>();
    f.from_attempt = d["from_attempt"].cast<uint64_t>();
    f.attempts = d["attempts"].cast<uint64_t>();
    f.chance_ppm = d["chance_ppm"].cast<uint32_t>();
    f.delay = d["delay_ns"].cast<Nanos>();
    f.jitter = d["jitter_ns"].cast<Nanos>();
    f.factor = d["factor"].cast<uint32_t>();
    f.period = d["period_ns"].cast<Nanos>();
    f.count = d["count"].cast<uint64_t>();
    f.bytes = d["bytes"].cast<uint32_t>();
    f.direction = d["direction"].cast<std::string>() == "in" ? FaultDirection::in : FaultDirection::out;
    f.error = d["error"].cast<std::string>();
    return f;
}

}  // namespace

std::shared_ptr<transport::Decorator> decorator_of(const py::dict& d) {
    FaultPlan plan;
    plan.seed = d["seed"].cast<uint64_t>();
    for (py::handle one : d["faults"].cast<py::list>()) plan.faults.push_back(fault_of(one.cast<py::dict>()));
    auto made = transport::fault::Faults::create(std::move(plan));
    check(made.status());
    return *made;
}

}  // namespace tent::bindings
#endif
