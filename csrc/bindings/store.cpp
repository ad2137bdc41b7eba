// The page store at the Python edge: batches as numpy arrays, no page by itself. Digests are uint8[N, 16],
// addresses and lengths uint64[N, P]; statuses come back as uint8[N].
#include "store/store.h"

#include <pybind11/stl.h>

#include "base/clock.h"
#include "base/random.h"
#include "base/switches.h"
#include "bindings/bindings.h"

namespace tent::bindings {

using store::PageStatus;
using store::Store;

namespace {

using Digests = Array<uint8_t>;
using Words = Array<uint64_t>;
using StatusArray = py::array_t<uint8_t>;

void require(bool good, const char* why) {
    if (!good) raise({Code::invalid_argument, why});
}

Id128 id_of(const py::bytes& b) {
    ByteView v = view(b);
    require(v.size() == 16, "a digest or incarnation has 16 bytes");
    Id128 id;
    std::copy(v.begin(), v.end(), id.begin());
    return id;
}

py::bytes bytes_of(const Id128& id) {
    return to_bytes(ByteView(id.data(), id.size()));
}

std::span<const Id128> ids(const Digests& digests) {
    static_assert(sizeof(Id128) == 16 && alignof(Id128) == 1);
    require(digests.ndim() == 2 && digests.shape(1) == 16, "digests are an array of shape (N, 16)");
    return {reinterpret_cast<const Id128*>(digests.data()), static_cast<size_t>(digests.shape(0))};
}

struct Statuses {
    explicit Statuses(size_t n) : array(static_cast<py::ssize_t>(n)) {}
    std::span<PageStatus> span() {
        return {reinterpret_cast<PageStatus*>(array.mutable_data()), static_cast<size_t>(array.size())};
    }
    StatusArray array;
};

// Checked once here, so that nothing below has to: (N, 16), (N, P), (N, P), (N) or none.
store::PageBatch batch_of(const Digests& digests, const Words& addresses, const Words& lengths,
                          const std::optional<Words>& tokens,
                          const std::optional<Words>& token_values = std::nullopt) {
    size_t n = ids(digests).size();
    require(addresses.ndim() == 2 && static_cast<size_t>(addresses.shape(0)) == n && addresses.shape(1) > 0,
            "addresses are an array of shape (N, P)");
    require(lengths.ndim() == 2 && lengths.shape(0) == addresses.shape(0) &&
                lengths.shape(1) == addresses.shape(1),
            "lengths have the shape of the addresses");
    require(!tokens || static_cast<size_t>(tokens->size()) == n, "tokens are one address per page");
    store::PageBatch b;
    b.count = n;
    b.parts = static_cast<size_t>(addresses.shape(1));
    b.digests = digests.data();
    b.addresses = addresses.data();
    b.lengths = lengths.data();
    require(!token_values || static_cast<size_t>(token_values->size()) == n, "token values are one per page");
    b.tokens = tokens ? tokens->data() : nullptr;
    b.token_values = token_values ? token_values->data() : nullptr;
    return b;
}

store::Executor executor_of(const std::shared_ptr<engine::Engine>& engine) {
    return [weak = std::weak_ptr<engine::Engine>(engine)](size_t n, const std::function<void(size_t)>& work) {
        if (auto e = weak.lock()) {
            e->copier().parallel(n, work);
        } else {
            for (size_t i = 0; i < n; ++i) work(i);
        }
    };
}

std::shared_ptr<Store> create(uint64_t address, uint64_t bytes, uint64_t extent, uint64_t epochs,
                              SegmentId segment, const std::string& node, const py::bytes& incarnation,
                              uint64_t loan_limit) {
    store::StoreConfig c;
    c.base = reinterpret_cast<uint8_t*>(address);
    c.bytes = bytes;
    c.extent_bytes = extent;
    c.epochs = reinterpret_cast<std::atomic<uint32_t>*>(epochs);
    c.segment = segment;
    c.node = node;
    c.incarnation = id_of(incarnation);
    c.loan_limit = loan_limit;
    if (!random_id(c.seed)) raise({Code::internal, "the system gives no random bits"});
    auto made = Store::create(c);
    check(made.status());
    return *made;
}

// The store as the engine's sessions see it. Its bookkeeping may outlive the memory it is about.
class StoreLender final : public engine::Lender {
  public:
    explicit StoreLender(std::shared_ptr<Store> s) : store_(std::move(s)) {}
    bool may_write(const WriterId& writer, uint64_t offset, uint64_t length) const override {
        return store_->may_write(writer, offset, length);
    }
    uint64_t loans_ended() const override { return store_->loans_ended(); }
    void writer_lost(const WriterId& writer) override { store_->writer_lost(writer); }
    void writer_gone(const WriterId& writer) override { store_->writer_gone(writer); }
    Result<Bytes> call(const WriterId& caller, uint16_t method, ByteView request) override {
        return store::serve_call(*store_, caller, method, request, boottime_now());
    }

  private:
    std::shared_ptr<Store> store_;
};

// The owner's side: peers' calls are answered natively, copies are spread over the engine's threads.
void attach(const std::shared_ptr<Store>& s, const EngineHandle& h) {
    s->set_executor(executor_of(h.engine));
    check(h.engine->set_lender(s->config().segment, std::make_shared<StoreLender>(s)));
}

py::tuple put(Store& s, const py::bytes& space, uint64_t generation, const Digests& digests,
              const Words& addresses, const Words& lengths, const std::optional<Words>& tokens,
              const std::optional<Words>& token_values) {
    store::PageBatch batch = batch_of(digests, addresses, lengths, tokens, token_values);
    Id128 id = id_of(space);
    Statuses status(batch.count);
    std::span<PageStatus> out = status.span();
    std::vector<Id128> stored;
    std::vector<store::Published> records;
    {
        py::gil_scoped_release nogil;
        s.put(id, generation, batch, out);
        for (size_t i = 0; i < batch.count; ++i) {
            if (out[i] == PageStatus::STORED) stored.push_back(ids(digests)[i]);
        }
        s.records(stored, records);
    }
    py::list items;
    for (const store::Published& p : records) {
        if (!p.record.empty()) items.append(py::make_tuple(bytes_of(p.digest), to_bytes(p.record)));
    }
    return py::make_tuple(status.array, items);
}

StatusArray get(Store& s, const Digests& digests, const Words& addresses, const Words& lengths,
                bool check_bytes) {
    store::PageBatch batch = batch_of(digests, addresses, lengths, std::nullopt);
    Statuses status(batch.count);
    std::span<PageStatus> out = status.span();
    {
        py::gil_scoped_release nogil;
        s.get(batch, check_bytes, out);
    }
    return status.array;  // with the lock: it counts a reference
}

py::tuple find(const Store& s, const Digests& digests) {
    std::span<const Id128> d = ids(digests);
    Statuses status(d.size());
    std::vector<ssize_t> shape = {static_cast<ssize_t>(d.size())};
    py::array_t<uint64_t> lengths(shape);
    std::fill_n(lengths.mutable_data(), d.size(), uint64_t{0});
    std::span<PageStatus> out = status.span();
    std::span<uint64_t> sizes{lengths.mutable_data(), d.size()};
    {
        py::gil_scoped_release nogil;
        s.find(d, out, sizes);
    }
    return py::make_tuple(status.array, lengths);
}

py::list published_list(const std::vector<store::Published>& pages) {
    py::list out;
    for (const store::Published& p : pages) {
        out.append(py::make_tuple(bytes_of(p.space), p.generation, bytes_of(p.digest), to_bytes(p.record)));
    }
    return out;
}

py::list items_list(const std::vector<store::Published>& pages) {
    py::list out;
    for (const store::Published& p : pages)
        out.append(py::make_tuple(bytes_of(p.digest), to_bytes(p.record)));
    return out;
}

py::object begin_reclaim(Store& s, uint64_t move_bytes) {
    store::Reclaim r;
    {
        py::gil_scoped_release nogil;
        r = s.begin_reclaim(boottime_now(), move_bytes);
    }
    if (r.extent == kNoId) return py::none();
    py::list moved;
    for (const store::Moved& m : r.moved) {
        moved.append(py::make_tuple(bytes_of(m.digest), to_bytes(m.before), to_bytes(m.after)));
    }
    return py::make_tuple(r.extent, items_list(r.unpublish), moved);
}

py::dict stats(const Store& s) {
    store::StoreStats v = s.stats();
    py::dict d;
#define TENT_STAT(name) d[#name] = v.name
    TENT_STAT(capacity);
    TENT_STAT(extent_bytes);
    TENT_STAT(live_bytes);
    TENT_STAT(overhead_bytes);
    TENT_STAT(pages);
    TENT_STAT(pinned_pages);
    TENT_STAT(extents);
    TENT_STAT(free_extents);
    TENT_STAT(lent_extents);
    TENT_STAT(quarantined_extents);
    TENT_STAT(sealed_extents);
    TENT_STAT(stored);
    TENT_STAT(present);
    TENT_STAT(unstable);
    TENT_STAT(no_space);
    TENT_STAT(local_hits);
    TENT_STAT(local_misses);
    TENT_STAT(check_failed);
    TENT_STAT(evicted);
    TENT_STAT(moved);
    TENT_STAT(reclaimed_extents);
    TENT_STAT(removed);
    TENT_STAT(cleared);
    TENT_STAT(remote_commits);
    TENT_STAT(remote_refused);
    TENT_STAT(queued);
#undef TENT_STAT
    return d;
}

template <class F>
StatusArray with_status(const Digests& digests, F f) {
    std::span<const Id128> d = ids(digests);
    Statuses status(d.size());
    std::span<PageStatus> out = status.span();
    {
        py::gil_scoped_release nogil;
        f(d, out);
    }
    return status.array;
}

void bind_native_store(py::module_& m) {
    py::class_<Store, std::shared_ptr<Store>>(m, "NativeStore")
        .def(py::init(&create), py::arg("address"), py::arg("bytes"), py::arg("extent"), py::arg("epochs"),
             py::arg("segment"), py::arg("node"), py::arg("incarnation"), py::arg("loan_limit"))
        .def("attach", [](const std::shared_ptr<Store>& s, const EngineHandle& h) { attach(s, h); })
        .def("put", &put, py::arg("space"), py::arg("generation"), py::arg("digests"), py::arg("addresses"),
             py::arg("lengths"), py::arg("tokens") = py::none(), py::arg("token_values") = py::none())
        .def("get", &get, py::arg("digests"), py::arg("addresses"), py::arg("lengths"),
             py::arg("check") = true)
        .def("find", &find)
        .def("pin",
             [](Store& s, const Digests& d, bool pinned) {
                 return with_status(d, [&](auto in, auto out) { s.pin(in, pinned, out); });
             })
        .def("lease",
             [](Store& s, const Digests& d, uint32_t ms) {
                 Nanos until = boottime_now() + std::min(ms, store::kMaxLeaseMs) * kMillisecond;
                 return with_status(d, [&](auto in, auto out) { s.lease(in, until, out); });
             })
        .def("note_hits", [](Store& s, const Digests& d) { s.note_hits(ids(d)); })
        .def("remove",
             [](Store& s, const Digests& d) {
                 return with_status(d, [&](auto in, auto out) { s.remove(in, out); });
             })
        .def("clear", [](Store& s, const py::bytes& space,
                         uint64_t generation) { return s.clear(id_of(space), generation); })
        .def("confirm", [](Store& s, const Digests& d) { return s.confirm(ids(d)); })
        .def("enqueue", [](Store& s, const Digests& d) { s.enqueue(ids(d)); })
        .def("enqueue_all", &Store::enqueue_all, py::call_guard<py::gil_scoped_release>())
        .def("take_unpublished",
             [](Store& s, size_t most) { return published_list(s.take_unpublished(most)); })
        .def("take_unpublish", [](Store& s, size_t most) { return items_list(s.take_unpublish(most)); })
        .def("wait_work",
             [](Store& s, double seconds) {
                 py::gil_scoped_release nogil;
                 s.wait_work(nanos(std::min(seconds, 60.0), 0));
             })
        .def("wake", &Store::wake, py::call_guard<py::gil_scoped_release>())
        .def("begin_reclaim", &begin_reclaim)
        .def("finish_reclaim", &Store::finish_reclaim, py::call_guard<py::gil_scoped_release>())
        .def("rebuild", &Store::rebuild, py::call_guard<py::gil_scoped_release>())
        .def_property_readonly("free_extents", &Store::free_extents)
        .def("stats", &stats);
}

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

py::tuple decode_records(const py::list& records, const std::string& prefer, uint64_t generation,
                         const std::optional<Words>& expect) {
    size_t n = records.size();
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
    store::RecordColumns c{n,
                           status.mutable_data(),
                           node.mutable_data(),
                           segment.mutable_data(),
                           epoch.mutable_data(),
                           offset.mutable_data(),
                           length.mutable_data(),
                           sums.mutable_data(),
                           version.mutable_data()};
    store::DecodeOptions options{prefer, generation, expect ? expect->data() : nullptr};
    std::vector<store::NodeRef> nodes;
    store::decode_records(views, options, c, nodes);
    py::list names;
    for (const store::NodeRef& r : nodes) {
        // Names are utf-8 by convention only: what is not becomes a name that no node has.
        py::str name = py::reinterpret_steal<py::str>(
            PyUnicode_DecodeUTF8(r.name.data(), static_cast<ssize_t>(r.name.size()), "replace"));
        names.append(py::make_tuple(name, bytes_of(r.incarnation)));
    }
    return py::make_tuple(status, node, segment, epoch, offset, length, sums, version, names);
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

py::array_t<uint64_t> page_checks(const Digests& digests, const Words& addresses, const Words& lengths,
                                  const EngineHandle* h) {
    store::PageBatch b = batch_of(digests, addresses, lengths, std::nullopt);
    py::array_t<uint64_t> out(static_cast<py::ssize_t>(b.count));
    uint64_t* sums = out.mutable_data();
    std::span<const Id128> d = ids(digests);
    store::Executor executor = h == nullptr ? store::Executor{} : executor_of(h->engine);
    {
        py::gil_scoped_release nogil;
        std::vector<store::PageJob> jobs(b.count);
        for (size_t i = 0; i < b.count; ++i) {
            jobs[i].digest = d[i];
            jobs[i].address = b.addresses + i * b.parts;
            jobs[i].length = b.lengths + i * b.parts;
            jobs[i].parts = b.parts;
            for (size_t p = 0; p < b.parts; ++p) jobs[i].bytes += jobs[i].length[p];
        }
        store::copy_pages(jobs, store::Direction::verify, true, executor);
        for (size_t i = 0; i < b.count; ++i) sums[i] = jobs[i].check;
    }
    return out;
}

// HIT or CHECK_FAILED per page whose bytes lie at `addresses`.
StatusArray verify_pages(const Digests& digests, const Words& addresses, const Words& lengths,
                         const Words& checks, const EngineHandle* h) {
    require(checks.size() == digests.shape(0), "one check per page");
    py::array_t<uint64_t> sums = page_checks(digests, addresses, lengths, h);
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

// ---- messages to owners

template <class Message>
py::bytes encoded(const Message& message) {
    Bytes out;
    proto::encode(message, out);
    return to_bytes(out);
}

template <class Message>
Message decoded(const py::bytes& body) {
    Message m;
    Code code = proto::decode(view(body), m);
    if (code != Code::ok) raise({code, "an answer of the owner's store that is none"});
    return m;
}

py::bytes commit_request(uint64_t loan, uint32_t epoch, const py::bytes& space, uint64_t generation,
                         const Digests& digests, const Words& offsets, const Words& lengths,
                         const Words& checks) {
    std::span<const Id128> d = ids(digests);
    require(d.size() <= proto::kMaxItems, "too many pages in one commit");
    require(static_cast<size_t>(offsets.size()) == d.size() &&
                static_cast<size_t>(lengths.size()) == d.size() &&
                static_cast<size_t>(checks.size()) == d.size(),
            "one offset, length and check per page");
    proto::CommitRequest m{loan, epoch, id_of(space), generation, {}};
    for (size_t i = 0; i < d.size(); ++i) {
        m.items.push_back({d[i], offsets.data()[i], lengths.data()[i], checks.data()[i]});
    }
    return encoded(m);
}

void bind_messages(py::module_& m) {
    m.def("lend_request", [](uint64_t bytes, uint64_t largest) {
        return encoded(proto::LendRequest{bytes, largest});
    });
    m.def("lent_reply", [](const py::bytes& body) {
        auto l = decoded<proto::Lent>(body);
        return py::make_tuple(l.code, l.loan, l.segment, l.extent, l.epoch, l.offset, l.length);
    });
    m.def("give_back_request", [](uint64_t loan) { return encoded(proto::GiveBack{loan}); });
    m.def("commit_request", &commit_request);
    m.def("pin_request", [](uint32_t ms, const Digests& d) {
        auto v = ids(d);
        require(v.size() <= proto::kMaxItems, "too many pages in one request");
        return encoded(proto::PinRequest{ms, {v.begin(), v.end()}});
    });
    m.def("digests_request", [](const Digests& d) {
        auto v = ids(d);
        require(v.size() <= proto::kMaxItems, "too many pages in one request");
        return encoded(proto::DigestList{{v.begin(), v.end()}});
    });
    m.def("remove_request", [](const py::bytes& space, const Digests& d) {
        auto v = ids(d);
        require(v.size() <= proto::kMaxItems, "too many pages in one request");
        return encoded(proto::RemoveRequest{id_of(space), {v.begin(), v.end()}});
    });
    m.def("statuses_reply", [](const py::bytes& body) {
        auto s = decoded<proto::Statuses>(body);
        return py::array_t<uint8_t>(static_cast<py::ssize_t>(s.values.size()), s.values.data());
    });
}

}  // namespace

void bind_store(py::module_& m) {
    bind_native_store(m);
    bind_messages(m);
    m.def("page_digests", &page_digests, py::arg("space"), py::arg("keys"),
          "BLAKE2b-128 over the namespace's digest and each key, as uint8[N, 16].");
    m.def("decode_records", &decode_records, py::arg("records"), py::arg("prefer"), py::arg("generation"),
          py::arg("expect") = py::none());
    m.def("record_info", &record_info, py::arg("record"), "What a record says, or None if it is none.");
    m.def("same_incarnation",
          [](const py::bytes& a, const py::bytes& b) { return store::same_incarnation(id_of(a), id_of(b)); });
    m.def("expand_parts", &expand_parts);
    m.def("page_checks", &page_checks, py::arg("digests"), py::arg("addresses"), py::arg("lengths"),
          py::arg("engine") = py::none());
    m.def("verify_pages", &verify_pages, py::arg("digests"), py::arg("addresses"), py::arg("lengths"),
          py::arg("checks"), py::arg("engine") = py::none());
    m.def("read_tokens", &read_tokens);
    m.def("status_name",
          [](uint8_t s) { return std::string(store::status_name(static_cast<PageStatus>(s))); });
}

}  // namespace tent::bindings
