#include "transport/tcp/channel.h"

#include <algorithm>

#include "base/switches.h"
#include "transport/pieces.h"

namespace tent::transport::tcp {
namespace {

constexpr Capabilities kCapabilities{
    .name = "tcp",
    .same_host_only = false,
    .one_sided = false,
    .read_fence = Fence::local,
    .write_fence = Fence::owner,
    .remote_kinds = (1u << static_cast<int>(proto::SegmentKind::memfd)) |
                    (1u << static_cast<int>(proto::SegmentKind::offer)) |
                    (1u << static_cast<int>(proto::SegmentKind::region)),
    .max_pieces = proto::kMaxPieces,
    .max_bytes = proto::kMaxPayload,
};

std::string message_of(ByteView body) {
    size_t n = std::min(body.size(), proto::kMaxMessage);
    return {reinterpret_cast<const char*>(body.data()), n};
}

}  // namespace

TcpChannel::TcpChannel(Poller& poller, Route route, uint32_t rail, HandshakeFactory factory, void* context,
                       Session& session, Sink& sink)
    : poller_(poller),
      route_(std::move(route)),
      rail_(rail),
      factory_(factory),
      context_(context),
      session_(session),
      sink_(sink) {}

TcpChannel::~TcpChannel() = default;

const Capabilities& TcpChannel::stated() {
    return kCapabilities;
}
const Capabilities& TcpChannel::capabilities() const {
    return kCapabilities;
}

std::string TcpChannel::describe() const {
    return route_.unix_name.empty()
               ? (route_.from.address.empty() ? "" : route_.from.address + " -> ") + route_.to.text()
               : std::string("unix socket");
}

std::unique_ptr<FrameStream> TcpChannel::connect(proto::Purpose purpose, Status& status) {
    Result<Dialled> d = route_.unix_name.empty() ? dial_tcp(route_.to, route_.from, route_.options)
                                                 : dial_unix(route_.unix_name);
    if (!d.ok()) {
        status = d.status();
        return nullptr;
    }
    auto stream = std::make_unique<FrameStream>(poller_, std::move(d->fd), d->connecting,
                                                proto::Handshake::Role::initiator,
                                                factory_(context_, purpose, rail_), this, route_.limits);
    stream->name = describe();
    stream->flush();
    return stream;
}

Status TcpChannel::dial() {
    dialled_at_ = monotonic_now();
    Status s;
    bulk_ = connect(proto::Purpose::data, s);
    if (s.ok() && bulk_->closed()) return {Code::link_failed, describe() + " was closed at once"};
    return s;
}

Status TcpChannel::post(const Attempt& a) {
    if (closed_ || !up_) return {Code::link_failed, describe() + " is not connected"};
    FrameStream* stream = bulk_.get();
    if (a.priority == Priority::interactive) {
        Status ignored;
        if (!interactive_) interactive_ = connect(proto::Purpose::interactive, ignored);
        if (interactive_ && interactive_->open()) stream = interactive_.get();
    }
    body_.clear();
    proto::encode_pieces(a.remote, body_);
    proto::Header h;
    h.attempt = a.id;
    if (a.op == Op::write) {
        h.type = proto::FrameType::write;
        h.aux = session_.lease_token();
        stream->send(h, body_, a.local);
    } else {
        h.type = proto::FrameType::read;
        h.flags = static_cast<uint8_t>(a.priority);
        stream->send(h, body_);
    }
    Pending& p = pending_[a.id];
    p.op = a.op;
    p.bytes = a.bytes;
    p.local.assign(a.local.begin(), a.local.end());
    p.stream = stream;
    return Status::good();
}

void TcpChannel::flush() {
    if (bulk_) bulk_->flush();
    if (interactive_) interactive_->flush();
    dead_.clear();
}

void TcpChannel::end(AttemptId attempt, End how, Status status, uint32_t piece) {
    auto it = pending_.find(attempt);
    if (it == pending_.end()) return;
    bool given_up = it->second.given_up;
    if (how == End::revoked && it->second.by_link) how = End::link;
    pending_.erase(it);
    if (given_up && how != End::link) how = End::revoked;  // the revoke was first
    sink_.attempt_ended(attempt, how, std::move(status), piece);
}

void TcpChannel::revoke(AttemptId attempt) {
    auto it = pending_.find(attempt);
    if (it == pending_.end() || it->second.given_up) return;
    Pending& p = it->second;
    p.given_up = true;
    if (!protection_on(Protection::fence)) {
        end(attempt, End::revoked, {Code::cancelled, "given up"});
        return;
    }
    if (p.op == Op::read) {
        session_.forget_at_owner(attempt);
        end(attempt, End::revoked, {Code::cancelled, "given up"});
        return;
    }
    if (p.stream != nullptr && p.stream->abandon(attempt)) {
        end(attempt, End::revoked, {Code::cancelled, "given up before a byte was sent"});
        return;
    }
    session_.revoke_at_owner(this, attempt);
}

void TcpChannel::fenced(AttemptId attempt) {
    end(attempt, End::revoked, {Code::link_failed, describe() + " failed"});
}

void TcpChannel::give_up_all(const Status& why) {
    std::vector<AttemptId> all;
    for (const auto& [id, p] : pending_) all.push_back(id);
    std::sort(all.begin(), all.end());
    for (AttemptId id : all) {
        Pending& p = pending_[id];
        bool asked = p.given_up;
        p.given_up = true;
        p.by_link = !asked;
        p.stream = nullptr;
        if (p.op == Op::read || !protection_on(Protection::fence)) {
            end(id, End::revoked, why);
        } else if (!asked) {
            session_.revoke_at_owner(this, id);
        }
    }
}

void TcpChannel::close(const Status& why) {
    if (closed_) return;
    closed_ = true;
    up_ = false;
    if (bulk_) bulk_->close(why);
    if (interactive_) interactive_->close(why);
    give_up_all(why);
}

bool TcpChannel::send_frame(const proto::Header& header, ByteView body) {
    if (!up_ || closed_) return false;
    bulk_->send(header, body);
    return true;
}

void TcpChannel::on_sending(FrameStream&, AttemptId attempt, uint64_t position) {
    auto it = pending_.find(attempt);
    if (it != pending_.end()) it->second.begins_at = position;
}

void TcpChannel::report_progress() {
    if (pending_.empty() || !up_) return;
    uint64_t bulk = bulk_->acknowledged(), interactive = interactive_ ? interactive_->acknowledged() : 0;
    for (const auto& [id, p] : pending_) {
        if (p.given_up || p.stream == nullptr) continue;
        uint64_t have = 0;
        if (p.op == Op::write) {
            uint64_t acknowledged = p.stream == bulk_.get() ? bulk : interactive;
            have = acknowledged > p.begins_at ? std::min(acknowledged - p.begins_at, p.bytes) : 0;
        } else {
            bool arriving = landing_[p.stream == interactive_.get()] == id;
            have = p.received - (arriving ? std::min(p.received, p.stream->payload_left()) : 0);
        }
        if (have > 0) sink_.attempt_progress(id, have);
    }
}

bool TcpChannel::touches(const uint8_t* address, uint64_t length) const {
    for (const FrameStream* s : {bulk_.get(), interactive_.get()}) {
        if (s != nullptr && !s->closed() && (s->sends_from(address, length) || s->lands_in(address, length)))
            return true;
    }
    return false;
}

// ---- what arrives

void TcpChannel::on_open(FrameStream& stream) {
    if (&stream != bulk_.get()) return;
    stream.name = tent::transport::describe(stream.fd());
    up_ = true;
    sink_.channel_up(this);
}

void TcpChannel::on_frame(FrameStream& stream, const proto::Header& h, ByteView body) {
    switch (h.type) {
        case proto::FrameType::write_ack:
        case proto::FrameType::read_fail: {
            Code code = code_from_wire(h.code);
            auto it = pending_.find(h.attempt);
            if (it == pending_.end()) return;  // given up and fenced: a late answer
            bool is_write = it->second.op == Op::write;
            if (is_write != (h.type == proto::FrameType::write_ack)) {
                stream.close({Code::protocol, stream.name + ": an answer of the wrong kind"});
                return;
            }
            if (code == Code::ok && is_write) {
                end(h.attempt, End::done, Status::good());
            } else if (code != Code::ok) {
                end(h.attempt, End::range, {code, message_of(body)}, static_cast<uint32_t>(h.aux));
            }
            return;
        }
        case proto::FrameType::revoked:
            session_.revoked(h.attempt);
            return;
        case proto::FrameType::bye:
            stream.close({Code::peer_dead, "the peer closed: " + message_of(body)});
            return;
        default:
            stream.close({Code::protocol, stream.name + ": an unexpected frame on a data connection"});
    }
}

void TcpChannel::on_payload(FrameStream& stream, const proto::Header& h, ByteView,
                            std::vector<LocalPiece>& landing) {
    landing_[&stream == interactive_.get()] = h.attempt;
    auto it = pending_.find(h.attempt);
    if (it == pending_.end() || it->second.given_up || h.type != proto::FrameType::data) return;
    Pending& p = it->second;
    if (p.op != Op::read || h.aux != p.received || !within(h.aux, h.payload, p.bytes)) {
        stream.close({Code::protocol, stream.name + ": data that was not asked for"});
        return;
    }
    slice_of(p.local, h.aux, h.payload, landing);
    p.received += h.payload;
}

bool TcpChannel::may_land(FrameStream& stream) {
    if (!protection_on(Protection::fence)) return true;
    auto it = pending_.find(landing_[&stream == interactive_.get()]);
    return it != pending_.end() && !it->second.given_up;
}

void TcpChannel::on_payload_end(FrameStream& stream, bool landed) {
    AttemptId attempt = landing_[&stream == interactive_.get()];
    auto it = pending_.find(attempt);
    if (it != pending_.end() && landed && it->second.received == it->second.bytes) {
        end(attempt, End::done, Status::good());
    }
}

void TcpChannel::on_closed(FrameStream& stream, const Status& why) {
    if (&stream == interactive_.get()) {
        dead_.push_back(std::move(interactive_));
        if (closed_) return;
    }
    // Either connection's end is the link's end: what is posted moves elsewhere, and a fresh pair is dialled
    // later.
    if (closed_) return;
    closed_ = true;
    up_ = false;
    if (bulk_ && !bulk_->closed()) bulk_->close(why);
    if (interactive_ && !interactive_->closed()) interactive_->close(why);
    give_up_all(why);
    sink_.channel_down(this, why);
}

}  // namespace tent::transport::tcp
