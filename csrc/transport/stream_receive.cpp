// The receiving half of a stream: handshake, frames, and payload that lands where the handler says.
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cstring>

#include "transport/stream.h"

namespace tent::transport {
namespace {

constexpr size_t kMaxIov = 64;
// Of one dispatch, so that one stream does not starve the others.
constexpr uint64_t kReceiveBudget = 16 << 20;

// Where drained bytes go.
uint8_t* scratch() {
    alignas(64) static thread_local uint8_t bytes[kStage];
    return bytes;
}

}  // namespace

void FrameStream::on_ready(uint32_t events) {
    if (closed_) return;
    if (connecting_) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(fd_.get(), SOL_SOCKET, SO_ERROR, &error, &size);
        if (error != 0) {
            close({Code::peer_unreachable, name + ": cannot connect: " + strerror(error)});
            return;
        }
        connecting_ = false;
        if (Bytes hello = handshake_.take_output(); !hello.empty()) send_raw(std::move(hello));
        want(false);
        flush();
        return;
    }
    if ((events & EPOLLOUT) != 0) {
        flush();
        if (!closed_ && was_full_ && has_room()) {
            was_full_ = false;
            handler_->on_drained(*this);
        }
    }
    if (!closed_ && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) receive();
}

ssize_t FrameStream::read_some(iovec* iov, int count) {
    msghdr m{};
    m.msg_iov = iov;
    m.msg_iovlen = static_cast<size_t>(count);
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * 8)];
    if (is_unix_) {
        m.msg_control = control;
        m.msg_controllen = sizeof control;
    }
    ssize_t n;
    do {
        n = ::recvmsg(fd_.get(), &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    } while (n < 0 && errno == EINTR);
    if (n < 0) {
        if (errno != EAGAIN && errno != EWOULDBLOCK) {
            close({Code::link_failed, name + ": receive failed: " + strerror(errno)});
        }
        return -1;
    }
    if (n == 0) {
        close({Code::link_failed, name + ": closed by the peer"});
        return -1;
    }
    if (is_unix_) {
        for (cmsghdr* c = CMSG_FIRSTHDR(&m); c != nullptr; c = CMSG_NXTHDR(&m, c)) {
            if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
            size_t fds = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            for (size_t i = 0; i < fds; ++i) {
                int fd;
                std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
                descriptors_.emplace_back(fd);
            }
            if (descriptors_.size() > 64) {  // nobody asked for that many
                close({Code::protocol, name + ": too many descriptors"});
                return -1;
            }
        }
    }
    return n;
}

void FrameStream::receive() {
    uint64_t budget = kReceiveBudget;
    last_received_ = monotonic_now();
    while (!closed_ && budget > 0) {
        uint64_t before = payload_left_;
        bool more = payload_left_ > 0 ? receive_payload() : receive_stage();
        while (!closed_ && consume_stage()) {
        }
        if (!more) return;
        uint64_t got = before > payload_left_ ? before - payload_left_ : kStage;
        budget -= std::min(budget, got);
    }
}

// Fills the stage. False: the socket is empty (a short read says so, too).
bool FrameStream::receive_stage() {
    if (stage_begin_ == stage_end_) {
        stage_begin_ = stage_end_ = 0;
    } else if (stage_end_ == stage_.size()) {
        std::memmove(stage_.data(), stage_.data() + stage_begin_, stage_end_ - stage_begin_);
        stage_end_ -= stage_begin_;
        stage_begin_ = 0;
    }
    iovec iov{stage_.data() + stage_end_, stage_.size() - stage_end_};
    ssize_t n = read_some(&iov, 1);
    if (n <= 0) return false;
    stage_end_ += static_cast<size_t>(n);
    return static_cast<size_t>(n) == iov.iov_len;
}

// Receives into the destination, and what follows the payload into the (empty) stage.
bool FrameStream::receive_payload() {
    stage_begin_ = stage_end_ = 0;
    if (landing_ok_ && !handler_->may_land(*this)) landing_ok_ = false;
    if (closed_) return false;
    iovec iov[kMaxIov + 1];
    int count = 0;
    uint64_t asked = 0;
    if (landing_ok_) {
        uint64_t within = landing_within_;
        for (size_t p = landing_piece_;
             p < landing_.size() && count < static_cast<int>(kMaxIov) && asked < limits_.receive_bytes;
             ++p, within = 0) {
            uint64_t n = std::min(landing_[p].length - within, limits_.receive_bytes - asked);
            iov[count++] = {landing_[p].address + within, n};
            asked += n;
        }
    } else {
        asked = std::min<uint64_t>(payload_left_, kStage);
        iov[count++] = {scratch(), asked};
    }
    if (asked == payload_left_) iov[count++] = {stage_.data(), stage_.size()};
    ssize_t n = read_some(iov, count);
    if (n <= 0) return false;
    uint64_t landed = std::min<uint64_t>(static_cast<uint64_t>(n), asked);
    advance_landing(landed);
    stage_end_ = static_cast<size_t>(n) - landed;
    if (payload_left_ == 0) end_payload();
    return static_cast<uint64_t>(n) >= asked;
}

void FrameStream::advance_landing(uint64_t bytes) {
    payload_left_ -= bytes;
    if (!landing_ok_) return;
    while (bytes > 0) {
        uint64_t left = landing_[landing_piece_].length - landing_within_;
        if (bytes < left) {
            landing_within_ += bytes;
            return;
        }
        bytes -= left;
        landing_within_ = 0;
        ++landing_piece_;
    }
}

void FrameStream::end_payload() {
    bool landed = landing_ok_;
    landing_ok_ = false;
    landing_.clear();
    handler_->on_payload_end(*this, landed);
}

// Takes one step over what is in the stage. False when it needs more bytes.
bool FrameStream::consume_stage() {
    if (!open_) return feed_handshake();
    if (payload_left_ > 0) {
        if (stage_begin_ == stage_end_) return false;
        land_from_stage();
        return true;
    }
    if (in_body_) return take_body();
    return begin_frame();
}

bool FrameStream::feed_handshake() {
    if (stage_begin_ == stage_end_) return false;
    size_t consumed = 0;
    Status s = handshake_.feed(ByteView(stage_.data() + stage_begin_, stage_end_ - stage_begin_), consumed);
    stage_begin_ += consumed;
    if (Bytes out = handshake_.take_output(); !out.empty()) send_raw(std::move(out));
    flush();
    if (closed_) return false;
    if (!s.ok()) {
        close(s);
        return false;
    }
    if (!handshake_.finished()) return consumed > 0;
    open_ = true;
    handler_->on_open(*this);
    return !closed_;
}

bool FrameStream::begin_frame() {
    if (stage_end_ - stage_begin_ < proto::kHeaderBytes) return false;
    std::span<const uint8_t, proto::kHeaderBytes> raw(stage_.data() + stage_begin_, proto::kHeaderBytes);
    if (!proto::decode(raw, header_)) {
        close({Code::protocol, name + ": bytes that are no frame of TENT's"});
        return false;
    }
    stage_begin_ += proto::kHeaderBytes;
    body_.clear();
    in_body_ = true;
    return true;
}

bool FrameStream::take_body() {
    size_t n = std::min<size_t>(header_.body - body_.size(), stage_end_ - stage_begin_);
    const uint8_t* from = stage_.data() + stage_begin_;
    body_.insert(body_.end(), from, from + n);
    stage_begin_ += n;
    if (body_.size() < header_.body) return false;
    in_body_ = false;
    if (header_.payload == 0) {
        handler_->on_frame(*this, header_, body_);
        return !closed_;
    }
    payload_left_ = header_.payload;
    landing_.clear();
    landing_piece_ = 0;
    landing_within_ = 0;
    handler_->on_payload(*this, header_, body_, landing_);
    landing_ok_ = !landing_.empty();
    return !closed_;
}

void FrameStream::land_from_stage() {
    if (landing_ok_ && !handler_->may_land(*this)) landing_ok_ = false;
    if (closed_) return;
    uint64_t n = std::min<uint64_t>(payload_left_, stage_end_ - stage_begin_);
    if (landing_ok_) {
        const uint8_t* from = stage_.data() + stage_begin_;
        size_t piece = landing_piece_;
        uint64_t within = landing_within_;
        for (uint64_t left = n; left > 0;) {
            uint64_t take = std::min(left, landing_[piece].length - within);
            std::memcpy(landing_[piece].address + within, from, take);
            from += take;
            left -= take;
            within += take;
            if (within == landing_[piece].length) {
                ++piece;
                within = 0;
            }
        }
    }
    advance_landing(n);
    stage_begin_ += n;
    if (payload_left_ == 0) end_payload();
}

}  // namespace tent::transport
