// Reads that several threads of this process want at once, at the Python edge.
#include "store/flights.h"

#include "bindings/store_arrays.h"

namespace tent::bindings {

namespace {

using store::Flights;
using store::PageStatus;
using Ticket = Flights::Ticket;

// The ticket, and for which pages it follows (none: an empty array).
py::tuple join(const std::shared_ptr<Flights>& flights, const Digests& digests, const Digests& versions,
               const Words& addresses, const Words& lengths, const Array<uint8_t>& wanted, uint8_t priority) {
    store::PageBatch batch = batch_of(digests, addresses, lengths, std::nullopt);
    require(ids(versions).size() == batch.count && static_cast<size_t>(wanted.size()) == batch.count,
            "one version and one mark per page");
    store::Destinations pages{batch.count,     batch.parts,     batch.digests,
                              versions.data(), batch.addresses, batch.lengths};
    std::unique_ptr<Ticket> ticket = Flights::join(flights, pages, view(wanted), priority);
    std::vector<int64_t> rows;
    for (size_t i = 0; i < batch.count; ++i) {
        if (ticket->follows(i)) rows.push_back(static_cast<int64_t>(i));
    }
    return py::make_tuple(std::move(ticket),
                          py::array_t<int64_t>(static_cast<py::ssize_t>(rows.size()), rows.data()));
}

void land(Ticket& t, const StatusArray& status, const Words& checks, bool verify) {
    std::span<const PageStatus> seen{reinterpret_cast<const PageStatus*>(status.data()),
                                     static_cast<size_t>(status.size())};
    require(status.size() == checks.size(), "one check per page");
    py::gil_scoped_release nogil;
    t.land(seen, {checks.data(), static_cast<size_t>(checks.size())}, verify);
}

}  // namespace

void bind_flights(py::module_& m) {
    py::class_<Ticket>(m, "FlightTicket")
        .def("land", &land)
        .def("wait",
             [](Ticket& t, double seconds) {
                 py::gil_scoped_release nogil;
                 t.wait(nanos(seconds, 0));
             })
        .def("cancel", &Ticket::cancel, py::call_guard<py::gil_scoped_release>())
        .def("leave", [](Ticket& t, py::array_t<uint8_t>& status) {
            std::span<PageStatus> out{reinterpret_cast<PageStatus*>(status.mutable_data()),
                                      static_cast<size_t>(status.size())};
            py::gil_scoped_release nogil;
            t.leave(out);
        });
    py::class_<Flights, std::shared_ptr<Flights>>(m, "Flights")
        .def(py::init([](const EngineHandle& h) { return std::make_shared<Flights>(executor_of(h.engine)); }))
        .def("join", &join)
        .def_property_readonly("under_way", &Flights::under_way)
        .def_property_readonly("following", &Flights::following);
}

}  // namespace tent::bindings
