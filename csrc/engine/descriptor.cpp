#include "engine/descriptor.h"

#include <string_view>

namespace tent::engine {
namespace {
constexpr uint32_t kMagic = 0x544e4454;  // "TDNT"
constexpr uint16_t kDescriptorVersion = 1;
constexpr size_t kMaxRails = 64;

// UTF-8 without control characters: what names, hosts and addresses become text in Python and in logs.
bool good_text(std::string_view s) {
    for (size_t i = 0; i < s.size();) {
        auto first = static_cast<uint8_t>(s[i]);
        if (first < 0x20 || first == 0x7f || (first >= 0x80 && first < 0xc2) || first > 0xf4) return false;
        size_t more = first < 0x80 ? 0 : first < 0xe0 ? 1 : first < 0xf0 ? 2 : 3;
        if (s.size() - i <= more) return false;
        uint32_t point = more == 0 ? first : first & (0x3fu >> more);
        for (size_t k = 1; k <= more; ++k) {
            auto next = static_cast<uint8_t>(s[i + k]);
            if ((next & 0xc0) != 0x80) return false;
            point = point << 6 | (next & 0x3fu);
        }
        bool overlong = (more == 2 && point < 0x800) || (more == 3 && point < 0x10000);
        if (overlong || point > 0x10ffff || (point >= 0xd800 && point < 0xe000)) return false;
        i += more + 1;
    }
    return true;
}
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
    bool good = good_text(d.cluster) && good_text(d.name) && good_text(d.host) && good_text(d.unix_name);
    for (const RailAddress& rail : d.rails)
        good = good && good_text(rail.address.host) && good_text(rail.name);
    if (!good) return {Code::protocol, "the node descriptor holds a name that is no text"};
    return d;
}

}  // namespace tent::engine
