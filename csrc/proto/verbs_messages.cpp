#include "proto/verbs_messages.h"

namespace tent::proto {
namespace {

constexpr uint32_t k24Bits = 0xffffff;

void put(Writer& w, const QueuePairEnd& end) {
    w.id(end.gid);
    w.u32(end.number);
    w.u32(end.psn);
    w.u8(end.mtu);
    w.u8(end.reads);
    w.u16(end.lid);
}

bool get(Reader& r, QueuePairEnd& end) {
    end.gid = r.id();
    end.number = r.u32();
    end.psn = r.u32();
    end.mtu = r.u8();
    end.reads = r.u8();
    end.lid = r.u16();
    return r.ok() && end.number <= k24Bits && end.psn <= k24Bits && end.mtu >= 1 && end.mtu <= 5 &&
           end.reads >= 1;
}

}  // namespace

void encode(const OpenQueuePair& m, Bytes& out) {
    Writer w(out);
    put(w, m.end);
    w.id(m.towards);
}

bool decode(ByteView body, OpenQueuePair& m) {
    Reader r(body);
    if (!get(r, m.end)) return false;
    m.towards = r.id();
    return r.done();
}

void encode(const OpenedQueuePair& m, Bytes& out) {
    Writer w(out);
    put(w, m.end);
    w.u32(m.domain);
    w.u64(m.probe_address);
    w.u32(m.probe_key);
}

bool decode(ByteView body, OpenedQueuePair& m) {
    Reader r(body);
    if (!get(r, m.end)) return false;
    m.domain = r.u32();
    m.probe_address = r.u64();
    m.probe_key = r.u32();
    return r.done();
}

void encode(std::span<const MemoryKey> keys, Bytes& out) {
    Writer w(out);
    for (const MemoryKey& k : keys) {
        w.u32(k.segment);
        w.u8(static_cast<uint8_t>(k.rights));
        w.u64(k.offset);
        w.u64(k.length);
        w.u64(k.address);
        w.u32(k.key);
    }
}

bool decode(ByteView body, std::vector<MemoryKey>& keys) {
    keys.clear();
    size_t count = body.size() / kKeyBytes;
    if (body.size() % kKeyBytes != 0 || count == 0 || count > kMaxKeys) return false;
    keys.reserve(count);
    Reader r(body);
    for (size_t i = 0; i < count; ++i) {
        MemoryKey k;
        k.segment = r.u32();
        uint8_t rights = r.u8();
        k.rights = static_cast<Rights>(rights);
        k.offset = r.u64();
        k.length = r.u64();
        k.address = r.u64();
        k.key = r.u32();
        bool sound = rights >= 1 && rights <= static_cast<uint8_t>(Rights::read_write) && k.length > 0 &&
                     k.offset <= UINT64_MAX - k.length && k.address != 0 &&
                     k.address <= UINT64_MAX - k.length;
        if (!sound) return false;
        keys.push_back(k);
    }
    return r.done();
}

}  // namespace tent::proto
