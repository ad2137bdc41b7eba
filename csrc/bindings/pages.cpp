// Pages at the Python edge, whoever owns them: digests, records, the ranges of an intent, and checks.
#include <pybind11/stl.h>

#include "base/switches.h"
#include "bindings/store_arrays.h"

namespace tent::bindings {

using store::PageStatus;

namespace {

// ---- records and digests

py::array_t<uint8_t> page_digests(const py::bytes& space, const py::list& keys) {
    size_t n = keys.size();
    py::array_t<uint8_t> out({static_cast<py::ssize_t>(n), py::ssize_t{16}});
    ByteView prefix = view(space);
    uint8_t* to = out.mutable_data();
    for (size_t i = 0; i < n; ++i) {
        char* data;
        ssize_t size;
        if (PyBytes_AsStringAndSize(PyList_GET_ITEM(keys.ptr(), static_cast<ssize_t>(i)), &data, &size) !=
            0) {
            PyErr_Clear();
            raise({Code::invalid_argument, "a page's key is bytes"});
        }
        require(size >= 1 && size <= 256, "a page's key has 1 to 256 bytes");
        Id128 d = blake2b_128(prefix, as_bytes({data, static_cast<size_t>(size)}));
        std::copy(d.begin(), d.end(), to + 16 * i);
    }
    return out;
}

template <class T>
py::array_t<T> column(size_t n) {
    return py::array_t<T>(static_cast<py::ssize_t>(n));
}

using CostList = std::vector<std::tuple<std::string, py::bytes, uint64_t>>;

py::tuple decode_records(const py::list& records, const std::string& prefer, uint64_t generation,
                         const std::optional<Words>& expect, const std::optional<Array<uint8_t>>& tried,
                         const CostList& costs) {
    size_t n = records.size();
    std::vector<store::NodeCost> known;
    for (const auto& [name, incarnation, cost] : costs) known.push_back({{name, id_of(incarnation)}, cost});
    std::vector<ByteView> views(n);
    for (size_t i = 0; i < n; ++i) {
        PyObject* item = PyList_GET_ITEM(records.ptr(), static_cast<ssize_t>(i));
        if (PyBytes_Check(item)) {
            views[i] = {reinterpret_cast<const uint8_t*>(PyBytes_AS_STRING(item)),
                        static_cast<size_t>(PyBytes_GET_SIZE(item))};
        }
    }
    require(!expect || static_cast<size_t>(expect->size()) == n, "one expected length per record");
    auto status = column<uint8_t>(n);
    auto node = column<uint32_t>(n), segment = column<uint32_t>(n), epoch = column<uint32_t>(n);
    auto offset = column<uint64_t>(n), length = column<uint64_t>(n), sums = column<uint64_t>(n);
    py::array_t<uint8_t> version({static_cast<py::ssize_t>(n), py::ssize_t{16}});
    auto which = column<uint8_t>(n), replicas = column<uint8_t>(n);
    require(!tried || static_cast<size_t>(tried->size()) == n, "one set of tried replicas per record");
    store::RecordColumns c{n,
                           status.mutable_data(),
                           node.mutable_data(),
                           segment.mutable_data(),
                           epoch.mutable_data(),
                           offset.mutable_data(),
                           length.mutable_data(),
                           sums.mutable_data(),
                           version.mutable_data(),
                           which.mutable_data(),
                           replicas.mutable_data()};
    store::DecodeOptions options{prefer, generation, expect ? expect->data() : nullptr,
                                 tried ? tried->data() : nullptr, known};
    std::vector<store::NodeRef> nodes;
    store::decode_records(views, options, c, nodes);
    py::list names;
    for (const store::NodeRef& r : nodes) {
        // Names are utf-8 by convention only: what is not becomes a name that no node has.
        py::str name = py::reinterpret_steal<py::str>(
            PyUnicode_DecodeUTF8(r.name.data(), static_cast<ssize_t>(r.name.size()), "replace"));
        names.append(py::make_tuple(name, bytes_of(r.incarnation)));
    }
    return py::make_tuple(status, node, segment, epoch, offset, length, sums, version, which, replicas,
                          names);
}

// None where one of them is no record.
std::optional<std::pair<store::Record, store::Record>> both_of(const py::bytes& a, const py::bytes& b) {
    std::pair<store::Record, store::Record> out;
    if (store::decode_record(view(a), out.first) != PageStatus::HIT) return {};
    if (store::decode_record(view(b), out.second) != PageStatus::HIT) return {};
    return out;
}

py::object record_with(const py::bytes& there, const py::bytes& mine) {
    auto records = both_of(there, mine);
    Bytes merged;
    if (!records || !store::with_replica(records->first, records->second, merged)) return py::none();
    return to_bytes(merged);
}

py::object record_minus(const py::bytes& there, const py::bytes& other) {
    auto records = both_of(there, other);
    uint32_t both = records ? store::shared_replicas(records->first, records->second) : 0;
    if (both == 0) return py::none();
    return to_bytes(store::without_replicas(records->first, both));
}

py::object record_without(const py::bytes& record, uint32_t which) {
    store::Record r;
    if (store::decode_record(view(record), r) != PageStatus::HIT) return py::bytes();
    return to_bytes(store::without_replicas(r, which));
}

py::object record_info(const py::bytes& record) {
    store::Record r;
    if (store::decode_record(view(record), r) != PageStatus::HIT) return py::none();
    py::list replicas;
    for (size_t i = 0; i < r.replica_count; ++i) {
        const store::Replica& p = r.replicas[i];
        py::str name = py::reinterpret_steal<py::str>(
            PyUnicode_DecodeUTF8(p.node.data(), static_cast<ssize_t>(p.node.size()), "replace"));
        replicas.append(
            py::make_tuple(name, bytes_of(p.incarnation), p.segment, p.extent, p.epoch, p.offset));
    }
    py::dict d;
    d["generation"] = r.generation;
    d["version"] = bytes_of(r.version);
    d["length"] = r.length;
    d["check"] = r.check;
    d["replicas"] = replicas;
    return d;
}

// ---- reading and writing peers' memory

// The ranges of an intent: the parts of page rows[i] are consecutive pieces of its bytes at offset[i]. Empty
// parts are left out. Returns local, segment, offset, length, epoch, group (= i).
py::tuple expand_parts(const Array<int64_t>& rows, const Words& addresses, const Words& lengths,
                       const Array<uint32_t>& segment, const Words& offset, const Array<uint32_t>& epoch) {
    size_t n = static_cast<size_t>(rows.size()), parts = static_cast<size_t>(addresses.shape(1));
    require(addresses.ndim() == 2 && lengths.ndim() == 2 && lengths.size() == addresses.size(),
            "addresses and lengths have shape (N, P)");
    require(static_cast<size_t>(segment.size()) == n && static_cast<size_t>(offset.size()) == n &&
                static_cast<size_t>(epoch.size()) == n,
            "one segment, offset and epoch per row");
    std::vector<uint64_t> local, at, length;
    std::vector<uint32_t> segments, epochs, group;
    for (auto* v : {&local, &at, &length}) v->reserve(n * parts);
    for (auto* v : {&segments, &epochs, &group}) v->reserve(n * parts);
    for (size_t i = 0; i < n; ++i) {
        require(rows.data()[i] >= 0 && rows.data()[i] < addresses.shape(0), "a row out of range");
        size_t row = static_cast<size_t>(rows.data()[i]) * parts;
        uint64_t position = offset.data()[i];
        for (size_t p = 0; p < parts; ++p) {
            uint64_t bytes = lengths.data()[row + p];
            if (bytes == 0) continue;
            local.push_back(addresses.data()[row + p]);
            at.push_back(position);
            length.push_back(bytes);
            segments.push_back(segment.data()[i]);
            epochs.push_back(epoch.data()[i]);
            group.push_back(static_cast<uint32_t>(i));
            position += bytes;
        }
    }
    auto array = [](const auto& v) {
        return py::array_t<typename std::decay_t<decltype(v)>::value_type>(static_cast<py::ssize_t>(v.size()),
                                                                           v.data());
    };
    return py::make_tuple(array(local), array(segments), array(at), array(length), array(epochs),
                          array(group));
}

// Page i was group groups[i] of the transfer that moved it, if one is given: what it hashed on the way is not
// hashed again.
py::array_t<uint64_t> page_checks(const Digests& digests, const Words& addresses, const Words& lengths,
                                  const EngineHandle* h, const TransferHandle* moved,
                                  const std::optional<Array<uint32_t>>& groups) {
    store::PageBatch b = batch_of(digests, addresses, lengths, std::nullopt);
    require(moved == nullptr || moved->transfer->released(), "the transfer has not been released");
    require(!groups || static_cast<size_t>(groups->size()) == b.count, "one group per page");
    py::array_t<uint64_t> out(static_cast<py::ssize_t>(b.count));
    uint64_t* sums = out.mutable_data();
    const uint32_t* group = groups ? groups->data() : nullptr;
    std::span<const Id128> d = ids(digests);
    store::Executor executor = h == nullptr ? store::Executor{} : executor_of(h->engine);
    {
        py::gil_scoped_release nogil;
        std::vector<store::PageJob> jobs;
        std::vector<size_t> row;
        for (size_t i = 0; i < b.count; ++i) {
            std::optional<uint64_t> known;
            if (moved != nullptr)
                known = moved->transfer->check_on_the_way(group ? group[i] : static_cast<uint32_t>(i));
            if (known) {
                sums[i] = *known;
                continue;
            }
            store::PageJob& job = jobs.emplace_back();
            job.digest = d[i];
            job.address = b.addresses + i * b.parts;
            job.length = b.lengths + i * b.parts;
            job.parts = b.parts;
            for (size_t p = 0; p < b.parts; ++p) job.bytes += job.length[p];
            row.push_back(i);
        }
        store::copy_pages(jobs, store::Direction::verify, true, executor);
        for (size_t i = 0; i < jobs.size(); ++i) sums[row[i]] = jobs[i].check;
    }
    return out;
}

// HIT or CHECK_FAILED per page whose bytes lie at `addresses`.
StatusArray verify_pages(const Digests& digests, const Words& addresses, const Words& lengths,
                         const Words& checks, const EngineHandle* h, const TransferHandle* moved,
                         const std::optional<Array<uint32_t>>& groups) {
    require(checks.size() == digests.shape(0), "one check per page");
    py::array_t<uint64_t> sums = page_checks(digests, addresses, lengths, h, moved, groups);
    StatusArray out(checks.size());
    for (py::ssize_t i = 0; i < checks.size(); ++i) {
        bool good = sums.data()[i] == checks.data()[i] || !protection_on(Protection::check);
        out.mutable_data()[i] = static_cast<uint8_t>(good ? PageStatus::HIT : PageStatus::CHECK_FAILED);
    }
    return out;
}

py::array_t<uint64_t> read_tokens(const Words& addresses) {
    py::array_t<uint64_t> out(addresses.size());
    for (py::ssize_t i = 0; i < addresses.size(); ++i) {
        uint64_t at = addresses.data()[i];
        out.mutable_data()[i] =
            at == 0 ? 0 : __atomic_load_n(reinterpret_cast<const uint64_t*>(at), __ATOMIC_ACQUIRE);
    }
    return out;
}

}  // namespace

void bind_pages(py::module_& m) {
    m.def("page_digests", &page_digests, py::arg("space"), py::arg("keys"),
          "BLAKE2b-128 over the namespace's digest and each key, as uint8[N, 16].");
    m.def("decode_records", &decode_records, py::arg("records"), py::arg("prefer"), py::arg("generation"),
          py::arg("expect") = py::none(), py::arg("tried") = py::none(), py::arg("costs") = CostList{});
    m.def("record_with", &record_with, py::arg("there"), py::arg("mine"),
          "The record there with the replica of mine in it; None where they are of two versions.");
    m.def("record_minus", &record_minus, py::arg("there"), py::arg("other"),
          "The record there without the replicas that the other names, empty if none is left; None where it "
          "has "
          "none of them.");
    m.def("record_without", &record_without, py::arg("record"), py::arg("which"),
          "The record without a bit set of its replicas; empty if none is left, or it is no record.");
    m.def("record_info", &record_info, py::arg("record"), "What a record says, or None if it is none.");
    m.def("same_incarnation",
          [](const py::bytes& a, const py::bytes& b) { return store::same_incarnation(id_of(a), id_of(b)); });
    m.def("expand_parts", &expand_parts);
    m.def("page_checks", &page_checks, py::arg("digests"), py::arg("addresses"), py::arg("lengths"),
          py::arg("engine") = py::none(), py::arg("transfer") = py::none(), py::arg("groups") = py::none());
    m.def("verify_pages", &verify_pages, py::arg("digests"), py::arg("addresses"), py::arg("lengths"),
          py::arg("checks"), py::arg("engine") = py::none(), py::arg("transfer") = py::none(),
          py::arg("groups") = py::none());
    m.def("read_tokens", &read_tokens);
    m.def("status_name",
          [](uint8_t s) { return std::string(store::status_name(static_cast<PageStatus>(s))); });
}

}  // namespace tent::bindings
