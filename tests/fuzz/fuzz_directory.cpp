// What comes from the directory: page records and node descriptors. Whatever is accepted encodes to the bytes
// it came from, and names nothing out of bounds.
#include <algorithm>
#include <cstdlib>

#include "base/digest.h"
#include "engine/descriptor.h"
#include "store/record.h"

using namespace tent;

namespace {

void demand(bool holds) {
    if (!holds) std::abort();
}

bool same(const Bytes& a, ByteView b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

void record(ByteView in) {
    store::Record r;
    if (store::decode_record(in, r) != store::PageStatus::HIT) return;
    demand(r.replica_count >= 1 && r.replica_count <= store::kMaxReplicas && r.length > 0);
    for (size_t i = 0; i < r.replica_count; ++i) {
        const store::Replica& replica = r.replicas[i];
        demand(replica.offset <= UINT64_MAX - r.length && !replica.node.empty());
        demand(reinterpret_cast<const uint8_t*>(replica.node.data()) >= in.data());
        demand(reinterpret_cast<const uint8_t*>(replica.node.data() + replica.node.size()) <=
               in.data() + in.size());
    }
    Bytes out;
    store::encode_record(r, out);
    demand(same(out, in));
}

// The checksum guards against accident; here it is made to fit, so that what lies behind it is reached.
void summed_record(ByteView in) {
    if (in.size() < store::kRecordHeader) return;
    Bytes copy(in.begin(), in.end());
    auto seed = uint64_t{'T'} << 8 | store::kRecordVersion;
    auto sum = static_cast<uint32_t>(xxh3_64(copy.data() + 8, copy.size() - 8, seed));
    for (size_t i = 0; i < 4; ++i) copy[4 + i] = static_cast<uint8_t>(sum >> (8 * i));
    copy.shrink_to_fit();
    record(copy);
}

void descriptor(ByteView in) {
    Result<engine::Descriptor> d = engine::decode_descriptor(in);
    if (!d.ok()) {
        demand(d.status().code() == Code::protocol || d.status().code() == Code::version_mismatch);
        return;
    }
    demand(same(engine::encode(*d), in));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    ByteView in(data, size);
    record(in);
    summed_record(in);
    descriptor(in);
    return 0;
}
