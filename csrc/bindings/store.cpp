// The page store of this node at the Python edge: batches as numpy arrays, no page by itself.
#include "store/store.h"

#include <pybind11/stl.h>

#include "base/clock.h"
#include "base/random.h"
#include "bindings/store_arrays.h"
#include "store/hot_pages.h"

namespace tent::bindings {

using store::PageStatus;
using store::Store;

namespace {

std::shared_ptr<Store> create(uint64_t address, uint64_t bytes, uint64_t extent, uint64_t epochs,
                              SegmentId segment, const std::string& node, const py::bytes& incarnation,
                              uint64_t loan_limit, double ttl, uint64_t tenant_quota) {
    store::StoreConfig c;
    c.base = reinterpret_cast<uint8_t*>(address);
    c.bytes = bytes;
    c.extent_bytes = extent;
    c.epochs = reinterpret_cast<std::atomic<uint32_t>*>(epochs);
    c.segment = segment;
    c.node = node;
    c.incarnation = id_of(incarnation);
    c.loan_limit = loan_limit;
    c.clock = &boottime_now;
    c.ttl = nanos(ttl, 0);
    c.tenant_quota = tenant_quota;
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
    bool lends_to(const WriterId& writer) const override { return store_->lends_to(writer); }
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
              const std::optional<Words>& token_values, const std::optional<Digests>& versions,
              const std::optional<Words>& checks, std::optional<double> ttl) {
    store::PageBatch batch = batch_of(digests, addresses, lengths, tokens, token_values);
    if (ttl) batch.ttl = nanos(*ttl, 0);
    if (versions) {
        require(ids(*versions).size() == batch.count && checks &&
                    static_cast<size_t>(checks->size()) == batch.count,
                "copies have one version and one check per page");
        batch.versions = versions->data();
        batch.checks = checks->data();
    }
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
    TENT_STAT(stored_bytes);
    TENT_STAT(moved_bytes);
    TENT_STAT(newcomer_share);
    TENT_STAT(ghost_hits);
    TENT_STAT(expired);
    TENT_STAT(quota_evicted);
    TENT_STAT(quota_refused);
    TENT_STAT(removed);
    TENT_STAT(cleared);
    TENT_STAT(remote_commits);
    TENT_STAT(remote_refused);
    TENT_STAT(queued);
    TENT_STAT(unpublishing);
#undef TENT_STAT
    return d;
}

// ---- copies: room first, the bytes come over links of the caller's, then they are committed

// Statuses, and of each slot extent, epoch, offset and length: uint64[N, 4].
py::tuple reserve(Store& s, const Words& lengths) {
    auto n = static_cast<size_t>(lengths.size());
    Statuses status(n);
    std::vector<store::Slot> slots(n);
    std::span<PageStatus> out = status.span();
    {
        py::gil_scoped_release nogil;
        s.reserve({lengths.data(), n}, slots, out);
    }
    py::array_t<uint64_t> rows({static_cast<py::ssize_t>(n), py::ssize_t{4}});
    for (size_t i = 0; i < n; ++i) {
        uint64_t row[] = {slots[i].extent, slots[i].epoch, slots[i].offset, slots[i].length};
        std::copy_n(row, 4, rows.mutable_data() + 4 * i);
    }
    return py::make_tuple(status.array, rows);
}

std::vector<store::Slot> slots_of(const Words& rows) {
    require(rows.ndim() == 2 && rows.shape(1) == 4, "slots have shape (N, 4)");
    std::vector<store::Slot> out(static_cast<size_t>(rows.shape(0)));
    for (size_t i = 0; i < out.size(); ++i) {
        const uint64_t* r = rows.data() + 4 * i;
        out[i] = {static_cast<uint32_t>(r[0]), static_cast<uint32_t>(r[1]), r[2], r[3]};
    }
    return out;
}

StatusArray commit_copies(Store& s, const py::bytes& space, uint64_t generation, const Words& rows,
                          const Digests& digests, const Digests& versions, const Words& checks) {
    std::vector<store::Slot> slots = slots_of(rows);
    std::span<const Id128> d = ids(digests), v = ids(versions);
    require(d.size() == slots.size() && v.size() == slots.size() &&
                static_cast<size_t>(checks.size()) == slots.size(),
            "one digest, version and check per slot");
    std::vector<store::Commit> pages;
    for (size_t i = 0; i < slots.size(); ++i) pages.push_back({slots[i], d[i], checks.data()[i], v[i]});
    Id128 id = id_of(space);
    Statuses status(slots.size());
    std::span<PageStatus> out = status.span();
    {
        py::gil_scoped_release nogil;
        s.commit(id, generation, pages, out);
        std::vector<Id128> stored;
        for (size_t i = 0; i < out.size(); ++i) {
            if (out[i] == PageStatus::STORED) stored.push_back(d[i]);
        }
        s.enqueue(stored);
    }
    return status.array;
}

py::list wanted_list(const std::vector<store::Wanted>& pages) {
    py::list out;
    for (const store::Wanted& w : pages)
        out.append(py::make_tuple(bytes_of(w.space), w.generation, w.copies, bytes_of(w.digest)));
    return out;
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

}  // namespace

void bind_store(py::module_& m) {
    py::class_<store::HotPages>(m, "HotPages")
        .def(py::init<uint32_t>(), py::arg("reads"))
        .def("touch", [](store::HotPages& h, const Digests& d) {
            std::vector<uint32_t> rows = h.touch(ids(d));
            return py::array_t<uint32_t>(static_cast<py::ssize_t>(rows.size()), rows.data());
        });
    py::class_<Store, std::shared_ptr<Store>>(m, "NativeStore")
        .def(py::init(&create), py::arg("address"), py::arg("bytes"), py::arg("extent"), py::arg("epochs"),
             py::arg("segment"), py::arg("node"), py::arg("incarnation"), py::arg("loan_limit"),
             py::arg("ttl") = 0.0, py::arg("tenant_quota") = 0)
        .def("attach", [](const std::shared_ptr<Store>& s, const EngineHandle& h) { attach(s, h); })
        .def("put", &put, py::arg("space"), py::arg("generation"), py::arg("digests"), py::arg("addresses"),
             py::arg("lengths"), py::arg("tokens") = py::none(), py::arg("token_values") = py::none(),
             py::arg("versions") = py::none(), py::arg("checks") = py::none(), py::arg("ttl") = py::none())
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
        .def("assign", [](Store& s, const py::bytes& space,
                          const py::bytes& tenant) { s.assign(id_of(space), id_of(tenant)); })
        .def("unassigned",
             [](const Store& s) {
                 py::list out;
                 for (const Id128& id : s.unassigned()) out.append(bytes_of(id));
                 return out;
             })
        .def("tenant_bytes", [](Store& s, const py::bytes& tenant) { return s.tenant_bytes(id_of(tenant)); })
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
        .def("reserve", &reserve)
        .def("commit_copies", &commit_copies)
        .def("abort", [](Store& s, const Words& slots) { s.abort(slots_of(slots)); })
        .def("want",
             [](Store& s, const py::bytes& space, uint64_t generation, uint8_t copies, const Digests& d) {
                 proto::AdoptRequest request{id_of(space), generation, copies, {}};
                 request.digests.assign(ids(d).begin(), ids(d).end());
                 return with_status(d, [&](auto, auto out) { s.want(request, out); });
             })
        .def("take_wanted", [](Store& s, size_t most) { return wanted_list(s.take_wanted(most)); })
        .def("wait_wanted",
             [](Store& s, double seconds) {
                 py::gil_scoped_release nogil;
                 return s.wait_wanted(nanos(std::min(seconds, 60.0), 0));
             })
        .def("doubt", [](Store& s, const Digests& d) { s.doubt(ids(d)); })
        .def("scrub", &Store::scrub, py::call_guard<py::gil_scoped_release>())
        .def("stop_waiting", &Store::stop_waiting, py::call_guard<py::gil_scoped_release>())
        .def("ask_to_drain", &Store::ask_to_drain)
        .def_property_readonly("asked_to_drain", &Store::asked_to_drain)
        .def("list",
             [](const Store& s, uint64_t cursor, size_t most) { return page_list(s.list(cursor, most)); })
        .def("scrub_disk_some",
             [](Store& s, double seconds) {
                 py::gil_scoped_release nogil;
                 s.scrub_disk_some(nanos(seconds, 0));
             })
        .def("stage",
             [](Store& s, const Digests& d, double seconds) {
                 return with_status(d, [&](auto in, auto out) { s.stage(in, nanos(seconds, 0), out); });
             })
        .def("leave",
             [](Store& s, const Digests& d, double seconds) {
                 std::span<const Id128> in = ids(d);
                 py::gil_scoped_release nogil;
                 return s.leave(in, nanos(seconds, 0));
             })
        .def("wait_stage",
             [](Store& s, double seconds) {
                 py::gil_scoped_release nogil;
                 return s.wait_stage(nanos(std::min(seconds, 60.0), 0));
             })
        .def("take_stage",
             [](Store& s, size_t most) {
                 py::list out;
                 for (const Id128& id : s.take_stage(most)) out.append(bytes_of(id));
                 return out;
             })
        .def("confirm_space", [](Store& s, const py::bytes& space,
                                 uint64_t generation) { s.confirm_space(id_of(space), generation); })
        .def("rebuild", &Store::rebuild, py::call_guard<py::gil_scoped_release>())
        .def_property_readonly("free_extents", &Store::free_extents)
        .def("stats", &stats);
}

}  // namespace tent::bindings
