// What is said to the stores of other nodes (proto/store_messages.h), at the Python edge.
#include <pybind11/stl.h>

#include "bindings/store_arrays.h"

namespace tent::bindings {

namespace {

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

// Where pages lie now, as columns: status, segment, epoch, offset, length, check, version.
py::tuple staged_reply(const py::bytes& body) {
    auto reply = decoded<proto::Staged>(body);
    auto n = static_cast<py::ssize_t>(reply.items.size());
    py::array_t<uint8_t> status(n), version({n, py::ssize_t{16}});
    py::array_t<uint32_t> segment(n), epoch(n);
    py::array_t<uint64_t> offset(n), length(n), sum(n);
    for (py::ssize_t i = 0; i < n; ++i) {
        const proto::StagedItem& item = reply.items[static_cast<size_t>(i)];
        status.mutable_data()[i] = item.code;
        segment.mutable_data()[i] = item.segment;
        epoch.mutable_data()[i] = item.epoch;
        offset.mutable_data()[i] = item.offset;
        length.mutable_data()[i] = item.length;
        sum.mutable_data()[i] = item.check;
        std::copy(item.version.begin(), item.version.end(), version.mutable_data() + 16 * i);
    }
    return py::make_tuple(status, segment, epoch, offset, length, sum, version);
}

}  // namespace

// A listing as columns: next cursor, segment, digests, spaces, then numbers by name.
py::tuple page_list(const proto::PageList& list) {
    auto n = static_cast<py::ssize_t>(list.items.size());
    py::array_t<uint8_t> digests({n, py::ssize_t{16}}), spaces({n, py::ssize_t{16}});
    std::vector<uint64_t> generation, offset, length, sum;
    std::vector<uint32_t> epoch, hits, pins;
    for (py::ssize_t i = 0; i < n; ++i) {
        const proto::PageItem& p = list.items[static_cast<size_t>(i)];
        std::copy(p.digest.begin(), p.digest.end(), digests.mutable_data() + 16 * i);
        std::copy(p.space.begin(), p.space.end(), spaces.mutable_data() + 16 * i);
        generation.push_back(p.generation);
        offset.push_back(p.offset);
        length.push_back(p.length);
        sum.push_back(p.check);
        epoch.push_back(p.epoch);
        hits.push_back(p.hits);
        pins.push_back(p.pins);
    }
    auto words = [n](const std::vector<uint64_t>& v) { return py::array_t<uint64_t>(n, v.data()); };
    auto halves = [n](const std::vector<uint32_t>& v) { return py::array_t<uint32_t>(n, v.data()); };
    return py::make_tuple(list.next, list.segment, digests, spaces, words(generation), words(offset),
                          words(length), words(sum), halves(epoch), halves(hits), halves(pins));
}

void bind_store_messages(py::module_& m) {
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
    m.def("adopt_request", [](const py::bytes& space, uint64_t generation, uint8_t copies, const Digests& d) {
        auto v = ids(d);
        require(v.size() <= proto::kMaxItems, "too many pages in one request");
        return encoded(proto::AdoptRequest{id_of(space), generation, copies, {v.begin(), v.end()}});
    });
    m.def("keep_request", [](bool pinned, const Digests& d) {
        auto v = ids(d);
        require(v.size() <= proto::kMaxItems, "too many pages in one request");
        return encoded(proto::KeepRequest{pinned, {v.begin(), v.end()}});
    });
    m.def("list_request", [](uint64_t cursor, uint32_t most) {
        return encoded(proto::ListRequest{cursor, most});
    });
    m.def("bare_request", [] { return encoded(proto::StatRequest{}); });
    m.def("page_list_reply", [](const py::bytes& body) { return page_list(decoded<proto::PageList>(body)); });
    m.def("space_list_reply", [](const py::bytes& body) {
        py::list out;
        for (const proto::SpaceItem& s : decoded<proto::SpaceList>(body).items)
            out.append(py::make_tuple(bytes_of(s.space), s.generation, s.pages, s.bytes));
        return out;
    });
    m.def("store_stat_reply", [](const py::bytes& body) {
        auto s = decoded<proto::StoreStat>(body);
        py::dict d;
        d["capacity"] = s.capacity;
        d["used"] = s.used;
        d["lent"] = s.lent;
        d["pages"] = s.pages;
        d["pinned"] = s.pinned;
        return d;
    });
    m.def("staged_reply", &staged_reply);
    m.def("disk_stat_reply", [](const py::bytes& body) {
        auto s = decoded<proto::DiskStat>(body);
        py::dict d;
        d["capacity"] = s.capacity;
        d["used"] = s.used;
        d["pages"] = s.pages;
        d["errors"] = s.errors;
        d["off"] = s.off != 0;
        return d;
    });
    m.def("scrub_request", [](const std::string& wish) {
        return encoded(proto::ScrubRequest{wish == "tell"   ? proto::ScrubWish::tell
                                           : wish == "keep" ? proto::ScrubWish::keep_bad
                                                            : proto::ScrubWish::remove_bad});
    });
    m.def("disk_scrub_reply", [](const py::bytes& body) {
        auto s = decoded<proto::DiskScrub>(body);
        py::dict d;
        d["round"] = s.round;
        d["pages"] = s.pages;
        d["bytes"] = s.bytes;
        d["bad"] = s.bad;
        d["removed"] = s.removed;
        d["unread"] = s.unread;
        d["running"] = s.running != 0;
        return d;
    });
    m.def("statuses_reply", [](const py::bytes& body) {
        auto s = decoded<proto::Statuses>(body);
        return py::array_t<uint8_t>(static_cast<py::ssize_t>(s.values.size()), s.values.data());
    });
}

}  // namespace tent::bindings
