// Pages published where they lie, at the Python edge: batches as numpy arrays.
#include "store/in_place.h"

#include <pybind11/stl.h>

#include "base/random.h"
#include "bindings/store_arrays.h"

namespace tent::bindings {

using store::InPlace;
using store::PageStatus;

namespace {

std::shared_ptr<InPlace> create(const EngineHandle& h, const std::string& node,
                                const py::bytes& incarnation) {
    store::InPlaceConfig c;
    c.node = node;
    c.incarnation = id_of(incarnation);
    if (!random_id(c.seed)) raise({Code::internal, "the system gives no random bits"});
    auto pages = std::make_shared<InPlace>(c);
    pages->set_executor(executor_of(h.engine));
    return pages;
}

// Statuses, and (digest, record) of the pages that are new.
py::tuple publish(InPlace& s, const py::bytes& space, uint64_t generation, const Digests& digests,
                  const Words& addresses, const Words& lengths, const std::optional<Words>& tokens,
                  const std::optional<Words>& token_values) {
    store::PageBatch batch = batch_of(digests, addresses, lengths, tokens, token_values);
    require(batch.parts == 1, "a page that is published in place lies in one piece");
    Id128 id = id_of(space);
    Statuses status(batch.count);
    std::span<PageStatus> out = status.span();
    std::vector<store::Published> records;
    {
        py::gil_scoped_release nogil;
        s.publish(id, generation, batch, out);
        std::vector<Id128> stored;
        for (size_t i = 0; i < batch.count; ++i) {
            if (out[i] == PageStatus::STORED) stored.push_back(ids(digests)[i]);
        }
        records = s.records(stored);
    }
    return py::make_tuple(status.array, items_list(records));
}

StatusArray get(InPlace& s, const Digests& digests, const Words& addresses, const Words& lengths) {
    store::PageBatch batch = batch_of(digests, addresses, lengths, std::nullopt);
    Statuses status(batch.count);
    std::span<PageStatus> out = status.span();
    {
        py::gil_scoped_release nogil;
        s.get(batch, out);
    }
    return status.array;
}

py::tuple find(InPlace& s, const Digests& digests) {
    std::span<const Id128> d = ids(digests);
    Statuses status(d.size());
    py::array_t<uint64_t> lengths(static_cast<py::ssize_t>(d.size()));
    std::fill_n(lengths.mutable_data(), d.size(), uint64_t{0});
    s.find(d, status.span(), {lengths.mutable_data(), d.size()});
    return py::make_tuple(status.array, lengths);
}

StatusArray remove(InPlace& s, const Digests& digests) {
    std::span<const Id128> d = ids(digests);
    Statuses status(d.size());
    std::span<PageStatus> out = status.span();
    std::fill(out.begin(), out.end(), PageStatus::ABSENT);
    s.remove(d, out);
    return status.array;
}

py::dict stats(const InPlace& s) {
    store::InPlaceStats v = s.stats();
    py::dict d;
    d["pages"] = v.pages;
    d["bytes"] = v.bytes;
    d["published"] = v.published;
    d["retired"] = v.retired;
    d["stale"] = v.stale;
    d["check_failed"] = v.check_failed;
    d["queued"] = v.queued;
    d["unpublishing"] = v.unpublishing;
    return d;
}

}  // namespace

void bind_in_place(py::module_& m) {
    m.attr("IN_PLACE_EPOCH") = store::kInPlaceEpoch;
    py::class_<InPlace, std::shared_ptr<InPlace>>(m, "NativeInPlace")
        .def(py::init(&create), py::arg("engine"), py::arg("node"), py::arg("incarnation"))
        .def("add",
             [](InPlace& s, SegmentId segment, uint64_t address, uint64_t bytes, uint64_t slot,
                uint64_t epochs) {
                 s.add({segment, reinterpret_cast<uint8_t*>(address), bytes, slot,
                        reinterpret_cast<std::atomic<uint32_t>*>(epochs)});
             })
        .def("drop", &InPlace::drop, py::call_guard<py::gil_scoped_release>())
        .def("publish", &publish, py::arg("space"), py::arg("generation"), py::arg("digests"),
             py::arg("addresses"), py::arg("lengths"), py::arg("tokens") = py::none(),
             py::arg("token_values") = py::none())
        .def("retire",
             [](InPlace& s, SegmentId segment, const Words& offsets) { s.retire(segment, view(offsets)); })
        .def("sweep", &InPlace::sweep, py::call_guard<py::gil_scoped_release>())
        .def("get", &get)
        .def("find", &find)
        .def("remove", &remove)
        .def("clear", [](InPlace& s, const py::bytes& space,
                         uint64_t generation) { return s.clear(id_of(space), generation); })
        .def("confirm", [](InPlace& s, const Digests& d) { return s.confirm(ids(d)); })
        .def("enqueue", [](InPlace& s, const Digests& d) { s.enqueue(ids(d)); })
        .def("enqueue_all", &InPlace::enqueue_all, py::call_guard<py::gil_scoped_release>())
        .def("take_unpublished",
             [](InPlace& s, size_t most) { return published_list(s.take_unpublished(most)); })
        .def("take_unpublish", [](InPlace& s, size_t most) { return items_list(s.take_unpublish(most)); })
        .def("stats", &stats);
}

}  // namespace tent::bindings
