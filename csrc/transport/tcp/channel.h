// A TCP link towards one peer: one connection for bulk and one for interactive work, opened on first use. The
// initiator's side; the owner's side of the same frames is engine/owner_session.
#pragma once

#include <memory>
#include <unordered_map>

#include "transport/socket.h"
#include "transport/stream.h"

namespace tent::transport::tcp {

struct Route {
    Address to;
    Source from;
    SocketOptions options;
    StreamLimits limits;
    // A unix socket of the same host instead of `to` (its name), for pulls by the owner.
    std::string unix_name;
};

class TcpChannel final : public LinkChannel, public StreamHandler {
  public:
    // `handshake` makes the configuration of one connection (fresh nonce each).
    using HandshakeFactory = proto::HandshakeConfig (*)(void* context, proto::Purpose purpose, uint32_t rail);
    TcpChannel(Poller& poller, Route route, uint32_t rail, HandshakeFactory factory, void* context,
               Session& session, Sink& sink);
    ~TcpChannel() override;

    Status dial() override;
    bool up() const override { return up_; }
    Nanos dialled_at() const override { return dialled_at_; }
    std::string describe() const;

    static const Capabilities& stated();  // what every channel of this transport can do
    const Capabilities& capabilities() const override;
    Status post(const Attempt& attempt) override;
    void revoke(AttemptId attempt) override;
    void fenced(AttemptId attempt) override;
    void close(const Status& why) override;
    void report_progress() override;
    bool send_frame(const proto::Header& header, ByteView body) override;
    bool quiet() const override { return pending_.empty(); }
    bool touches(const uint8_t* address, uint64_t length) const override;
    void flush() override;

  private:
    struct Pending {
        Op op{};
        uint64_t bytes = 0;
        uint64_t received = 0;            // read: of frames that have begun
        uint64_t begins_at = UINT64_MAX;  // write: in what its stream sends; not begun yet
        std::vector<LocalPiece> local;
        std::vector<proto::Piece> remote;  // kept for nothing but errors' names; empty for large attempts
        FrameStream* stream = nullptr;
        bool given_up = false;
        bool by_link = false;  // ends with End::link instead of End::revoked
    };
    void on_open(FrameStream& stream) override;
    void on_frame(FrameStream& stream, const proto::Header& header, ByteView body) override;
    void on_payload(FrameStream& stream, const proto::Header& header, ByteView body,
                    std::vector<LocalPiece>& landing) override;
    bool may_land(FrameStream& stream) override;
    void on_payload_end(FrameStream& stream, bool landed) override;
    void on_sending(FrameStream& stream, AttemptId attempt, uint64_t position) override;
    void on_closed(FrameStream& stream, const Status& why) override;

    std::unique_ptr<FrameStream> connect(proto::Purpose purpose, Status& status);
    void end(AttemptId attempt, End end, Status status, uint32_t piece = kNoId);
    void give_up_all(const Status& why);

    Poller& poller_;
    Route route_;
    uint32_t rail_;
    HandshakeFactory factory_;
    void* context_;
    Session& session_;
    Sink& sink_;
    std::unique_ptr<FrameStream> bulk_, interactive_;
    std::vector<std::unique_ptr<FrameStream>> dead_;
    std::unordered_map<AttemptId, Pending> pending_;
    AttemptId landing_[2] = {0, 0};  // the attempt whose payload arrives: bulk, interactive
    bool up_ = false, closed_ = false;
    Nanos dialled_at_ = 0;
    Bytes body_;
};

}  // namespace tent::transport::tcp
