// The disk tier of the page store at the Python edge: a file and the pages on it.
#include "store/disk.h"

#include <pybind11/stl.h>

#include "base/clock.h"
#include "base/random.h"
#include "bindings/store_arrays.h"
#include "transport/file/file.h"

namespace tent::bindings {

namespace {

using store::Disk;
using transport::file::Backend;
using transport::file::File;

constexpr double kFlushSeconds = 10;

// What Python calls NativeDisk: the pages and the file that they lie in.
struct DiskHandle {
    std::shared_ptr<Disk> disk;
    std::shared_ptr<File> file;
};

DiskHandle open_disk(const std::string& path, uint64_t bytes, uint64_t extent, const std::string& node,
                     const py::bytes& incarnation, const std::string& io) {
    store::DiskConfig c;
    c.bytes = bytes;
    c.extent_bytes = extent;
    c.path = path;
    c.node = node;
    c.incarnation = id_of(incarnation);
    if (!random_id(c.id)) raise({Code::internal, "the system gives no random bits"});
    Backend backend = io == "uring"     ? Backend::uring
                      : io == "threads" ? Backend::threads
                                        : Backend::automatic;
    Status status;
    DiskHandle h;
    {
        py::gil_scoped_release nogil;
        auto file = File::open(path, backend);
        status = file.status();
        if (file.ok()) {
            File* f = file->get();
            auto disk = Disk::open(c, *file, f->bytes(), [f](uint64_t n) { return f->resize(n); });
            status = disk.status();
            if (disk.ok()) h = {*disk, *file};
        }
    }
    check(status);
    return h;
}

py::dict stats(const DiskHandle& h) {
    store::DiskStats v = h.disk->stats();
    py::dict d;
#define TENT_STAT(name) d[#name] = v.name
    TENT_STAT(capacity);
    TENT_STAT(used);
    TENT_STAT(pages);
    TENT_STAT(memory);
    TENT_STAT(written);
    TENT_STAT(written_bytes);
    TENT_STAT(read);
    TENT_STAT(read_bytes);
    TENT_STAT(dropped);
    TENT_STAT(too_large);
    TENT_STAT(evicted);
    TENT_STAT(check_failed);
    TENT_STAT(errors);
    TENT_STAT(no_space);
    TENT_STAT(lost);
    TENT_STAT(stalled);
    TENT_STAT(rebuilt);
    TENT_STAT(bad_extents);
    TENT_STAT(writing);
#undef TENT_STAT
    d["off"] = v.off ? 1 : 0;
    return d;
}

}  // namespace

void bind_disk(py::module_& m) {
    m.attr("DISK_SEGMENT") = store::kDiskSegment;
    py::class_<DiskHandle>(m, "NativeDisk")
        .def(py::init(&open_disk), py::arg("path"), py::arg("bytes"), py::arg("extent"), py::arg("node"),
             py::arg("incarnation"), py::arg("io") = "auto")
        .def("give_to", [](const DiskHandle& h, store::Store& s) { s.set_disk(h.disk); })
        .def("unconfirmed",
             [](const DiskHandle& h) {
                 py::list out;
                 for (const auto& [space, generation] : h.disk->unconfirmed())
                     out.append(py::make_tuple(bytes_of(space), generation));
                 return out;
             })
        .def("tend",
             [](const DiskHandle& h) {
                 py::gil_scoped_release nogil;
                 h.disk->tend(boottime_now());
             })
        .def("digests",
             [](const DiskHandle& h) {
                 std::vector<Id128> all = h.disk->digests(boottime_now());
                 py::array_t<uint8_t> out({static_cast<py::ssize_t>(all.size()), py::ssize_t{16}});
                 if (!all.empty()) std::memcpy(out.mutable_data(), all.data(), all.size() * sizeof(Id128));
                 return out;
             })
        .def("records",
             [](const DiskHandle& h, const Digests& digests) {
                 py::list out;
                 store::DiskPage page;
                 for (const Id128& d : ids(digests)) {
                     Bytes record = h.disk->record(d, boottime_now(), &page);
                     if (!record.empty()) out.append(py::make_tuple(bytes_of(d), to_bytes(record)));
                 }
                 return out;
             })
        .def("close",
             [](const DiskHandle& h) {
                 py::gil_scoped_release nogil;
                 h.disk->close(nanos(kFlushSeconds, 0));
                 h.file->close();
             })
        .def_property_readonly("direct", [](const DiskHandle& h) { return h.file->direct(); })
        .def_property_readonly("backend", [](const DiskHandle& h) { return h.file->backend(); })
        .def("stats", &stats);
}

}  // namespace tent::bindings
