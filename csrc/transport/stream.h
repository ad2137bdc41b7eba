// A connection that carries frames: a non-blocking TCP or unix socket, the handshake, then frames both ways.
// Payload is received straight into its destination and sent straight from its source. Loop token held for
// every call.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "base/poller.h"
#include "proto/handshake.h"
#include "proto/wire.h"
#include "transport/transport.h"

namespace tent::transport {

class FrameStream;

// Received at once where it is not payload; padded and drained at once where it is.
inline constexpr size_t kStage = 64 << 10;

class StreamHandler {
  public:
    virtual ~StreamHandler() = default;
    virtual void on_open(FrameStream& stream) = 0;  // both sides are authenticated
    // A frame without payload.
    virtual void on_frame(FrameStream& stream, const proto::Header& header, ByteView body) = 0;
    // A frame with payload: fill `landing` with where its bytes go (their sum is header.payload), or leave it
    // empty to have them drained.
    virtual void on_payload(FrameStream& stream, const proto::Header& header, ByteView body,
                            std::vector<LocalPiece>& landing) = 0;
    // Asked before every receive into a destination; false: the rest of this payload is drained.
    virtual bool may_land(FrameStream& stream) = 0;
    virtual void on_payload_end(FrameStream& stream, bool landed) = 0;
    virtual void on_drained(FrameStream&) {}  // the send queue has room again
    // The payload of `attempt` begins `position` bytes into all that this stream sends (see acknowledged()).
    virtual void on_sending(FrameStream&, AttemptId, uint64_t position) { (void)position; }
    // Once, whatever ended it. The stream is dead; it is deleted by its owner after the current dispatch.
    virtual void on_closed(FrameStream& stream, const Status& why) = 0;
};

struct StreamLimits {
    uint64_t queue_bytes = 8 << 20;    // of payload, above which has_room() is false
    uint64_t receive_bytes = 4 << 20;  // at most per receive: one slice
};

class FrameStream final : public PollHandler {
  public:
    FrameStream(Poller& poller, UniqueFd fd, bool connecting, proto::Handshake::Role role,
                proto::HandshakeConfig config, StreamHandler* handler, const StreamLimits& limits);
    ~FrameStream() override;

    bool open() const { return open_; }
    bool closed() const { return closed_; }
    bool dirty() const { return !closed_ && !queue_.empty() && !blocked_; }
    const proto::HandshakeResult& peer() const { return handshake_.result(); }
    int fd() const { return fd_.get(); }
    Nanos born() const { return born_; }
    Nanos last_received() const { return last_received_; }
    void set_handler(StreamHandler* handler) { handler_ = handler; }
    std::string name;  // for logs: who and by which addresses
    void* context = nullptr;

    // Queues a frame; flush() sends. `pieces` must stay valid until the frame is sent, abandoned or the
    // stream closed.
    void send(const proto::Header& header, ByteView body = {}, std::span<const LocalPiece> pieces = {},
              const std::vector<int>& descriptors = {});
    void flush();
    // Of all bytes given to send(), those that the other side's kernel has.
    uint64_t acknowledged() const;
    bool sending() const { return !queue_.empty() || acknowledged() != sent_bytes_; }
    // Of the payload that arrives, what has not come yet.
    uint64_t payload_left() const { return payload_left_; }
    // Of frames' headers and bodies, what waits to be sent.
    uint64_t unsent_answers() const { return queued_bodies_; }
    bool has_room() const { return queued_payload_ < limits_.queue_bytes; }
    // Nothing of this attempt's payload is read from its source any more: an unsent frame is dropped (true),
    // the rest of a half sent one is padded from scratch.
    bool abandon(AttemptId attempt);
    // Does a half sent or waiting frame read from [address, address + length)?
    bool sends_from(const uint8_t* address, uint64_t length) const;
    bool lands_in(const uint8_t* address, uint64_t length) const;
    // The same for memory of another shape: `inside(piece)` says whether a piece has bytes of it.
    template <class Inside>
    bool sends_any(Inside inside) const {
        return std::any_of(queue_.begin(), queue_.end(), [&](const OutFrame* f) {
            return !f->scratch && std::any_of(f->pieces.begin(), f->pieces.end(), inside);
        });
    }
    template <class Inside>
    bool lands_in_any(Inside inside) const {
        return payload_left_ != 0 && landing_ok_ && std::any_of(landing_.begin(), landing_.end(), inside);
    }
    UniqueFd take_descriptor();
    void close(Status why);

    void on_ready(uint32_t events) override;

  private:
    struct OutFrame {
        std::array<uint8_t, proto::kHeaderBytes> header;
        size_t header_bytes = 0;  // 0 for handshake messages
        Bytes body;
        std::vector<LocalPiece> pieces;
        std::vector<UniqueFd> descriptors;  // duplicates: the sender may close its own at once
        AttemptId attempt = 0;
        uint64_t payload = 0;
        uint64_t sent = 0;  // of everything
        size_t piece = 0;   // cursor
        uint64_t within = 0;
        bool scratch = false;
        uint64_t total() const { return header_bytes + body.size() + payload; }
    };
    OutFrame* new_frame();
    void recycle(OutFrame* frame);
    void send_raw(Bytes bytes);
    size_t gather(iovec* iov, size_t max, bool& with_descriptors);
    void advance(OutFrame& frame, uint64_t bytes);
    bool sent(uint64_t bytes);

    void receive();
    bool receive_stage();
    bool receive_payload();
    bool consume_stage();
    bool feed_handshake();
    bool begin_frame();
    bool take_body();
    void land_from_stage();
    void advance_landing(uint64_t bytes);
    void end_payload();
    ssize_t read_some(iovec* iov, int count);
    void want(bool writable);

    Poller& poller_;
    UniqueFd fd_;
    Poller::Token token_ = 0;
    StreamHandler* handler_;
    StreamLimits limits_;
    proto::Handshake handshake_;
    bool connecting_, open_ = false, closed_ = false, blocked_ = false, is_unix_ = false;
    Nanos born_, last_received_;

    std::deque<OutFrame*> queue_;
    std::vector<OutFrame*> free_;
    uint64_t queued_payload_ = 0, queued_bodies_ = 0;
    uint64_t sent_bytes_ = 0;  // taken by our kernel
    bool was_full_ = false;

    std::vector<uint8_t> stage_;
    size_t stage_begin_ = 0, stage_end_ = 0;
    bool in_body_ = false;
    proto::Header header_;
    Bytes body_;
    uint64_t payload_left_ = 0;
    bool landing_ok_ = false;
    std::vector<LocalPiece> landing_;
    size_t landing_piece_ = 0;
    uint64_t landing_within_ = 0;
    std::deque<UniqueFd> descriptors_;
};

}  // namespace tent::transport
