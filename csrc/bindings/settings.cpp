// An engine's settings from what tent_core.config says: a flat dictionary by the settings' dotted names.
#include <pybind11/stl.h>

#include "bindings/bindings.h"

namespace tent::bindings {
namespace {

template <class T>
T get(const py::dict& d, const char* key, T missing) {
    return d.contains(key) ? d[key].cast<T>() : missing;
}

sched::Policy policy_of(const std::string& name) {
    if (name == "water") return sched::Policy::water;
    if (name == "robin") return sched::Policy::robin;
    if (name == "paper") return sched::Policy::paper;
    if (name == "fixed") return sched::Policy::fixed;
    raise({Code::invalid_argument,
           "engine.policy must be 'water', 'robin', 'paper' or 'fixed', not '" + name + "'"});
}

}  // namespace

engine::Settings settings_of(const py::dict& d) {
    engine::Settings s;
    s.cluster = get<std::string>(d, "cluster.id", s.cluster);
    s.secret = get<std::string>(d, "cluster.secret", s.secret);
    s.name = get<std::string>(d, "node.name", s.name);
    s.host_identity = get<std::string>(d, "node.host_identity", s.host_identity);
    s.bind = get<std::vector<std::string>>(d, "node.bind", {});
    s.include = get<std::vector<std::string>>(d, "rails.include", {});
    s.exclude = get<std::vector<std::string>>(d, "rails.exclude", {});
    s.rail_rates = get<std::map<std::string, uint64_t>>(d, "rails.rates", {});
    s.connections = get<int>(d, "tcp.connections", s.connections);
    s.idle_close = get<int64_t>(d, "tcp.idle_close_ms", s.idle_close / kMillisecond) * kMillisecond;
    s.max_connections = get<int>(d, "tcp.max_connections", s.max_connections);
    s.share_rails = get<bool>(d, "rails.share", s.share_rails);
    s.advertise = get<std::vector<std::string>>(d, "node.advertise", {});
    s.port = get<uint16_t>(d, "node.port", 0);
    s.deadline = get<int64_t>(d, "engine.deadline_ms", s.deadline / kMillisecond) * kMillisecond;
    s.lease = get<int64_t>(d, "engine.session_lease_ms", s.lease / kMillisecond) * kMillisecond;
    s.heartbeat = get<int64_t>(d, "engine.heartbeat_ms", s.heartbeat / kMillisecond) * kMillisecond;
    s.idle_heartbeat =
        get<int64_t>(d, "engine.idle_heartbeat_ms", s.idle_heartbeat / kMillisecond) * kMillisecond;
    s.connect_timeout =
        get<int64_t>(d, "engine.connect_timeout_ms", s.connect_timeout / kMillisecond) * kMillisecond;
    s.spin = get<int64_t>(d, "engine.spin_us", s.spin / kMicrosecond) * kMicrosecond;
    s.copy_threads = get<int>(d, "engine.copy_threads", s.copy_threads);
    s.inline_bytes = get<uint64_t>(d, "engine.inline_bytes", s.inline_bytes);
    s.slice_min = get<uint64_t>(d, "engine.slice_min", s.slice_min);
    s.slice_max = get<uint64_t>(d, "engine.slice_max", s.slice_max);
    s.policy = policy_of(get<std::string>(d, "engine.policy", "water"));
    s.hedge_percent = get<uint32_t>(d, "engine.hedge_percent", s.hedge_percent);
    s.recorder_bytes = get<uint64_t>(d, "recorder.memory", s.recorder_bytes);
    s.tcp = get<bool>(d, "tcp.enabled", s.tcp);
    s.shm = get<bool>(d, "shm.enabled", s.shm);
    s.pull = get<bool>(d, "shm.pull", s.pull);
    s.rdma = get<bool>(d, "rdma.enabled", s.rdma);
    s.verbs.mtu = get<int>(d, "rdma.mtu", s.verbs.mtu);
    s.verbs.traffic_class = get<int>(d, "rdma.traffic_class", s.verbs.traffic_class);
    s.verbs.service_level = get<int>(d, "rdma.service_level", s.verbs.service_level);
    s.verbs.pkey_index = get<int>(d, "rdma.pkey_index", s.verbs.pkey_index);
    s.verbs.queue_depth = get<int>(d, "rdma.queue_depth", s.verbs.queue_depth);
    s.verbs.timeout = get<int>(d, "rdma.timeout", s.verbs.timeout);
    s.verbs.retry_count = get<int>(d, "rdma.retry_count", s.verbs.retry_count);
    s.congestion = get<std::string>(d, "tcp.congestion", s.congestion);
    s.sndbuf = get<int>(d, "tcp.sndbuf", s.sndbuf);
    s.rcvbuf = get<int>(d, "tcp.rcvbuf", s.rcvbuf);
    s.notsent_lowat = get<int>(d, "tcp.notsent_lowat", s.notsent_lowat);
#ifdef TENT_TEST_SWITCHES
    if (d.contains("test.faults")) s.decorator = decorator_of(d["test.faults"]);
#endif
    return s;
}

}  // namespace tent::bindings
