#include "proto/wire.h"

#include "proto/verbs_messages.h"

namespace tent::proto {
namespace {

// What a frame of a type may carry: the most body bytes, whether a payload, whether a code.
struct Shape {
    size_t body = 0;
    bool payload = false;
    bool code = false;
};

constexpr size_t kPullBytes = kPieceBytes + sizeof(uint64_t);  // a piece and its source address
constexpr size_t kPiecesBody = kMaxPieces * kPieceBytes;

constexpr std::array<Shape, 27> kShapes = [] {
    std::array<Shape, 27> s{};
    auto at = [&s](FrameType t) -> Shape& { return s[static_cast<size_t>(t)]; };
    at(FrameType::write) = {kPiecesBody, true, false};
    at(FrameType::write_ack) = {kMaxMessage, false, true};
    at(FrameType::read) = {kPiecesBody, false, false};
    at(FrameType::data) = {0, true, false};
    at(FrameType::read_fail) = {kMaxMessage, false, true};
    at(FrameType::revoke) = {kMaxBody, false, false};
    at(FrameType::revoked) = {kMaxMessage, false, true};
    at(FrameType::token) = {0, false, false};
    at(FrameType::echo) = {0, false, false};
    at(FrameType::notify) = {kMaxNotify, false, false};
    at(FrameType::notify_ack) = {kMaxMessage, false, true};
    at(FrameType::segments) = {0, false, false};
    at(FrameType::segment_table) = {kMaxBody, false, true};
    at(FrameType::segment_gone) = {kMaxMessage, false, true};
    at(FrameType::call) = {kMaxBody, false, false};
    at(FrameType::reply) = {kMaxBody, false, true};
    at(FrameType::map) = {0, false, false};
    at(FrameType::mapped) = {kMaxBody, false, true};
    at(FrameType::bye) = {kMaxMessage, false, true};
    at(FrameType::pull) = {kMaxPieces * kPullBytes, false, false};
    at(FrameType::credit) = {0, false, false};
    at(FrameType::qp_open) = {kMaxMessage, false, false};
    at(FrameType::qp_opened) = {kMaxMessage, false, true};
    at(FrameType::qp_close) = {kMaxLanes * sizeof(uint64_t), false, false};
    at(FrameType::ask_keys) = {kPiecesBody, false, false};
    at(FrameType::keys) = {kMaxKeys * kKeyBytes, false, true};
    return s;
}();

template <class T>
void store(uint8_t* out, T v) {
    for (size_t i = 0; i < sizeof(T); ++i) out[i] = static_cast<uint8_t>(v >> (8 * i));
}

bool good(const SegmentInfo& s) {
    auto kind = static_cast<uint8_t>(s.kind), rights = static_cast<uint8_t>(s.rights);
    if (kind < static_cast<uint8_t>(SegmentKind::memfd) || kind > static_cast<uint8_t>(SegmentKind::offer))
        return false;
    if (rights > static_cast<uint8_t>(Rights::read_write)) return false;
    if (s.length == 0 || s.address > UINT64_MAX - s.length) return false;
    return s.extent == 0 || (s.length - 1) / s.extent < kMaxExtents;
}

}  // namespace

void encode(const Header& h, std::array<uint8_t, kHeaderBytes>& out) {
    store(out.data(), h.body);
    out[4] = static_cast<uint8_t>(h.type);
    out[5] = h.flags;
    store(out.data() + 6, h.code);
    store(out.data() + 8, h.attempt);
    store(out.data() + 16, h.payload);
    store(out.data() + 24, h.aux);
}

bool decode(std::span<const uint8_t, kHeaderBytes> in, Header& h) {
    Reader r{ByteView(in)};
    h.body = r.u32();
    uint8_t type = r.u8();
    h.flags = r.u8();
    h.code = r.u16();
    h.attempt = r.u64();
    h.payload = r.u64();
    h.aux = r.u64();
    if (type == 0 || type >= kShapes.size()) return false;
    h.type = static_cast<FrameType>(type);
    const Shape& shape = kShapes[type];
    if (h.body > shape.body) return false;
    if (h.payload > (shape.payload ? kMaxPayload : 0)) return false;
    return shape.code || h.code == 0;
}

void encode_pieces(std::span<const Piece> pieces, Bytes& out) {
    Writer w(out);
    out.reserve(out.size() + pieces.size() * kPieceBytes);
    for (const Piece& p : pieces) {
        w.u32(p.segment);
        w.u32(p.epoch);
        w.u64(p.offset);
        w.u64(p.length);
    }
}

bool decode_pieces(ByteView body, std::vector<Piece>& pieces, uint64_t& total) {
    pieces.clear();
    total = 0;
    size_t count = body.size() / kPieceBytes;
    if (body.size() % kPieceBytes != 0 || count == 0 || count > kMaxPieces) return false;
    pieces.reserve(count);
    Reader r(body);
    for (size_t i = 0; i < count; ++i) {
        Piece p;
        p.segment = r.u32();
        p.epoch = r.u32();
        p.offset = r.u64();
        p.length = r.u64();
        if (p.length == 0 || p.length > kMaxPayload - total || p.offset > UINT64_MAX - p.length) return false;
        total += p.length;
        pieces.push_back(p);
    }
    return r.done();
}

void encode_pull(std::span<const Piece> pieces, std::span<const uint64_t> addresses, Bytes& out) {
    encode_pieces(pieces, out);
    Writer w(out);
    for (uint64_t address : addresses) w.u64(address);
}

bool decode_pull(ByteView body, std::vector<Piece>& pieces, std::vector<uint64_t>& addresses,
                 uint64_t& total) {
    addresses.clear();
    total = 0;
    size_t count = body.size() / kPullBytes;
    if (body.size() % kPullBytes != 0) return false;
    if (!decode_pieces(body.first(count * kPieceBytes), pieces, total)) return false;
    addresses.reserve(count);
    Reader r(body.subspan(count * kPieceBytes));
    for (const Piece& p : pieces) {
        uint64_t address = r.u64();
        if (address == 0 || address > UINT64_MAX - p.length) return false;
        addresses.push_back(address);
    }
    return r.done();
}

void encode_attempts(std::span<const AttemptId> attempts, Bytes& out) {
    Writer w(out);
    for (AttemptId a : attempts) w.u64(a);
}

bool decode_attempts(ByteView body, std::vector<AttemptId>& attempts) {
    attempts.clear();
    if (body.size() % sizeof(AttemptId) != 0 || body.size() > kMaxBody) return false;
    attempts.reserve(body.size() / sizeof(AttemptId));
    Reader r(body);
    while (r.left() > 0) attempts.push_back(r.u64());
    return r.done();
}

void encode_segments(std::span<const SegmentInfo> segments, Bytes& out) {
    Writer w(out);
    w.u32(static_cast<uint32_t>(segments.size()));
    for (const SegmentInfo& s : segments) {
        w.u32(s.id);
        w.u8(static_cast<uint8_t>(s.kind));
        w.u8(static_cast<uint8_t>(s.rights));
        w.u64(s.length);
        w.u64(s.extent);
        w.u64(s.address);
        w.str(std::string_view(s.name).substr(0, kMaxName));
    }
}

bool decode_segments(ByteView body, std::vector<SegmentInfo>& segments) {
    segments.clear();
    if (body.size() > kMaxBody) return false;
    Reader r(body);
    size_t count = r.u32();
    if (!r.ok() || count > r.left() / kMinSegmentBytes) return false;
    segments.reserve(count);
    for (size_t i = 0; i < count; ++i) {
        SegmentInfo s;
        s.id = r.u32();
        s.kind = static_cast<SegmentKind>(r.u8());
        s.rights = static_cast<Rights>(r.u8());
        s.length = r.u64();
        s.extent = r.u64();
        s.address = r.u64();
        s.name = r.str(kMaxName);
        if (!r.ok() || !good(s)) return false;
        segments.push_back(std::move(s));
    }
    return r.done();
}

}  // namespace tent::proto
