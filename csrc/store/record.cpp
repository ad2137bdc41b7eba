#include "store/record.h"

#include "base/digest.h"

namespace tent::store {
namespace {

constexpr uint8_t kMagic = 'T';
constexpr uint64_t kSeed = (uint64_t{kMagic} << 8) | kRecordVersion;
constexpr size_t kSummedFrom = 8;

uint32_t sum_of(ByteView bytes) {
    ByteView rest = bytes.subspan(kSummedFrom);
    return static_cast<uint32_t>(xxh3_64(rest.data(), rest.size(), kSeed));
}

bool decode_replica(Reader& in, Replica& out) {
    out.incarnation = in.id();
    out.segment = in.u32();
    out.extent = in.u32();
    out.epoch = in.u32();
    out.offset = in.u64();
    ByteView name = in.raw(in.u8());
    out.node = {reinterpret_cast<const char*>(name.data()), name.size()};
    return in.ok() && !name.empty();
}

}  // namespace

void encode_record(const Record& record, Bytes& out) {
    size_t start = out.size();
    Writer w(out);
    w.u8(kMagic);
    w.u8(kRecordVersion);
    w.u8(0);
    w.u8(record.replica_count);
    w.u32(0);
    w.u64(record.generation);
    w.id(record.version);
    w.u64(record.length);
    w.u64(record.check);
    for (size_t i = 0; i < record.replica_count; ++i) {
        const Replica& r = record.replicas[i];
        w.id(r.incarnation);
        w.u32(r.segment);
        w.u32(r.extent);
        w.u32(r.epoch);
        w.u64(r.offset);
        w.u8(static_cast<uint8_t>(r.node.size()));
        w.raw(as_bytes(r.node));
    }
    uint32_t sum = sum_of(ByteView(out).subspan(start));
    for (size_t i = 0; i < 4; ++i) out[start + 4 + i] = static_cast<uint8_t>(sum >> (8 * i));
}

PageStatus decode_record(ByteView bytes, Record& out) {
    if (bytes.size() < 2 || bytes[0] != kMagic) return PageStatus::BAD_RECORD;
    if (bytes[1] != kRecordVersion) return PageStatus::VERSION;
    constexpr size_t kLargest = kRecordHeader + kMaxReplicas * (kReplicaFixed + kMaxNodeName);
    if (bytes.size() < kRecordHeader || bytes.size() > kLargest) return PageStatus::BAD_RECORD;
    Reader in(bytes.subspan(2));
    uint8_t flags = in.u8();
    out.replica_count = in.u8();
    uint32_t sum = in.u32();
    if (flags != 0 || out.replica_count == 0 || out.replica_count > kMaxReplicas || sum != sum_of(bytes)) {
        return PageStatus::BAD_RECORD;
    }
    out.generation = in.u64();
    out.version = in.id();
    out.length = in.u64();
    out.check = in.u64();
    for (size_t i = 0; i < out.replica_count; ++i) {
        if (!decode_replica(in, out.replicas[i])) return PageStatus::BAD_RECORD;
        if (out.length == 0 || !within(out.replicas[i].offset, out.length, UINT64_MAX)) {
            return PageStatus::BAD_RECORD;
        }
    }
    return in.done() ? PageStatus::HIT : PageStatus::BAD_RECORD;
}

}  // namespace tent::store
