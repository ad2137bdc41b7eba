// Shared by the binding files: errors and arrays at the Python edge. No logic here.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>
#include <span>
#include <string>

#include "base/status.h"
#include "engine/engine.h"
#include "engine/hold.h"
#include "transport/transport.h"

namespace tent::bindings {

namespace py = pybind11;

// Raises the tent_core.errors class of the status's code. Needs the GIL.
[[noreturn]] void raise(const Status& status);
inline void check(const Status& status) {
    if (!status.ok()) raise(status);
}

template <class T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

template <class T>
std::span<const T> view(const Array<T>& a) {
    return {a.data(), static_cast<size_t>(a.size())};
}
template <class T>
std::span<const T> view(const std::optional<Array<T>>& a) {
    return a ? view(*a) : std::span<const T>{};
}
inline ByteView view(const py::bytes& b) {
    std::string_view s = b;
    return as_bytes(s);
}
inline py::bytes to_bytes(ByteView b) {
    return {reinterpret_cast<const char*>(b.data()), b.size()};
}

// Seconds from Python; negative or missing means "as long as it takes".
inline Nanos nanos(std::optional<double> seconds, Nanos missing) {
    if (!seconds) return missing;
    if (*seconds < 0) return 0;
    return *seconds > 1e9 ? kNever : static_cast<Nanos>(*seconds * 1e9);
}

// What Python calls NativeEngine: the engine, shared with the objects that were made from it.
struct EngineHandle {
    std::shared_ptr<engine::Engine> engine;
};

struct PeerHandle {
    std::shared_ptr<engine::Engine> engine;
    std::shared_ptr<engine::Peer> peer;
};

struct TransferHandle {
    std::shared_ptr<engine::Engine> engine;
    std::shared_ptr<engine::Transfer> transfer;
};

// settings.cpp
engine::Settings settings_of(const py::dict& d);

#ifdef TENT_TEST_SWITCHES
// What FaultPlan.native() gives.
std::shared_ptr<transport::Decorator> decorator_of(const py::dict& plan);
#endif

void bind_engine(py::module_& m);
void bind_observe(py::module_& m);
void bind_sim(py::module_& m);
void bind_doubt(py::module_& m);
void bind_store(py::module_& m);
void bind_pages(py::module_& m);
void bind_offers(py::module_& m);
void bind_store_messages(py::module_& m);
void bind_disk(py::module_& m);
void bind_flights(py::module_& m);
void bind_in_place(py::module_& m);

}  // namespace tent::bindings
