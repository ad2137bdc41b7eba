// Every decoder of frames, of store messages and of those about offers, on the same bytes: none may read past
// the end, and whatever one accepts must encode to exactly the bytes it came from.
#include <algorithm>
#include <cstdlib>

#include "proto/handoff_messages.h"
#include "proto/store_messages.h"
#include "proto/wire.h"

using namespace tent;
using namespace tent::proto;

namespace {

void demand(bool holds) {
    if (!holds) std::abort();
}

bool same(const Bytes& a, ByteView b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

void frame_bodies(ByteView body) {
    Bytes out;
    std::vector<Piece> pieces;
    std::vector<uint64_t> addresses;
    std::vector<AttemptId> attempts;
    std::vector<SegmentInfo> segments;
    uint64_t total = 0;
    if (decode_pieces(body, pieces, total)) {
        demand(pieces.size() <= kMaxPieces && total > 0 && total <= kMaxPayload);
        encode_pieces(pieces, out);
        demand(same(out, body));
    }
    out.clear();
    if (decode_pull(body, pieces, addresses, total)) {
        demand(pieces.size() == addresses.size() && total <= kMaxPayload);
        encode_pull(pieces, addresses, out);
        demand(same(out, body));
    }
    out.clear();
    if (decode_attempts(body, attempts)) {
        encode_attempts(attempts, out);
        demand(same(out, body));
    }
    out.clear();
    if (decode_segments(body, segments)) {
        for (const SegmentInfo& s : segments) demand(s.length > 0 && s.name.size() <= kMaxName);
        encode_segments(segments, out);
        demand(same(out, body));
    }
}

template <class M>
void message(ByteView body) {
    M m;
    Code code = decode(body, m);
    demand(code == Code::ok || code == Code::protocol || code == Code::version_mismatch);
    if (code != Code::ok) return;
    Bytes out;
    encode(m, out);
    demand(same(out, body));
}

void store_messages(ByteView body) {
    message<LendRequest>(body);
    message<Lent>(body);
    message<GiveBack>(body);
    message<CommitRequest>(body);
    message<PinRequest>(body);
    message<DigestList>(body);
    message<RemoveRequest>(body);
    message<AdoptRequest>(body);
    message<KeepRequest>(body);
    message<ListRequest>(body);
    message<PageList>(body);
    message<SpaceList>(body);
    message<StatRequest>(body);
    message<StoreStat>(body);
    message<Statuses>(body);
}

void handoff_messages(ByteView body) {
    message<OpenRequest>(body);
    message<Opened>(body);
    message<ReleaseRequest>(body);
    message<Released>(body);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    ByteView in(data, size);
    frame_bodies(in);
    store_messages(in);
    handoff_messages(in);
    if (size < kHeaderBytes) return 0;
    Header h;
    if (decode(in.first<kHeaderBytes>(), h)) {
        demand(h.body <= kMaxBody && h.payload <= kMaxPayload);
        std::array<uint8_t, kHeaderBytes> out;
        encode(h, out);
        demand(std::equal(out.begin(), out.end(), data));
    }
    frame_bodies(in.subspan(kHeaderBytes));
    return 0;
}
