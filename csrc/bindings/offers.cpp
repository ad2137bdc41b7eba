// Offers (engine/offers.h) and the messages about them, for tent_core/handoff.
#include <pybind11/stl.h>

#include "bindings/bindings.h"
#include "proto/handoff_messages.h"

namespace tent::bindings {
namespace {

Id128 name_of(const py::bytes& b) {
    ByteView v = view(b);
    Id128 id{};
    if (v.size() != id.size()) raise({Code::invalid_argument, "an offer's name has 16 bytes"});
    std::copy(v.begin(), v.end(), id.begin());
    return id;
}

const char* text_of(proto::OfferEnd how) {
    constexpr const char* kTexts[] = {"", "released", "refused", "expired", "aborted", "gone"};
    return kTexts[static_cast<uint8_t>(how)];
}

void offer(const EngineHandle& h, const py::bytes& name, const Array<uint64_t>& addresses,
           const Array<uint64_t>& lengths, const std::optional<Array<uint64_t>>& checks, bool write,
           double lease) {
    if (addresses.size() != lengths.size())
        raise({Code::invalid_argument, "addresses and lengths differ in number"});
    engine::OfferSpec spec;
    spec.name = name_of(name);
    spec.rights = write ? Rights::write : Rights::read;
    spec.lease = nanos(lease, 0);
    std::span<const uint64_t> given = view(checks);
    spec.checks.assign(given.begin(), given.end());
    for (py::ssize_t i = 0; i < addresses.size(); ++i)
        spec.ranges.push_back({reinterpret_cast<uint8_t*>(addresses.data()[i]), lengths.data()[i]});
    Status s;
    {
        py::gil_scoped_release nogil;
        s = h.engine->offer(std::move(spec));
    }
    check(s);
}

py::list take_ended(const EngineHandle& h, double timeout) {
    std::vector<std::pair<Id128, proto::OfferEnd>> ended;
    {
        py::gil_scoped_release nogil;
        ended = h.engine->take_ended_offers(nanos(timeout, 0));
    }
    py::list out;
    for (const auto& [name, how] : ended)
        out.append(py::make_tuple(to_bytes(ByteView(name.data(), name.size())), text_of(how)));
    return out;
}

template <class M>
py::bytes encoded(const M& m) {
    Bytes out;
    proto::encode(m, out);
    return to_bytes(out);
}

template <class M>
M decoded(const py::bytes& body) {
    M m;
    Code code = proto::decode(view(body), m);
    if (code != Code::ok) raise({code, "the peer's answer about an offer does not fit"});
    return m;
}

py::tuple opened(const py::bytes& body) {
    auto m = decoded<proto::Opened>(body);
    auto n = static_cast<py::ssize_t>(m.items.size());
    py::array_t<uint64_t> lengths(n), checks(n);
    for (py::ssize_t i = 0; i < n; ++i) {
        lengths.mutable_data()[i] = m.items[static_cast<size_t>(i)].length;
        checks.mutable_data()[i] = m.items[static_cast<size_t>(i)].check;
    }
    return py::make_tuple(m.segment, m.rights == Rights::write, m.checked != 0, m.bytes, m.ranges, m.lease_ms,
                          m.first, lengths, checks);
}

}  // namespace

void bind_offers(py::module_& m) {
    m.def("offer", &offer, py::arg("engine"), py::arg("name"), py::arg("addresses"), py::arg("lengths"),
          py::arg("checks"), py::arg("write"), py::arg("lease"));
    m.def(
        "end_offer",
        [](const EngineHandle& h, const py::bytes& name) {
            Id128 id = name_of(name);
            py::gil_scoped_release nogil;
            return h.engine->end_offer(id);
        },
        py::arg("engine"), py::arg("name"));
    m.def("take_ended_offers", &take_ended, py::arg("engine"), py::arg("timeout"));
    m.def("live_offers", [](const EngineHandle& h) { return h.engine->live_offers(); });
    m.def("open_offer_request", [](const py::bytes& name, uint32_t first) {
        return encoded(proto::OpenRequest{name_of(name), first});
    });
    m.def("opened_reply", &opened,
          "(segment, write, checked, bytes, ranges, lease in ms, first, lengths, checks)");
    m.def("release_offer_request", [](const py::bytes& name, bool good) {
        return encoded(proto::ReleaseRequest{name_of(name),
                                             good ? proto::OfferEnd::released : proto::OfferEnd::refused});
    });
    m.def("released_reply",
          [](const py::bytes& body) { return text_of(decoded<proto::Released>(body).how); });
}

}  // namespace tent::bindings
