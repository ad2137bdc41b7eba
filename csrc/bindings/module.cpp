#include "base/digest.h"
#include "base/log.h"
#include "base/switches.h"
#include "bindings/bindings.h"

namespace tent::bindings {

void raise(const Status& status) {
    py::object make = py::module_::import("tent_core.errors").attr("error_for_code");
    py::object error = make(std::string(code_name(status.code())), status.message());
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.ptr())), error.ptr());
    throw py::error_already_set();
}

namespace {

Id128 id_of(const py::bytes& b) {
    ByteView v = view(b);
    if (v.size() != 16) raise({Code::invalid_argument, "a digest has 16 bytes"});
    Id128 id;
    std::copy(v.begin(), v.end(), id.begin());
    return id;
}

void bind_base(py::module_& m) {
    m.def(
        "page_check",
        [](const py::bytes& digest, uint64_t address, uint64_t size) {
            Id128 d = id_of(digest);
            py::gil_scoped_release nogil;
            return page_check(d, reinterpret_cast<const void*>(address), size);
        },
        py::arg("digest"), py::arg("address"), py::arg("size"),
        "The page check of `size` bytes at `address`, seeded by a 16-byte digest.");
    m.def(
        "blake2b_128",
        [](const py::bytes& a, const py::bytes& b) {
            Id128 d = blake2b_128(view(a), view(b));
            return to_bytes(ByteView(d.data(), d.size()));
        },
        py::arg("first"), py::arg("second") = py::bytes(),
        "BLAKE2b with 16 bytes of the two parts' concatenation.");
    m.def(
        "take_log_lines",
        [] {
            py::list lines;
            for (LogLine line; take_log(line);)
                lines.append(py::make_tuple(static_cast<int>(line.level), line.text));
            return lines;
        },
        "Log lines of the native engine since the last call, as (level 0..3, text).");
    m.def("set_log_level", [](int level) { set_log_level(static_cast<LogLevel>(std::clamp(level, 0, 3))); });
#ifdef TENT_TEST_SWITCHES
    m.def("set_protection", [](const std::string& name, bool on) {
        if (!set_protection(name.c_str(), on))
            raise({Code::invalid_argument, "no protection is called '" + name + "'"});
    });
    m.attr("TEST_SWITCHES") = true;
#else
    m.attr("TEST_SWITCHES") = false;
#endif
}

}  // namespace
}  // namespace tent::bindings

PYBIND11_MODULE(_native, m) {
    m.doc() = "The native engine of TENT. Use it through tent_core.";
    tent::bindings::bind_base(m);
    tent::bindings::bind_engine(m);
    tent::bindings::bind_observe(m);
    tent::bindings::bind_sim(m);
    tent::bindings::bind_doubt(m);
    tent::bindings::bind_offers(m);
    tent::bindings::bind_store(m);
    tent::bindings::bind_pages(m);
    tent::bindings::bind_store_messages(m);
    tent::bindings::bind_disk(m);
    tent::bindings::bind_flights(m);
    tent::bindings::bind_in_place(m);
}
