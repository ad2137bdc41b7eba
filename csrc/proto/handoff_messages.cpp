#include "proto/handoff_messages.h"

namespace tent::proto {
namespace {

constexpr size_t kRangeBytes = 16;  // of an OfferedRange

Writer begin(Bytes& out) {
    Writer w(out);
    w.u16(kHandoffVersion);
    return w;
}

// Runs `fields` over what follows the version, and wants everything read.
template <class Fields>
Code decode_as(ByteView body, Fields fields) {
    Reader r(body);
    uint16_t version = r.u16();
    if (!r.ok()) return Code::protocol;
    if (version != kHandoffVersion) return Code::version_mismatch;
    fields(r);
    return r.done() ? Code::ok : Code::protocol;
}

OfferEnd get_end(Reader& r, OfferEnd last) {
    uint8_t raw = r.u8();
    if (raw < static_cast<uint8_t>(OfferEnd::released) || raw > static_cast<uint8_t>(last)) r.fail();
    return static_cast<OfferEnd>(raw);
}

// Lengths that are not zero and do not add up to more than there is.
void get_ranges(Reader& r, Opened& m) {
    size_t count = r.u32();
    if (count > kMaxOffered || count * kRangeBytes > r.left()) return r.fail();
    m.items.resize(count);
    uint64_t left = m.bytes;
    for (OfferedRange& item : m.items) {
        item.length = r.u64();
        item.check = r.u64();
        if (item.length == 0 || item.length > left) return r.fail();
        left -= item.length;
    }
}

}  // namespace

void encode(const OpenRequest& m, Bytes& out) {
    Writer w = begin(out);
    w.id(m.offer);
    w.u32(m.first);
}

Code decode(ByteView body, OpenRequest& m) {
    return decode_as(body, [&m](Reader& r) {
        m.offer = r.id();
        m.first = r.u32();
        if (m.first >= kMaxOfferRanges) r.fail();
    });
}

void encode(const Opened& m, Bytes& out) {
    Writer w = begin(out);
    w.u32(m.segment);
    w.u8(static_cast<uint8_t>(m.rights));
    w.u8(m.checked);
    w.u64(m.bytes);
    w.u32(m.ranges);
    w.u32(m.lease_ms);
    w.u32(m.first);
    w.u32(static_cast<uint32_t>(m.items.size()));
    for (const OfferedRange& item : m.items) {
        w.u64(item.length);
        w.u64(item.check);
    }
}

Code decode(ByteView body, Opened& m) {
    return decode_as(body, [&m](Reader& r) {
        m.items.clear();
        m.segment = r.u32();
        m.rights = static_cast<Rights>(r.u8());
        m.checked = r.u8();
        m.bytes = r.u64();
        m.ranges = r.u32();
        m.lease_ms = r.u32();
        m.first = r.u32();
        if (m.rights != Rights::read && m.rights != Rights::write) r.fail();
        if (m.checked > 1 || m.ranges == 0 || m.ranges > kMaxOfferRanges) r.fail();
        get_ranges(r, m);
        if (m.first > m.ranges || m.items.size() > m.ranges - m.first) r.fail();
    });
}

void encode(const ReleaseRequest& m, Bytes& out) {
    Writer w = begin(out);
    w.id(m.offer);
    w.u8(static_cast<uint8_t>(m.how));
}

Code decode(ByteView body, ReleaseRequest& m) {
    return decode_as(body, [&m](Reader& r) {
        m.offer = r.id();
        m.how = get_end(r, OfferEnd::refused);
    });
}

void encode(const Released& m, Bytes& out) {
    begin(out).u8(static_cast<uint8_t>(m.how));
}

Code decode(ByteView body, Released& m) {
    return decode_as(body, [&m](Reader& r) { m.how = get_end(r, OfferEnd::gone); });
}

}  // namespace tent::proto
