#include "engine/descriptor.h"

namespace tent::engine {
namespace {
constexpr uint32_t kMagic = 0x544e4454;  // "TDNT"
constexpr uint16_t kDescriptorVersion = 1;
constexpr size_t kMaxRails = 64;
}  // namespace

Bytes encode(const Descriptor& d) {
    Bytes out;
    Writer w(out);
    w.u32(kMagic);
    w.u16(kDescriptorVersion);
    w.str(d.cluster);
    w.str(d.name);
    w.str(d.host);
    w.id(d.incarnation);
    w.str(d.unix_name);
    w.u64(d.probe_address);
    w.u16(static_cast<uint16_t>(d.rails.size()));
    for (const RailAddress& r : d.rails) {
        w.str(r.address.host);
        w.u16(r.address.port);
        w.str(r.name);
    }
    return out;
}

Result<Descriptor> decode_descriptor(ByteView bytes) {
    Reader r(bytes);
    if (r.u32() != kMagic) return {Code::protocol, "these bytes are no node descriptor of TENT's"};
    uint16_t version = r.u16();
    if (version != kDescriptorVersion) {
        return {Code::version_mismatch, "the node descriptor has version " + std::to_string(version) +
                                            ", this TENT reads version 1: use one TENT version in a cluster"};
    }
    Descriptor d;
    d.cluster = r.str(255);
    d.name = r.str(255);
    d.host = r.str(1024);
    d.incarnation = r.id();
    d.unix_name = r.str(100);
    d.probe_address = r.u64();
    size_t n = r.u16();
    if (n > kMaxRails) return {Code::protocol, "the node descriptor names too many rails"};
    for (size_t i = 0; i < n; ++i) {
        RailAddress rail;
        rail.address.host = r.str(255);
        rail.address.port = r.u16();
        rail.name = r.str(255);
        d.rails.push_back(std::move(rail));
    }
    if (!r.done()) return {Code::protocol, "the node descriptor is cut short or has bytes left over"};
    return d;
}

}  // namespace tent::engine
