#include <pybind11/stl.h>

#include <optional>

#include "bindings/bindings.h"
#include "sched/replay.h"

namespace tent::bindings {

using engine::Engine;
using sched::EventKind;

namespace {

constexpr const char* kStates[] = {"down", "up", "suspect", "probation"};
constexpr const char* kOutcomes[] = {"done", "link_error", "revoked", "refused"};
constexpr const char* kPriorityNames[] = {"interactive", "normal", "bulk"};
constexpr Nanos kPatience = 5 * kSecond;

// Nothing where it did not happen (yet).
py::object or_none(int64_t v) {
    return v < 0 ? py::object(py::none()) : py::object(py::int_(v));
}

py::dict link_dict(const proto::ObservedLink& l) {
    py::dict d;
    d["peer"] = l.peer;
    d["transport"] = l.transport;
    d["name"] = l.name;
    d["state"] = proto::kLinkStates[l.state];
    d["rate_Bps"] = l.rate;
    d["burst"] = l.burst;
    d["in_flight"] = l.in_flight;
    d["latency_ns"] = l.latency;
    d["posted"] = l.posted;
    d["used"] = l.used;
    d["superseded"] = l.superseded;
    d["revoked"] = l.revoked;
    d["failed"] = l.failed;
    d["outstanding"] = l.outstanding;
    d["bytes_posted"] = l.bytes_posted;
    d["bytes_used"] = l.bytes_used;
    d["bytes_reissued"] = l.bytes_reissued;
    d["faults"] = l.faults;
    const auto& f = l.last_fault;
    if (l.faults == 0) {
        d["last_fault"] = py::none();
        return d;
    }
    py::dict times;
    times["at_ns"] = f.at;
    times["detect_ns"] = or_none(f.detect);
    times["reroute_ns"] = or_none(f.reroute);
    times["fence_ns"] = or_none(f.fence);
    times["readmit_ns"] = or_none(f.readmit);
    d["last_fault"] = times;
    return d;
}

py::dict stats_dict(const proto::NodeStats& s) {
    py::dict d;
    d["name"] = s.name;
    d["incarnation"] = to_bytes(ByteView(s.incarnation.data(), s.incarnation.size()));
    d["now_ns"] = s.now;
    d["uptime_ns"] = s.uptime;
    py::dict counters;
    for (const auto& [name, value] : s.counters) counters[py::str(name)] = value;
    d["counters"] = counters;
    py::list links;
    for (const auto& l : s.links) links.append(link_dict(l));
    d["links"] = links;
    return d;
}

void add_head(py::dict& d, const sched::RecordingHead& head) {
    d["node"] = head.node;
    d["reason"] = head.reason;
    d["incarnation"] = to_bytes(ByteView(head.incarnation.data(), head.incarnation.size()));
    d["monotonic_ns"] = head.monotonic;
    d["wall_ns"] = head.wall;
}

py::dict replay_dict(const py::bytes& recording) {
    Result<sched::Replay> r{Code::internal, ""};
    {
        ByteView bytes = view(recording);
        py::gil_scoped_release nogil;
        r = sched::replay(bytes);
    }
    check(r.status());
    py::dict d;
    add_head(d, r->head);
    d["segments"] = r->segments;
    d["skipped"] = r->skipped;
    d["events"] = r->events;
    d["actions"] = r->actions;
    d["checkpoints"] = r->checkpoints;
    d["identical"] = r->identical;
    d["difference"] = r->difference;
    return d;
}

// An event as (kind, time, ...): the fields that a reader wants, in the order given in _native.pyi. None: an
// event that says nothing to a reader.
py::object event_tuple(const sched::Event& e) {
    const sched::Action& a = e.action;
    auto of_link = [&](const char* kind, LinkId link) { return py::make_tuple(kind, e.now, link); };
    switch (e.kind) {
        case EventKind::add_flow:
            return py::make_tuple(
                "flow", e.now, e.flow, e.flow_spec.peer, e.flow_spec.bytes,
                e.flow_spec.op == Op::read ? "read" : "write",
                kPriorityNames[std::min<size_t>(static_cast<size_t>(e.flow_spec.priority), 2)]);
        case EventKind::cancel_flow:
            return py::make_tuple("flow_cancelled", e.now, e.flow);
        case EventKind::post:
            return py::make_tuple("post", e.now, a.flow, a.attempt, a.link, a.begin, a.end, a.predicted);
        case EventKind::ended:
            return py::make_tuple("ended", e.now, e.attempt, kOutcomes[static_cast<size_t>(e.outcome) & 3],
                                  e.reason);
        case EventKind::revoke:
            return py::make_tuple("revoke", e.now, a.attempt, a.link);
        case EventKind::flow_done:
            return py::make_tuple("flow_done", e.now, a.flow);
        case EventKind::flow_failed:
            return py::make_tuple("flow_failed", e.now, a.flow,
                                  std::string(code_name(code_from_wire(a.reason))));
        case EventKind::flow_released:
            return py::make_tuple("flow_released", e.now, a.flow);
        case EventKind::probe:
            return of_link("probe", a.link);
        case EventKind::probe_good:
            return of_link("probe_good", e.link);
        case EventKind::probe_bad:
            return of_link("probe_bad", e.link);
        case EventKind::asleep:
            return of_link("asleep", e.link);
        case EventKind::corrupting:
            return of_link("corrupting", e.link);
        case EventKind::link_down:
            return of_link("transport_down", e.link);
        case EventKind::link_up:
            return of_link("transport_up", e.link);
        case EventKind::link_state:
            return py::make_tuple("link_state", e.now, a.link, kStates[static_cast<size_t>(a.state) & 3]);
        case EventKind::window:
            return py::make_tuple("window", e.now, e.link, e.value);
        case EventKind::rail_shared:
            return py::make_tuple("rail_shared", e.now, e.rail_id, e.value, e.bytes);
        case EventKind::own_lag:
            return py::make_tuple("own_lag", e.now, e.value);
        default:
            return py::none();
    }
}

py::tuple link_tuple(LinkId id, const sched::LinkSpec& spec, sched::LinkState state) {
    return py::make_tuple(id, spec.name, spec.peer, spec.local, spec.remote,
                          kStates[static_cast<size_t>(state) & 3]);
}

py::dict segment_dict(const sched::SegmentBytes& bytes) {
    sched::SegmentReader reader(bytes.bytes);
    py::dict d;
    d["sequence"] = bytes.sequence;
    d["begins_ns"] = reader.begins();
    d["replayable"] = !reader.checkpoint().empty();
    py::list rails, links, posted, events;
    std::optional<sched::LinkSpec> added;
    auto next_link = static_cast<LinkId>(reader.outline().links.size());
    for (const auto& r : reader.outline().rails) rails.append(r.name);
    for (const auto& l : reader.outline().links) links.append(link_tuple(l.link, l.spec, l.state));
    for (const auto& p : reader.outline().posted) {
        posted.append(py::make_tuple(p.attempt, p.view.flow, p.view.link, p.view.begin, p.view.end,
                                     p.view.posted_at, p.view.predicted));
    }
    sched::Event e;
    while (reader.next(e)) {
        if (e.kind == EventKind::add_link) {
            added = e.link_spec;
            links.append(link_tuple(next_link++, *added, sched::LinkState::up));
            continue;
        }
        if (e.kind == EventKind::link_id && added) {  // it has another id than a new one would have
            links[links.size() - 1] = link_tuple(e.link, *added, sched::LinkState::up);
            --next_link;
            added.reset();
            continue;
        }
        py::object t = event_tuple(e);
        if (!t.is_none()) events.append(std::move(t));
    }
    if (!reader.ok()) raise({Code::protocol, "a segment of the recording is damaged"});
    d["rails"] = rails;
    d["links"] = links;
    d["posted"] = posted;
    d["events"] = events;
    return d;
}

py::dict read_recording(const py::bytes& recording) {
    sched::RecordingHead head;
    std::vector<sched::SegmentBytes> segments;
    check(sched::open_recording(view(recording), head, segments));
    py::dict d;
    add_head(d, head);
    py::list all;
    for (const auto& s : segments) all.append(segment_dict(s));
    d["segments"] = all;
    return d;
}

// One question to a peer; its answer, decoded.
template <class Reply, class Request>
Reply ask(const PeerHandle& p, proto::ObserveMethod method, const Request& request) {
    Bytes body;
    proto::encode(request, body);
    Result<Bytes> r{Code::internal, ""};
    {
        py::gil_scoped_release nogil;
        r = p.engine->call(*p.peer, static_cast<uint16_t>(method), body, kPatience);
    }
    check(r.status());
    Reply reply;
    Code code = proto::decode(*r, reply);
    if (code != Code::ok)
        raise({code, "node '" + p.peer->descriptor().name + "' answered in a way that is not understood"});
    return reply;
}

py::bytes only_rail(const py::bytes& blob, size_t index) {
    Result<engine::Descriptor> d = engine::decode_descriptor(view(blob));
    check(d.status());
    if (index >= d->rails.size()) raise({Code::invalid_argument, "the node has no such rail"});
    d->rails = {d->rails[index]};
    d->unix_name.clear();
    return to_bytes(engine::encode(*d));
}

void bind_probes(py::module_& m) {
    using proto::ObserveMethod;
    m.def("only_rail", &only_rail, py::arg("descriptor"), py::arg("rail"));
    m.def("take_probe", [](const EngineHandle& h) -> py::object {
        engine::ProbeJob job;
        if (!h.engine->take_probe(job)) return py::none();
        return py::make_tuple(job.id, to_bytes(job.descriptor), job.milliseconds);
    });
    m.def("probe_done", [](const EngineHandle& h, uint64_t ticket, const std::string& report) {
        h.engine->probe_done(ticket, report);
    });
    m.def("peer_probe_memory", [](const PeerHandle& p) {
        return ask<proto::ProbeTicket>(p, ObserveMethod::probe_memory, proto::ProbeMemory{}).id;
    });
    m.def("peer_probe", [](const PeerHandle& p, const py::bytes& descriptor, uint32_t milliseconds) {
        ByteView v = view(descriptor);
        proto::ProbeRequest request{Bytes(v.begin(), v.end()), milliseconds};
        return ask<proto::ProbeTicket>(p, ObserveMethod::probe, request).id;
    });
    m.def("peer_probe_result", [](const PeerHandle& p, uint64_t ticket) -> py::object {
        auto r = ask<proto::ProbeReport>(p, ObserveMethod::probe_result, proto::ProbeTicket{ticket});
        if (!r.finished) return py::none();
        return to_bytes(as_bytes(r.text));
    });
}

}  // namespace

void bind_observe(py::module_& m) {
    bind_probes(m);
    m.def("replay_recording", &replay_dict, py::arg("recording"));
    m.def("read_recording", &read_recording, py::arg("recording"));
    m.def("node_stats", [](const EngineHandle& h) {
        proto::NodeStats s;
        {
            py::gil_scoped_release nogil;
            s = h.engine->stats();
        }
        return stats_dict(s);
    });
    m.def("node_recording", [](const EngineHandle& h, const std::string& reason) {
        Bytes b;
        {
            py::gil_scoped_release nogil;
            b = h.engine->recording(reason);
        }
        return to_bytes(b);
    });
    m.def(
        "peer_stats",
        [](const PeerHandle& p, std::optional<double> timeout) {
            Result<proto::NodeStats> s{Code::internal, ""};
            {
                py::gil_scoped_release nogil;
                s = p.engine->stats_of(*p.peer, nanos(timeout, kPatience));
            }
            check(s.status());
            return stats_dict(*s);
        },
        py::arg("peer"), py::arg("timeout") = py::none());
    m.def(
        "peer_recording",
        [](const PeerHandle& p, const std::string& reason, std::optional<double> timeout) {
            Result<Bytes> b{Code::internal, ""};
            {
                py::gil_scoped_release nogil;
                b = p.engine->recording_of(*p.peer, reason, nanos(timeout, kPatience));
            }
            check(b.status());
            return to_bytes(*b);
        },
        py::arg("peer"), py::arg("reason"), py::arg("timeout") = py::none());
    m.def("take_fault", [](const EngineHandle& h) {
        std::string what;
        h.engine->take_fault(what);
        return what;
    });
}

}  // namespace tent::bindings
