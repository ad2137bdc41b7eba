// Calls of peers, decoded and answered.
#include <algorithm>

#include "store/lending.h"
#include "store/store.h"

namespace tent::store {
namespace {

template <class Message>
Status read_body(ByteView body, Message& message) {
    switch (proto::decode(body, message)) {
        case Code::ok:
            return Status::good();
        case Code::version_mismatch:
            return {Code::version_mismatch, "this store speaks another version of the store messages"};
        default:
            return {Code::protocol, "a malformed store message"};
    }
}

template <class Message>
Bytes bytes_of(const Message& message) {
    Bytes out;
    proto::encode(message, out);
    return out;
}

Bytes statuses(const std::vector<PageStatus>& values) {
    proto::Statuses reply;
    for (PageStatus s : values) reply.values.push_back(static_cast<uint8_t>(s));
    return bytes_of(reply);
}

proto::StoreStat stat_of(const Store& store) {
    StoreStats s = store.stats();
    proto::StoreStat out;
    out.capacity = s.capacity;
    out.used = s.live_bytes + s.pages * kSlotHeader;
    out.lent = (s.lent_extents + s.quarantined_extents) * s.extent_bytes;
    out.pages = s.pages;
    out.pinned = s.pinned_pages;
    return out;
}

Result<Bytes> on_adopt(Store& store, ByteView body) {
    proto::AdoptRequest request;
    if (Status s = read_body(body, request); !s.ok()) return s;
    std::vector<PageStatus> status(request.digests.size());
    store.want(request, status);
    return statuses(status);
}

Result<Bytes> on_keep(Store& store, ByteView body) {
    proto::KeepRequest request;
    if (Status s = read_body(body, request); !s.ok()) return s;
    std::vector<PageStatus> status(request.digests.size());
    store.pin(request.digests, request.pinned != 0, status);
    return statuses(status);
}

Result<Bytes> on_list(Store& store, ByteView body) {
    proto::ListRequest request;
    if (Status s = read_body(body, request); !s.ok()) return s;
    return bytes_of(store.list(request.cursor, request.most));
}

Result<Bytes> on_list_disk(Store& store, ByteView body) {
    proto::ListRequest request;
    if (Status s = read_body(body, request); !s.ok()) return s;
    return bytes_of(store.list_disk(request.cursor, request.most));
}

Result<Bytes> on_scrub_disk(Store& store, ByteView body) {
    proto::ScrubRequest request;
    if (Status s = read_body(body, request); !s.ok()) return s;
    return bytes_of(store.ask_scrub(request.wish));
}

Result<Bytes> on_stage(Store& store, ByteView body, Nanos now) {
    proto::DigestList list;
    if (Status s = read_body(body, list); !s.ok()) return s;
    return bytes_of(store.ask_stage(list.digests, now));
}

proto::DiskStat disk_stat_of(const Store& store) {
    proto::DiskStat out;
    if (store.disk() == nullptr) return out;
    DiskStats s = store.disk()->stats();
    out.capacity = s.capacity;
    out.used = s.used;
    out.pages = s.pages;
    out.errors = s.errors;
    out.off = s.off ? 1 : 0;
    return out;
}

// stat, spaces, disk, disk_spaces and drain: requests without contents.
Result<Bytes> on_bare(Store& store, proto::Method method, ByteView body) {
    proto::StatRequest request;
    if (Status s = read_body(body, request); !s.ok()) return s;
    if (method == proto::Method::stat) return bytes_of(stat_of(store));
    if (method == proto::Method::disk) return bytes_of(disk_stat_of(store));
    if (method == proto::Method::spaces) return bytes_of(store.spaces());
    if (method == proto::Method::disk_spaces) return bytes_of(store.disk_spaces());
    store.ask_to_drain();
    return Bytes{};
}

Result<Bytes> on_digests(Store& store, proto::Method method, ByteView body) {
    proto::DigestList list;
    if (Status s = read_body(body, list); !s.ok()) return s;
    if (method == proto::Method::hits) store.note_hits(list.digests);
    if (method == proto::Method::stale) store.enqueue(list.digests);
    if (method == proto::Method::doubt) store.doubt(list.digests);
    // An unpin ends a lease early; leases are short, and another reader may rely on the same one: it just
    // runs out.
    return Bytes{};
}

}  // namespace

Result<Bytes> serve_call(Store& store, const WriterId& writer, uint16_t raw, ByteView body, Nanos now) {
    std::optional<proto::Method> method = proto::method_from_wire(raw);
    if (!method) return Status(Code::unsupported, "no store call has number " + std::to_string(raw));
    switch (*method) {
        case proto::Method::lend: {
            proto::LendRequest request;
            if (Status s = read_body(body, request); !s.ok()) return s;
            return bytes_of(store.lend(writer, request));
        }
        case proto::Method::give_back: {
            proto::GiveBack request;
            if (Status s = read_body(body, request); !s.ok()) return s;
            store.give_back(writer, request.loan);
            return Bytes{};
        }
        case proto::Method::commit: {
            proto::CommitRequest request;
            if (Status s = read_body(body, request); !s.ok()) return s;
            return statuses(store.commit_lent(writer, request));
        }
        case proto::Method::pin: {
            proto::PinRequest request;
            if (Status s = read_body(body, request); !s.ok()) return s;
            std::vector<PageStatus> status(request.digests.size());
            Nanos span = std::min(request.milliseconds, kMaxLeaseMs) * kMillisecond;
            store.lease(request.digests, now + span, status);
            return statuses(status);
        }
        case proto::Method::remove: {
            proto::RemoveRequest request;
            if (Status s = read_body(body, request); !s.ok()) return s;
            std::vector<PageStatus> status(request.digests.size());
            store.remove(request.digests, status);
            return statuses(status);
        }
        case proto::Method::adopt:
            return on_adopt(store, body);
        case proto::Method::keep:
            return on_keep(store, body);
        case proto::Method::list:
            return on_list(store, body);
        case proto::Method::stage:
            return on_stage(store, body, now);
        case proto::Method::list_disk:
            return on_list_disk(store, body);
        case proto::Method::scrub_disk:
            return on_scrub_disk(store, body);
        case proto::Method::stat:
        case proto::Method::spaces:
        case proto::Method::disk:
        case proto::Method::disk_spaces:
        case proto::Method::drain:
            return on_bare(store, *method, body);
        case proto::Method::unpin:
        case proto::Method::hits:
        case proto::Method::stale:
        case proto::Method::doubt:
            return on_digests(store, *method, body);
    }
    return Status(Code::unsupported, "no such store call");
}

}  // namespace tent::store
