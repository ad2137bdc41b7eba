#include "proto/store_messages.h"

namespace tent::proto {
namespace {

constexpr size_t kItemBytes = 40;  // of a CommitItem
constexpr size_t kPageBytes = 76;  // of a PageItem
constexpr size_t kSpaceBytes = 40;
constexpr size_t kStagedBytes = 49;

Writer begin(Bytes& out) {
    Writer w(out);
    w.u16(kStoreVersion);
    return w;
}

// Runs `fields` over what follows the version, and wants everything read.
template <class Fields>
Code decode_as(ByteView body, Fields fields) {
    Reader r(body);
    uint16_t version = r.u16();
    if (!r.ok()) return Code::protocol;
    if (version != kStoreVersion) return Code::version_mismatch;
    fields(r);
    return r.done() ? Code::ok : Code::protocol;
}

// A list's count, checked against what is left before anything is allocated.
size_t get_count(Reader& r, size_t entry_bytes, size_t most = kMaxItems) {
    size_t count = r.u32();
    if (count > most || count * entry_bytes > r.left()) {
        r.fail();
        return 0;
    }
    return count;
}

void put(Writer& w, const std::vector<Id128>& digests) {
    w.u32(static_cast<uint32_t>(digests.size()));
    for (const Id128& d : digests) w.id(d);
}

void get(Reader& r, std::vector<Id128>& digests) {
    digests.resize(get_count(r, sizeof(Id128)));
    for (Id128& d : digests) d = r.id();
}

void refuse_wrapping(Reader& r, uint64_t offset, uint64_t length) {
    if (offset > UINT64_MAX - length) r.fail();
}

}  // namespace

std::optional<Method> method_from_wire(uint64_t aux) {
    if (aux < static_cast<uint64_t>(Method::lend) || aux > static_cast<uint64_t>(Method::scrub_disk))
        return {};
    return static_cast<Method>(aux);
}

void encode(const LendRequest& m, Bytes& out) {
    Writer w = begin(out);
    w.u64(m.bytes);
    w.u64(m.largest);
}

Code decode(ByteView body, LendRequest& m) {
    return decode_as(body, [&m](Reader& r) {
        m.bytes = r.u64();
        m.largest = r.u64();
    });
}

void encode(const Lent& m, Bytes& out) {
    Writer w = begin(out);
    w.u8(m.code);
    w.u64(m.loan);
    w.u32(m.segment);
    w.u32(m.extent);
    w.u32(m.epoch);
    w.u64(m.offset);
    w.u64(m.length);
}

Code decode(ByteView body, Lent& m) {
    return decode_as(body, [&m](Reader& r) {
        m.code = r.u8();
        m.loan = r.u64();
        m.segment = r.u32();
        m.extent = r.u32();
        m.epoch = r.u32();
        m.offset = r.u64();
        m.length = r.u64();
        refuse_wrapping(r, m.offset, m.length);
    });
}

void encode(const GiveBack& m, Bytes& out) {
    begin(out).u64(m.loan);
}

Code decode(ByteView body, GiveBack& m) {
    return decode_as(body, [&m](Reader& r) { m.loan = r.u64(); });
}

void encode(const CommitRequest& m, Bytes& out) {
    Writer w = begin(out);
    w.u64(m.loan);
    w.u32(m.epoch);
    w.id(m.space);
    w.u64(m.generation);
    w.u32(static_cast<uint32_t>(m.items.size()));
    for (const CommitItem& item : m.items) {
        w.id(item.digest);
        w.u64(item.offset);
        w.u64(item.length);
        w.u64(item.check);
    }
}

Code decode(ByteView body, CommitRequest& m) {
    return decode_as(body, [&m](Reader& r) {
        m.loan = r.u64();
        m.epoch = r.u32();
        m.space = r.id();
        m.generation = r.u64();
        m.items.resize(get_count(r, kItemBytes));
        for (CommitItem& item : m.items) {
            item.digest = r.id();
            item.offset = r.u64();
            item.length = r.u64();
            item.check = r.u64();
            refuse_wrapping(r, item.offset, item.length);
        }
    });
}

void encode(const PinRequest& m, Bytes& out) {
    Writer w = begin(out);
    w.u32(m.milliseconds);
    put(w, m.digests);
}

Code decode(ByteView body, PinRequest& m) {
    return decode_as(body, [&m](Reader& r) {
        m.milliseconds = r.u32();
        get(r, m.digests);
    });
}

void encode(const DigestList& m, Bytes& out) {
    Writer w = begin(out);
    put(w, m.digests);
}

Code decode(ByteView body, DigestList& m) {
    return decode_as(body, [&m](Reader& r) { get(r, m.digests); });
}

void encode(const RemoveRequest& m, Bytes& out) {
    Writer w = begin(out);
    w.id(m.space);
    put(w, m.digests);
}

Code decode(ByteView body, RemoveRequest& m) {
    return decode_as(body, [&m](Reader& r) {
        m.space = r.id();
        get(r, m.digests);
    });
}

void encode(const AdoptRequest& m, Bytes& out) {
    Writer w = begin(out);
    w.id(m.space);
    w.u64(m.generation);
    w.u8(m.copies);
    put(w, m.digests);
}

Code decode(ByteView body, AdoptRequest& m) {
    return decode_as(body, [&m](Reader& r) {
        m.space = r.id();
        m.generation = r.u64();
        m.copies = r.u8();
        get(r, m.digests);
    });
}

void encode(const KeepRequest& m, Bytes& out) {
    Writer w = begin(out);
    w.u8(m.pinned);
    put(w, m.digests);
}

Code decode(ByteView body, KeepRequest& m) {
    return decode_as(body, [&m](Reader& r) {
        m.pinned = r.u8();
        if (m.pinned > 1) r.fail();
        get(r, m.digests);
    });
}

void encode(const ListRequest& m, Bytes& out) {
    Writer w = begin(out);
    w.u64(m.cursor);
    w.u32(m.most);
}

Code decode(ByteView body, ListRequest& m) {
    return decode_as(body, [&m](Reader& r) {
        m.cursor = r.u64();
        m.most = r.u32();
        if (m.most > kMaxListed) r.fail();
    });
}

void encode(const PageList& m, Bytes& out) {
    Writer w = begin(out);
    w.u64(m.next);
    w.u32(m.segment);
    w.u32(static_cast<uint32_t>(m.items.size()));
    for (const PageItem& p : m.items) {
        w.id(p.digest);
        w.id(p.space);
        for (uint64_t v : {p.generation, p.offset, p.length, p.check}) w.u64(v);
        for (uint32_t v : {p.epoch, p.hits, p.pins}) w.u32(v);
    }
}

Code decode(ByteView body, PageList& m) {
    return decode_as(body, [&m](Reader& r) {
        m.next = r.u64();
        m.segment = r.u32();
        m.items.resize(get_count(r, kPageBytes, kMaxListed));
        for (PageItem& p : m.items) {
            p.digest = r.id();
            p.space = r.id();
            for (uint64_t* v : {&p.generation, &p.offset, &p.length, &p.check}) *v = r.u64();
            for (uint32_t* v : {&p.epoch, &p.hits, &p.pins}) *v = r.u32();
            refuse_wrapping(r, p.offset, p.length);
        }
    });
}

void encode(const SpaceList& m, Bytes& out) {
    Writer w = begin(out);
    w.u32(static_cast<uint32_t>(m.items.size()));
    for (const SpaceItem& s : m.items) {
        w.id(s.space);
        for (uint64_t v : {s.generation, s.pages, s.bytes}) w.u64(v);
    }
}

Code decode(ByteView body, SpaceList& m) {
    return decode_as(body, [&m](Reader& r) {
        m.items.resize(get_count(r, kSpaceBytes, kMaxListed));
        for (SpaceItem& s : m.items) {
            s.space = r.id();
            for (uint64_t* v : {&s.generation, &s.pages, &s.bytes}) *v = r.u64();
        }
    });
}

void encode(const StatRequest&, Bytes& out) {
    begin(out);
}

Code decode(ByteView body, StatRequest&) {
    return decode_as(body, [](Reader&) {});
}

void encode(const StoreStat& m, Bytes& out) {
    Writer w = begin(out);
    w.u64(m.capacity);
    w.u64(m.used);
    w.u64(m.lent);
    w.u64(m.pages);
    w.u64(m.pinned);
}

Code decode(ByteView body, StoreStat& m) {
    return decode_as(body, [&m](Reader& r) {
        m.capacity = r.u64();
        m.used = r.u64();
        m.lent = r.u64();
        m.pages = r.u64();
        m.pinned = r.u64();
    });
}

void encode(const Statuses& m, Bytes& out) {
    Writer w = begin(out);
    w.u32(static_cast<uint32_t>(m.values.size()));
    w.raw(m.values);
}

Code decode(ByteView body, Statuses& m) {
    return decode_as(body, [&m](Reader& r) {
        ByteView values = r.raw(get_count(r, 1));
        m.values.assign(values.begin(), values.end());
    });
}

void encode(const Staged& m, Bytes& out) {
    Writer w = begin(out);
    w.u32(static_cast<uint32_t>(m.items.size()));
    for (const StagedItem& item : m.items) {
        w.u8(item.code);
        w.u32(item.segment);
        w.u32(item.epoch);
        w.u64(item.offset);
        w.u64(item.length);
        w.u64(item.check);
        w.id(item.version);
    }
}

Code decode(ByteView body, Staged& m) {
    return decode_as(body, [&m](Reader& r) {
        m.items.resize(get_count(r, kStagedBytes));
        for (StagedItem& item : m.items) {
            item.code = r.u8();
            item.segment = r.u32();
            item.epoch = r.u32();
            item.offset = r.u64();
            item.length = r.u64();
            item.check = r.u64();
            item.version = r.id();
            refuse_wrapping(r, item.offset, item.length);
        }
    });
}

void encode(const DiskStat& m, Bytes& out) {
    Writer w = begin(out);
    w.u64(m.capacity);
    w.u64(m.used);
    w.u64(m.pages);
    w.u64(m.errors);
    w.u8(m.off);
}

Code decode(ByteView body, DiskStat& m) {
    return decode_as(body, [&m](Reader& r) {
        m.capacity = r.u64();
        m.used = r.u64();
        m.pages = r.u64();
        m.errors = r.u64();
        m.off = r.u8();
        if (m.off > 1) r.fail();
    });
}

void encode(const ScrubRequest& m, Bytes& out) {
    begin(out).u8(static_cast<uint8_t>(m.wish));
}

Code decode(ByteView body, ScrubRequest& m) {
    return decode_as(body, [&m](Reader& r) {
        uint8_t wish = r.u8();
        if (wish > static_cast<uint8_t>(ScrubWish::keep_bad)) return r.fail();
        m.wish = static_cast<ScrubWish>(wish);
    });
}

void encode(const DiskScrub& m, Bytes& out) {
    Writer w = begin(out);
    for (uint64_t v : {m.round, m.pages, m.bytes, m.bad, m.removed, m.unread}) w.u64(v);
    w.u8(m.running);
}

Code decode(ByteView body, DiskScrub& m) {
    return decode_as(body, [&m](Reader& r) {
        for (uint64_t* v : {&m.round, &m.pages, &m.bytes, &m.bad, &m.removed, &m.unread}) *v = r.u64();
        m.running = r.u8();
        if (m.running > 1) r.fail();
    });
}

}  // namespace tent::proto
