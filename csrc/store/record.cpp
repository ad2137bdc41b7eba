#include "store/record.h"

#include "base/digest.h"
#include "base/switches.h"

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

// The replica to read: the preferred node's, else the first.
const Replica& choose(const Record& record, std::string_view prefer) {
    for (size_t i = 0; i < record.replica_count; ++i) {
        if (record.replicas[i].node == prefer) return record.replicas[i];
    }
    return record.replicas[0];
}

uint32_t node_index(const Replica& replica, std::vector<NodeRef>& nodes, size_t& last) {
    auto is = [&](const NodeRef& n) {
        return n.incarnation == replica.incarnation && n.name == replica.node;
    };
    if (last < nodes.size() && is(nodes[last])) return static_cast<uint32_t>(last);
    for (last = 0; last < nodes.size(); ++last) {
        if (is(nodes[last])) return static_cast<uint32_t>(last);
    }
    nodes.push_back({std::string(replica.node), replica.incarnation});
    return static_cast<uint32_t>(last);
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

bool same_incarnation(const Id128& a, const Id128& b) {
    return a == b || !protection_on(Protection::incarnation);
}

void decode_records(std::span<const ByteView> records, const DecodeOptions& options, const RecordColumns& out,
                    std::vector<NodeRef>& nodes) {
    size_t last = 0;
    Record record;
    for (size_t i = 0; i < out.count; ++i) {
        PageStatus status =
            records[i].data() == nullptr ? PageStatus::ABSENT : decode_record(records[i], record);
        out.node[i] = kNoId;
        out.segment[i] = out.epoch[i] = 0;
        out.offset[i] = out.length[i] = out.check[i] = 0;
        std::memset(out.version + 16 * i, 0, 16);
        if (status == PageStatus::HIT) {
            const Replica& r = choose(record, options.prefer);
            out.node[i] = node_index(r, nodes, last);
            out.segment[i] = r.segment;
            out.epoch[i] = r.epoch;
            out.offset[i] = r.offset;
            out.length[i] = record.length;
            out.check[i] = record.check;
            std::memcpy(out.version + 16 * i, record.version.data(), 16);
            if (record.generation < options.generation && protection_on(Protection::generation)) {
                status = PageStatus::CLEARED;
            } else if (options.expect != nullptr && options.expect[i] != record.length) {
                status = PageStatus::LENGTH_MISMATCH;
            }
        }
        out.status[i] = static_cast<uint8_t>(status);
    }
}

}  // namespace tent::store
