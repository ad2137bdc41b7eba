#include "transport/rdma/initiator.h"

#include "transport/rdma/channel.h"

namespace tent::transport::rdma {

using proto::FrameType;
using proto::Header;

uint64_t Initiator::open(RdmaChannel* channel, const proto::OpenQueuePair& ours) {
    uint64_t number = next_lane_++;
    Lane& lane = lanes_[number];
    lane.channel = channel;
    proto::encode(ours, lane.question);
    send(number, lane);
    return number;
}

void Initiator::send(uint64_t number, const Lane& lane) {
    Header h;
    h.type = FrameType::qp_open;
    h.attempt = number;
    session_.send_control(h, lane.question, {});
}

void Initiator::send(uint64_t request, const Question& q) {
    Header h;
    h.type = FrameType::ask_keys;
    h.attempt = request;
    h.flags = static_cast<uint8_t>(q.op);
    h.aux = q.lane;
    session_.send_control(h, q.body, {});
}

void Initiator::ask_again() {
    for (const auto& [number, lane] : lanes_) {
        if (!lane.question.empty()) send(number, lane);
    }
    for (const auto& [request, q] : questions_) send(request, q);
}

void Initiator::session_over() {
    keys_.clear();
    questions_.clear();
    lanes_.clear();
}

const proto::MemoryKey* Initiator::key(uint32_t domain, SegmentId segment, uint64_t offset, Op op) const {
    auto it = keys_.upper_bound({domain, segment, static_cast<uint8_t>(op), offset});
    if (it == keys_.begin()) return nullptr;
    const auto& [at, key] = *--it;
    auto& [d, s, o, begin] = at;
    bool fits = d == domain && s == segment && o == static_cast<uint8_t>(op) && offset - begin < key.length;
    return fits ? &key : nullptr;
}

void Initiator::ask(RdmaChannel* channel, AttemptId attempt, uint64_t lane, uint32_t domain, Op op,
                    std::span<const proto::Piece> pieces) {
    uint64_t request = next_request_++;
    Question& q = questions_[request];
    q = {channel, attempt, lane, domain, op, {}};
    proto::encode_pieces(pieces, q.body);
    send(request, q);
}

void Initiator::distrust(uint32_t domain, SegmentId segment) {
    std::erase_if(keys_, [&](const auto& k) {
        return std::get<0>(k.first) == domain && std::get<1>(k.first) == segment;
    });
}

void Initiator::segment_gone(SegmentId segment) {
    std::erase_if(keys_, [&](const auto& k) { return std::get<1>(k.first) == segment; });
}

void Initiator::forget(const RdmaChannel* channel) {
    std::erase_if(lanes_, [&](const auto& l) { return l.second.channel == channel; });
    std::erase_if(questions_, [&](const auto& q) { return q.second.channel == channel; });
}

bool Initiator::on_opened(const Header& h, ByteView body) {
    auto it = lanes_.find(h.attempt);
    if (it == lanes_.end() || it->second.question.empty()) return true;  // given up meanwhile
    RdmaChannel* channel = it->second.channel;
    Code code = code_from_wire(h.code);
    proto::OpenedQueuePair opened;
    if (code == Code::ok && !proto::decode(body, opened)) return false;
    it->second.question.clear();
    std::string text;
    if (code != Code::ok)
        text.assign(reinterpret_cast<const char*>(body.data()), std::min(body.size(), proto::kMaxMessage));
    channel->opened(h.attempt, {code, text}, opened);
    return true;
}

bool Initiator::on_keys(const Header& h, ByteView body) {
    auto it = questions_.find(h.attempt);
    if (it == questions_.end()) return true;
    Code code = code_from_wire(h.code);
    std::vector<proto::MemoryKey> keys;
    if (code == Code::ok && !proto::decode(body, keys)) return false;
    Question q = std::move(it->second);
    questions_.erase(it);
    for (const proto::MemoryKey& k : keys) {
        if (allows(k.rights, q.op))
            keys_.insert_or_assign({q.domain, k.segment, static_cast<uint8_t>(q.op), k.offset}, k);
    }
    std::string text;
    if (code != Code::ok)
        text.assign(reinterpret_cast<const char*>(body.data()), std::min(body.size(), proto::kMaxMessage));
    q.channel->keys_came(q.attempt, {code, text}, static_cast<uint32_t>(std::min<uint64_t>(h.aux, kNoId)));
    return true;
}

}  // namespace tent::transport::rdma
