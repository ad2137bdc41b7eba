#include <pybind11/stl.h>

#include "bindings/bindings.h"
#include "bindings/store_arrays.h"
#include "proto/observe_messages.h"

namespace tent::bindings {

using engine::Engine;
using engine::Peer;
using engine::Transfer;

namespace {

constexpr Nanos kSignalPause = 50 * kMillisecond;  // Ctrl-C is noticed this often

Rights rights_of(const std::string& access) {
    if (access == "rw") return Rights::read_write;
    if (access == "r") return Rights::read;
    if (access == "w") return Rights::write;
    if (access == "private") return Rights::none;
    raise({Code::invalid_argument, "access must be 'rw', 'r', 'w' or 'private', not '" + access + "'"});
}

Priority priority_of(const std::string& name) {
    if (name == "interactive") return Priority::interactive;
    if (name == "normal") return Priority::normal;
    if (name == "bulk") return Priority::bulk;
    raise({Code::invalid_argument, "priority must be 'interactive', 'normal' or 'bulk', not '" + name + "'"});
}

py::tuple segment_tuple(const engine::Segment& s) {
    return py::make_tuple(s.id, s.name, reinterpret_cast<uint64_t>(s.base), s.length,
                          s.face == nullptr ? 0 : reinterpret_cast<uint64_t>(s.face->epochs),
                          s.extent_bytes());
}

// Waits without the GIL, waking up for signals.
template <class F>
bool wait_interruptibly(Nanos timeout, F wait) {
    Nanos until = timeout == kNever ? kNever : monotonic_now() + timeout;
    for (;;) {
        bool done;
        Nanos left = until == kNever ? kSignalPause : std::min(kSignalPause, until - monotonic_now());
        {
            py::gil_scoped_release nogil;
            done = wait(std::max<Nanos>(left, 0));
        }
        if (done) return true;
        if (PyErr_CheckSignals() != 0) throw py::error_already_set();
        if (monotonic_now() >= until) return false;
    }
}

std::shared_ptr<TransferHandle> submit(const EngineHandle& h, const PeerHandle& peer, bool write,
                                       const Array<uint64_t>& local, const Array<uint32_t>& segment,
                                       const Array<uint64_t>& offset, const Array<uint64_t>& length,
                                       const std::optional<Array<uint32_t>>& epoch,
                                       const std::optional<Array<uint32_t>>& group,
                                       const std::optional<Array<uint64_t>>& checks,
                                       const std::string& priority, std::optional<double> deadline,
                                       const std::optional<py::bytes>& notify, bool will_wait,
                                       bool remember_links, const std::optional<Digests>& digests) {
    engine::Intent in;
    in.op = write ? Op::write : Op::read;
    in.peer = peer.peer;
    in.local = view(local);
    in.segment = view(segment);
    in.offset = view(offset);
    in.length = view(length);
    in.epoch = view(epoch);
    in.group = view(group);
    in.checks = view(checks);
    in.remember_links = remember_links;
    if (digests) in.digests = ids(*digests);
    in.priority = priority_of(priority);
    if (deadline && *deadline <= 0) raise({Code::invalid_argument, "a deadline must be positive"});
    in.timeout = nanos(deadline, 0);
    if (notify) {
        ByteView b = view(*notify);
        in.notify.assign(b.begin(), b.end());
        in.has_notify = true;
    }
    Result<std::shared_ptr<Transfer>> t{Code::internal, ""};
    {
        py::gil_scoped_release nogil;
        t = h.engine->submit(in, will_wait);
    }
    check(t.status());
    return std::make_shared<TransferHandle>(TransferHandle{h.engine, *t});
}

// One range, submitted and waited for without an array or a handle in between: what a small transfer costs at
// the Python edge. Returns the seconds it took, or raises.
double move_one(const EngineHandle& h, const PeerHandle& peer, bool write, uint64_t local, uint32_t segment,
                uint64_t offset, uint64_t length) {
    engine::Intent in;
    in.op = write ? Op::write : Op::read;
    in.peer = peer.peer;
    in.local = std::span(&local, 1);
    in.segment = std::span(&segment, 1);
    in.offset = std::span(&offset, 1);
    in.length = std::span(&length, 1);
    Result<std::shared_ptr<Transfer>> t{Code::internal, ""};
    bool done = false;
    {
        py::gil_scoped_release nogil;
        t = h.engine->submit(in, true);
        done = t.ok() && h.engine->wait(**t, kSignalPause);
    }
    check(t.status());
    if (!done) wait_interruptibly(kNever, [&](Nanos left) { return h.engine->wait(**t, left); });
    check((*t)->result());
    return static_cast<double>((*t)->duration()) * 1e-9;
}

py::dict counters_dict(const engine::Counters& c) {
    py::dict d;
    d["transfers_submitted"] = c.submitted;
    d["transfers_completed"] = c.completed;
    d["transfers_failed"] = c.failed;
    d["transfers_cancelled"] = c.cancelled;
    d["transfers_released"] = c.released;
    d["transfers_inline"] = c.inline_transfers;
    d["bytes_read"] = c.bytes_read;
    d["bytes_written"] = c.bytes_written;
    d["handshakes_refused"] = c.handshakes_refused;
    d["connections_accepted"] = c.connections_accepted;
    d["notifications"] = c.notifications;
    d["check_failures"] = c.check_failures;
    d["read_again"] = c.read_again;
    d["sessions_parked"] = c.sessions_parked;
    return d;
}

py::list links_list(Engine& e) {
    py::list rows;
    for (const engine::LinkRow& r : e.links()) {
        py::dict d;
        const auto& v = r.view;
        d["peer"] = r.peer;
        d["transport"] = r.transport;
        d["name"] = r.name;
        d["state"] = proto::kLinkStates[r.state];
        d["rate_Bps"] = v.rate_Bps;
        d["latency_ns"] = v.latency;
        d["in_flight"] = v.in_flight;
        d["bytes"] = v.bytes_used;
        d["slices"] = v.used;
        d["posted"] = v.posted;
        d["used"] = v.used;
        d["superseded"] = v.superseded;
        d["revoked"] = v.revoked;
        d["failed"] = v.failed;
        d["outstanding"] = v.outstanding;
        d["reissued"] = v.reissued;
        d["corrupting"] = v.corrupting;
        rows.append(d);
    }
    return rows;
}

py::dict capabilities_dict(const Engine& e) {
    auto fence = [](transport::Fence f) { return f == transport::Fence::local ? "local" : "owner"; };
    py::dict out;
    for (const transport::Capabilities& c : e.capabilities()) {
        py::list kinds;
        for (const auto& [kind, name] :
             {std::pair(proto::SegmentKind::memfd, "memfd"), {proto::SegmentKind::region, "region"}}) {
            if ((c.remote_kinds & (1u << static_cast<int>(kind))) != 0) kinds.append(name);
        }
        py::dict d;
        d["same_host_only"] = c.same_host_only;
        d["one_sided"] = c.one_sided;
        d["read_fence"] = fence(c.read_fence);
        d["write_fence"] = fence(c.write_fence);
        d["kinds"] = kinds;
        d["max_pieces"] = c.max_pieces;
        d["max_bytes"] = c.max_bytes;
        out[c.name] = d;
    }
    return out;
}

py::list table(const std::vector<proto::SegmentInfo>& segments) {
    py::list out;
    for (const auto& s : segments) {
        out.append(py::make_tuple(s.id, s.name, s.length, s.extent, static_cast<int>(s.kind),
                                  static_cast<int>(s.rights)));
    }
    return out;
}

void bind_transfer(py::module_& m) {
    py::class_<TransferHandle, std::shared_ptr<TransferHandle>>(m, "NativeTransfer")
        .def_property_readonly("id", [](const TransferHandle& t) { return t.transfer->id(); })
        .def_property_readonly("done", [](const TransferHandle& t) { return t.transfer->done(); })
        .def_property_readonly("released", [](const TransferHandle& t) { return t.transfer->released(); })
        .def_property_readonly("bytes", [](const TransferHandle& t) { return t.transfer->bytes(); })
        .def_property_readonly(
            "seconds",
            [](const TransferHandle& t) {
                return t.transfer->done() ? static_cast<double>(t.transfer->duration()) * 1e-9 : 0.0;
            })
        .def_property_readonly("prefix", [](const TransferHandle& t) { return t.transfer->prefix(); })
        .def_property_readonly("status",
                               [](const TransferHandle& t) {
                                   py::array_t<uint8_t> a(static_cast<py::ssize_t>(t.transfer->ranges()));
                                   for (size_t i = 0; i < t.transfer->ranges(); ++i)
                                       a.mutable_data()[i] = static_cast<uint8_t>(t.transfer->state(i));
                                   return a;
                               })
        .def_property_readonly("groups_done",
                               [](const TransferHandle& t) {
                                   py::array_t<bool> a(static_cast<py::ssize_t>(t.transfer->groups()));
                                   for (uint32_t i = 0; i < t.transfer->groups(); ++i)
                                       a.mutable_data()[i] = t.transfer->group_done(i);
                                   return a;
                               })
        .def_property_readonly(
            "errors",
            [](const TransferHandle& t) {
                py::list out;
                if (!t.transfer->done()) return out;
                for (const auto& e : t.transfer->errors()) {
                    out.append(
                        py::make_tuple(e.range, std::string(code_name(e.status.code())), e.status.message()));
                }
                return out;
            })
        .def_property_readonly("result",
                               [](const TransferHandle& t) -> py::object {
                                   if (!t.transfer->done()) return py::none();
                                   const Status& s = t.transfer->result();
                                   return py::make_tuple(std::string(code_name(s.code())), s.message());
                               })
        .def(
            "wait",
            [](const TransferHandle& t, std::optional<double> timeout) {
                return wait_interruptibly(nanos(timeout, kNever),
                                          [&](Nanos left) { return t.engine->wait(*t.transfer, left); });
            },
            py::arg("timeout") = py::none())
        .def(
            "wait_released",
            [](const TransferHandle& t, std::optional<double> timeout) {
                return wait_interruptibly(nanos(timeout, kNever), [&](Nanos left) {
                    return t.engine->wait_released(*t.transfer, left);
                });
            },
            py::arg("timeout") = py::none())
        .def(
            "cancel", [](const TransferHandle& t) { return t.engine->cancel(*t.transfer); },
            py::call_guard<py::gil_scoped_release>())
        .def("set_priority",
             [](const TransferHandle& t, const std::string& p) {
                 t.engine->set_priority(*t.transfer, priority_of(p));
             })
        .def("fileno", [](const TransferHandle& t) { return t.engine->event_fd(*t.transfer); })
        .def("want_callback", [](const TransferHandle& t) { t.engine->want_callback(*t.transfer); });
}

void bind_peer(py::module_& m) {
    py::class_<PeerHandle, std::shared_ptr<PeerHandle>>(m, "NativePeer")
        .def_property_readonly("name", [](const PeerHandle& p) { return p.peer->descriptor().name; })
        .def_property_readonly("incarnation",
                               [](const PeerHandle& p) {
                                   const Id128& i = p.peer->descriptor().incarnation;
                                   return to_bytes(ByteView(i.data(), i.size()));
                               })
        .def_property_readonly(
            "alive",
            [](const PeerHandle& p) { return p.engine->state_of(*p.peer) == engine::PeerState::alive; })
        .def_property_readonly("shares_memory",
                               [](const PeerHandle& p) { return p.engine->shares_memory(*p.peer); })
        .def(
            "segments",
            [](const PeerHandle& p, std::optional<double> timeout) {
                std::vector<proto::SegmentInfo> s;
                {
                    py::gil_scoped_release nogil;
                    s = p.engine->segments_of(*p.peer, nanos(timeout, 2 * kSecond));
                }
                return table(s);
            },
            py::arg("timeout") = py::none(), "Asks the owner what it exposes to us, now.")
        .def(
            "call",
            [](const PeerHandle& p, uint16_t method, const py::bytes& request,
               std::optional<double> timeout) {
                ByteView body = view(request);
                Result<Bytes> r{Code::internal, ""};
                {
                    py::gil_scoped_release nogil;
                    r = p.engine->call(*p.peer, method, body, nanos(timeout, 2 * kSecond));
                }
                check(r.status());
                return to_bytes(*r);
            },
            py::arg("method"), py::arg("request"), py::arg("timeout") = py::none())
        .def(
            "predict",
            [](const PeerHandle& p, uint64_t bytes, const std::string& priority) {
                return static_cast<double>(p.engine->predict(*p.peer, bytes, priority_of(priority))) * 1e-9;
            },
            py::arg("bytes"), py::arg("priority") = "normal")
        .def(
            "close", [](const PeerHandle& p) { p.engine->disconnect(p.peer); },
            py::call_guard<py::gil_scoped_release>());
}

py::object connect(const EngineHandle& h, const py::bytes& descriptor, std::optional<double> timeout) {
    ByteView blob = view(descriptor);
    Result<std::shared_ptr<Peer>> p{Code::internal, ""};
    {
        py::gil_scoped_release nogil;
        p = h.engine->connect(blob, nanos(timeout, h.engine->settings().connect_timeout));
    }
    check(p.status());
    return py::cast(std::make_shared<PeerHandle>(PeerHandle{h.engine, *p}));
}

py::object describe(const py::bytes& blob) {
    Result<engine::Descriptor> d = engine::decode_descriptor(view(blob));
    check(d.status());
    py::dict out;
    out["cluster"] = d->cluster;
    out["name"] = d->name;
    out["host"] = d->host;
    out["incarnation"] = to_bytes(ByteView(d->incarnation.data(), d->incarnation.size()));
    py::list rails;
    for (const auto& r : d->rails) rails.append(py::make_tuple(r.address.host, r.address.port, r.name));
    out["rails"] = rails;
    return out;
}

}  // namespace

void bind_engine(py::module_& m) {
    bind_transfer(m);
    bind_peer(m);
    m.def("describe", &describe, "What a descriptor blob says, as a dict.");
    py::class_<engine::Hold>(m, "NativeHold")
        .def("release", &engine::Hold::release, py::call_guard<py::gil_scoped_release>());
    py::class_<EngineHandle, std::shared_ptr<EngineHandle>>(m, "NativeEngine")
        .def(py::init([](const py::dict& settings) {
            engine::Settings s = settings_of(settings);
            Result<std::unique_ptr<Engine>> e{Code::internal, ""};
            {
                py::gil_scoped_release nogil;
                e = Engine::create(s);
            }
            check(e.status());
            return std::make_shared<EngineHandle>(EngineHandle{std::shared_ptr<Engine>(std::move(*e))});
        }))
        .def(
            "close",
            [](const EngineHandle& h, std::optional<double> timeout) {
                h.engine->close(nanos(timeout, 2 * h.engine->settings().lease));
            },
            py::arg("timeout") = py::none(), py::call_guard<py::gil_scoped_release>())
        .def_property_readonly("name", [](const EngineHandle& h) { return h.engine->name(); })
        .def_property_readonly("incarnation",
                               [](const EngineHandle& h) {
                                   const Id128& i = h.engine->incarnation();
                                   return to_bytes(ByteView(i.data(), i.size()));
                               })
        .def(
            "hold",
            [](const EngineHandle& h, const Array<uint64_t>& addresses, const Array<uint64_t>& lengths,
               bool destination) {
                if (addresses.size() != lengths.size())
                    raise({Code::invalid_argument, "addresses and lengths differ in number"});
                std::span<const uint64_t> a(addresses.data(), static_cast<size_t>(addresses.size()));
                std::span<const uint64_t> l(lengths.data(), static_cast<size_t>(lengths.size()));
                Result<std::unique_ptr<engine::Hold>> held{Code::internal, ""};
                {
                    py::gil_scoped_release nogil;
                    held = engine::Hold::take(h.engine, a, l, destination);
                }
                check(held.status());
                return std::move(*held);
            },
            py::arg("addresses"), py::arg("lengths"), py::arg("destination"))
        .def_property_readonly("usable", [](const EngineHandle& h) { return h.engine->usable().ok(); })
        .def("descriptor", [](const EngineHandle& h) { return to_bytes(h.engine->descriptor()); })
        .def(
            "allocate",
            [](const EngineHandle& h, uint64_t bytes, uint64_t extent, const std::string& name,
               const std::string& access) {
                Rights rights = rights_of(access);
                Result<std::shared_ptr<engine::Segment>> s{Code::internal, ""};
                {
                    py::gil_scoped_release nogil;
                    s = h.engine->allocate(bytes, extent, name, rights);
                }
                check(s.status());
                return segment_tuple(**s);
            },
            py::arg("bytes"), py::arg("extent"), py::arg("name"), py::arg("access"))
        .def(
            "add",
            [](const EngineHandle& h, uint64_t address, uint64_t bytes, const std::string& name,
               const std::string& access, bool writable, uint64_t extent) {
                auto s = h.engine->add(reinterpret_cast<uint8_t*>(address), bytes, name, rights_of(access),
                                       writable, extent);
                check(s.status());
                return segment_tuple(**s);
            },
            py::arg("address"), py::arg("bytes"), py::arg("name"), py::arg("access"), py::arg("writable"),
            py::arg("extent") = 0)
        .def("unregister",
             [](const EngineHandle& h, SegmentId id, double timeout) {
                 Status s;
                 {
                     py::gil_scoped_release nogil;
                     s = h.engine->unregister(id, nanos(timeout, 0));
                 }
                 check(s);
             })
        .def("connect", &connect, py::arg("descriptor"), py::arg("timeout") = py::none())
        .def("submit", &submit, py::arg("peer"), py::arg("write"), py::arg("local"), py::arg("segment"),
             py::arg("offset"), py::arg("length"), py::arg("epoch") = py::none(),
             py::arg("group") = py::none(), py::arg("checks") = py::none(), py::arg("priority") = "normal",
             py::arg("deadline") = py::none(), py::arg("notify") = py::none(), py::arg("will_wait") = false,
             py::arg("remember_links") = false, py::arg("digests") = py::none())
        .def("move_one", &move_one, py::arg("peer"), py::arg("write"), py::arg("local"), py::arg("segment"),
             py::arg("offset"), py::arg("length"))
        .def("take_finished",
             [](const EngineHandle& h, double timeout) {
                 std::vector<TransferId> ids;
                 bool going;
                 {
                     py::gil_scoped_release nogil;
                     going = h.engine->take_finished(ids, nanos(timeout, 0));
                 }
                 return py::make_tuple(going, ids);
             })
        .def(
            "take_notifications",
            [](const EngineHandle& h, std::optional<double> timeout) {
                std::vector<std::pair<std::string, Bytes>> got;
                wait_interruptibly(nanos(timeout, kNever), [&](Nanos left) {
                    return !h.engine->take_notifications(got, left) || !got.empty();
                });
                py::list out;
                for (const auto& [peer, bytes] : got) out.append(py::make_tuple(peer, to_bytes(bytes)));
                return out;
            },
            py::arg("timeout") = py::none())
        .def("counters", [](const EngineHandle& h) { return counters_dict(h.engine->counters()); })
        .def("links", [](const EngineHandle& h) { return links_list(*h.engine); })
        .def("capabilities", [](const EngineHandle& h) { return capabilities_dict(*h.engine); })
        .def_property_readonly("copy_threads",
                               [](const EngineHandle& h) { return h.engine->copier().threads(); });
}

}  // namespace tent::bindings
