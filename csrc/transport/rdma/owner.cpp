#include "transport/rdma/owner.h"

#include <algorithm>

namespace tent::transport::rdma {

using proto::FrameType;
using proto::Header;

void Owner::refuse(FrameType type, uint64_t id, const Status& why, uint32_t piece) {
    Header h;
    h.type = type;
    h.attempt = id;
    h.code = static_cast<uint16_t>(why.code());
    h.aux = piece == kNoId ? UINT64_MAX : piece;
    host_.send(h, as_bytes(std::string_view(why.message()).substr(0, proto::kMaxMessage)));
}

void Owner::opened(uint64_t lane, const Bytes& body) {
    Header h;
    h.type = FrameType::qp_opened;
    h.attempt = lane;
    host_.send(h, body);
}

void Owner::open(uint64_t number, const proto::OpenQueuePair& theirs) {
    auto no = [&](Code code, std::string why) {
        refuse(FrameType::qp_opened, number, {code, std::move(why)});
    };
    if (auto known = lanes_.find(number); known != lanes_.end()) {  // asked again over another connection
        if (known->second.connected) opened(number, known->second.answer);
        return;
    }
    if (number < floor_ || ended_.contains(number)) return no(Code::cancelled, "that queue pair was ended");
    if (lanes_.size() >= kMostLanes) return no(Code::busy, "this session has too many queue pairs");
    const Port* port = fabric_.port_of(theirs.towards);
    if (port == nullptr) return no(Code::unsupported, "that rail has no RDMA port");
    const abi::MemoryRegion* proof = fabric_.proof(*port->device);
    if (proof == nullptr)
        return no(Code::no_memory, "no memory can be registered: is 'ulimit -l' too small?");
    auto made = QueuePair::create(*port, fabric_.options(), nullptr);
    if (!made.ok()) return no(made.status().code(), made.status().message());
    Lane& lane = lanes_[number];
    lane.qp = std::move(*made);
    proto::OpenedQueuePair ours;
    ours.end = lane.qp->end();
    ours.end.reads = std::min(ours.end.reads, theirs.end.reads);
    ours.end.mtu = std::min(ours.end.mtu, theirs.end.mtu);
    ours.domain = port->device->domain();
    ours.probe_address = reinterpret_cast<uint64_t>(proof->address);
    ours.probe_key = proof->rkey;
    proto::encode(ours, lane.answer);
    auto status = std::make_shared<Status>();
    fabric_.connector().submit([qp = lane.qp, status, peer = theirs.end] { *status = qp->connect(peer); },
                               [this, number, status, alive = lane.alive] {
                                   if (!*alive) return;
                                   Lane& l = lanes_[number];
                                   l.connected = status->ok();
                                   if (l.connected) return opened(number, l.answer);
                                   refuse(FrameType::qp_opened, number, *status);
                                   *alive = false;
                                   lanes_.erase(number);
                               });
}

void Owner::end(std::span<const uint64_t> numbers) {
    for (uint64_t number : numbers) {
        auto it = lanes_.find(number);
        if (it != lanes_.end()) {
            *it->second.alive = false;
            it->second.qp->finish();
            lanes_.erase(it);
        }
        if (number >= floor_) ended_.insert(number);
    }
    while (ended_.size() > kRemembered) {
        floor_ = std::max(floor_, *ended_.begin() + 1);
        ended_.erase(ended_.begin());
    }
}

void Owner::close() {
    for (auto& [number, lane] : lanes_) {
        *lane.alive = false;
        lane.qp->finish();
    }
    lanes_.clear();
    waiting_.clear();
}

void Owner::ask(const Header& h, std::vector<proto::Piece> pieces) {
    if (waiting_.size() >= kMostQuestions)
        return refuse(FrameType::keys, h.attempt, {Code::busy, "too many questions for keys are waiting"});
    Question q{h, std::move(pieces)};
    if (!answer(q)) waiting_.push_back(std::move(q));
}

void Owner::flush() {
    std::erase_if(waiting_, [this](const Question& q) { return answer(q); });
}

// False: memory is being registered for it.
bool Owner::answer(const Question& q) {
    Op op = q.header.flags == static_cast<uint8_t>(Op::write) ? Op::write : Op::read;
    auto lane = lanes_.find(q.header.aux);
    if (lane == lanes_.end()) {
        refuse(FrameType::keys, q.header.attempt, {Code::busy, "that queue pair has ended"});
        return true;
    }
    std::vector<Region> regions;
    uint32_t bad = kNoId;
    if (Status s = host_.regions_of(op, q.pieces, regions, bad); !s.ok()) {
        refuse(FrameType::keys, q.header.attempt, s, bad);
        return true;
    }
    Device& device = *lane->second.qp->port().device;
    std::vector<proto::MemoryKey> keys;
    std::set<std::pair<SegmentId, uint64_t>> named;
    bool waits = false;
    for (size_t i = 0; i < q.pieces.size(); ++i) {
        const Region& r = regions[i];
        const proto::Piece& p = q.pieces[i];
        uint64_t last = (p.offset + p.length - 1) / kChunk;
        for (uint64_t chunk = p.offset / kChunk; chunk <= last && keys.size() < proto::kMaxKeys; ++chunk) {
            if (!named.insert({r.segment, chunk}).second) continue;
            Status why;
            const abi::MemoryRegion* m = fabric_.memory().get(device, r, chunk, why);
            if (!why.ok()) {
                refuse(FrameType::keys, q.header.attempt, why, static_cast<uint32_t>(i));
                return true;
            }
            waits = waits || m == nullptr;
            if (m == nullptr) continue;
            keys.push_back({r.segment, r.remote, chunk * kChunk, r.chunk_bytes(chunk),
                            reinterpret_cast<uint64_t>(m->address), m->rkey});
        }
    }
    if (waits) return false;
    Bytes body;
    proto::encode(keys, body);
    Header h;
    h.type = FrameType::keys;
    h.attempt = q.header.attempt;
    host_.send(h, body);
    return true;
}

}  // namespace tent::transport::rdma
