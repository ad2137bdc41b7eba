// Reading again what did not match its check (engine/doubt.h).
#include "bindings/bindings.h"

namespace tent::bindings {

void bind_doubt(py::module_& m) {
    using Handle = std::shared_ptr<engine::Doubt>;
    py::class_<engine::Doubt, Handle>(m, "NativeDoubt");
    m.def(
        "doubt",
        [](const EngineHandle& h, const TransferHandle& t, const Array<uint32_t>& ranges) {
            return h.engine->doubt(*t.transfer, {ranges.data(), ranges.data() + ranges.size()});
        },
        py::arg("engine"), py::arg("transfer"), py::arg("ranges"));
    m.def(
        "read_again",
        [](const EngineHandle& h, const Handle& doubt, double timeout) {
            py::gil_scoped_release nogil;
            return h.engine->read_again(doubt, nanos(timeout, 0));
        },
        py::arg("engine"), py::arg("doubt"), py::arg("timeout"));
    m.def(
        "settle_doubt",
        [](const EngineHandle& h, const Handle& doubt, const Array<uint32_t>& good) {
            py::gil_scoped_release nogil;
            h.engine->settle_doubt(*doubt, view(good));
        },
        py::arg("engine"), py::arg("doubt"), py::arg("good"));
}

}  // namespace tent::bindings
