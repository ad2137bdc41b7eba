#include "transport/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cstring>

namespace tent::transport {
namespace {

constexpr size_t kStage = 64 << 10;
constexpr size_t kMaxIov = 64;
constexpr size_t kMaxDescriptors = 8;  // of one frame
constexpr uint64_t kReceiveBudget = 16
                                    << 20;  // of one dispatch, so that one stream does not starve the others

// Where drained bytes go and padding comes from. Written by many, read by none that cares.
uint8_t* scratch() {
    alignas(64) static thread_local uint8_t bytes[kStage];
    return bytes;
}
const uint8_t* zeros() {
    alignas(64) static const uint8_t bytes[kStage] = {};
    return bytes;
}

bool overlaps(const LocalPiece& p, const uint8_t* address, uint64_t length) {
    return p.address < address + length && address < p.address + p.length;
}

}  // namespace

FrameStream::FrameStream(Poller& poller, UniqueFd fd, bool connecting, proto::Handshake::Role role,
                         proto::HandshakeConfig config, StreamHandler* handler, const StreamLimits& limits)
    : poller_(poller),
      fd_(std::move(fd)),
      handler_(handler),
      limits_(limits),
      handshake_(role, std::move(config)),
      connecting_(connecting),
      born_(monotonic_now()),
      last_received_(born_),
      stage_(kStage) {
    int domain = 0;
    socklen_t size = sizeof domain;
    getsockopt(fd_.get(), SOL_SOCKET, SO_DOMAIN, &domain, &size);
    is_unix_ = domain == AF_UNIX;
    blocked_ = connecting;
    token_ = poller_.add(fd_.get(), connecting ? EPOLLOUT : EPOLLIN, this);
    if (!connecting_) {
        if (Bytes hello = handshake_.take_output(); !hello.empty()) send_raw(std::move(hello));
    }
}

FrameStream::~FrameStream() {
    poller_.remove(token_, fd_.get());
    for (OutFrame* f : queue_) delete f;
    for (OutFrame* f : free_) delete f;
}

FrameStream::OutFrame* FrameStream::new_frame() {
    if (free_.empty()) return new OutFrame;
    OutFrame* f = free_.back();
    free_.pop_back();
    return f;
}

void FrameStream::recycle(OutFrame* frame) {
    if (free_.size() >= 64) {
        delete frame;
        return;
    }
    frame->body.clear();
    frame->pieces.clear();
    frame->descriptors.clear();
    frame->payload = frame->sent = frame->within = 0;
    frame->piece = 0;
    frame->attempt = 0;
    frame->scratch = false;
    free_.push_back(frame);
}

void FrameStream::send_raw(Bytes bytes) {
    OutFrame* f = new_frame();
    f->header_bytes = 0;
    f->body = std::move(bytes);
    queue_.push_back(f);
}

void FrameStream::send(const proto::Header& header, ByteView body, std::span<const LocalPiece> pieces,
                       const std::vector<int>& descriptors) {
    if (closed_) return;
    OutFrame* f = new_frame();
    proto::Header h = header;
    h.body = static_cast<uint32_t>(body.size());
    for (const LocalPiece& p : pieces) f->payload += p.length;
    h.payload = f->payload;
    proto::encode(h, f->header);
    f->header_bytes = proto::kHeaderBytes;
    f->body.assign(body.begin(), body.end());
    f->pieces.assign(pieces.begin(), pieces.end());
    for (int fd : descriptors) f->descriptors.emplace_back(fcntl(fd, F_DUPFD_CLOEXEC, 0));
    f->attempt = header.attempt;
    queued_payload_ += f->payload;
    if (!has_room()) was_full_ = true;
    queue_.push_back(f);
}

bool FrameStream::abandon(AttemptId attempt) {
    for (auto it = queue_.begin(); it != queue_.end(); ++it) {
        OutFrame* f = *it;
        if (f->attempt != attempt || f->payload == 0) continue;
        if (f->sent == 0) {
            queued_payload_ -= f->payload;
            queue_.erase(it);
            recycle(f);
            return true;
        }
        f->scratch = true;
        return false;
    }
    return false;
}

bool FrameStream::sends_from(const uint8_t* address, uint64_t length) const {
    for (const OutFrame* f : queue_) {
        if (f->scratch) continue;
        for (const LocalPiece& p : f->pieces) {
            if (overlaps(p, address, length)) return true;
        }
    }
    return false;
}

bool FrameStream::lands_in(const uint8_t* address, uint64_t length) const {
    if (payload_left_ == 0 || !landing_ok_) return false;
    return std::any_of(landing_.begin(), landing_.end(),
                       [&](const LocalPiece& p) { return overlaps(p, address, length); });
}

uint64_t FrameStream::acknowledged() const {
    int waiting = 0;
    if (closed_ || ioctl(fd_.get(), SIOCOUTQ, &waiting) != 0) return 0;
    return sent_bytes_ - std::min(sent_bytes_, static_cast<uint64_t>(std::max(waiting, 0)));
}

UniqueFd FrameStream::take_descriptor() {
    if (descriptors_.empty()) return {};
    UniqueFd fd = std::move(descriptors_.front());
    descriptors_.pop_front();
    return fd;
}

void FrameStream::close(Status why) {
    if (closed_) return;
    closed_ = true;
    poller_.remove(token_, fd_.get());
    token_ = 0;
    ::shutdown(fd_.get(), SHUT_RDWR);
    fd_.reset();
    for (OutFrame* f : queue_) recycle(f);
    queue_.clear();
    handler_->on_closed(*this, why);
}

// ---- sending

// Collects what is to be sent next. A frame with descriptors starts a message of its own.
size_t FrameStream::gather(iovec* iov, size_t max, bool& with_descriptors) {
    size_t n = 0;
    with_descriptors = false;
    for (size_t i = 0; i < queue_.size() && n < max; ++i) {
        OutFrame& f = *queue_[i];
        if (!f.descriptors.empty() && f.sent == 0) {
            if (i != 0) break;
            with_descriptors = true;
        }
        uint64_t at = f.sent;
        if (at < f.header_bytes) {
            iov[n++] = {f.header.data() + at, f.header_bytes - at};
            at = f.header_bytes;
        }
        uint64_t head = f.header_bytes + f.body.size();
        if (at < head && n < max) {
            iov[n++] = {f.body.data() + (at - f.header_bytes), head - at};
            at = head;
        }
        if (f.scratch) {
            for (uint64_t left = f.total() - at; left > 0 && n < max;) {
                size_t take = std::min<uint64_t>(left, kStage);
                iov[n++] = {const_cast<uint8_t*>(zeros()), take};
                left -= take;
            }
        } else {
            uint64_t within = f.within;
            for (size_t p = f.piece; p < f.pieces.size() && n < max; ++p, within = 0) {
                iov[n++] = {f.pieces[p].address + within, f.pieces[p].length - within};
            }
        }
        if (with_descriptors) break;
    }
    return n;
}

void FrameStream::advance(OutFrame& f, uint64_t bytes) {
    uint64_t head = f.header_bytes + f.body.size();
    uint64_t before = f.sent;
    f.sent += bytes;
    if (f.sent <= head || f.scratch) return;
    uint64_t payload = f.sent - std::max(before, head);
    while (payload > 0) {
        uint64_t left = f.pieces[f.piece].length - f.within;
        if (payload < left) {
            f.within += payload;
            return;
        }
        payload -= left;
        f.within = 0;
        ++f.piece;
    }
}

// Accounts for bytes the kernel took. True when the queue is empty.
bool FrameStream::sent(uint64_t bytes) {
    while (!queue_.empty()) {
        OutFrame& f = *queue_.front();
        uint64_t take = std::min(bytes, f.total() - f.sent);
        if (f.sent == 0 && take > 0 && f.payload > 0) {
            handler_->on_sending(*this, f.attempt, sent_bytes_ + f.header_bytes + f.body.size());
        }
        sent_bytes_ += take;
        advance(f, take);
        bytes -= take;
        if (f.sent < f.total()) return false;
        queued_payload_ -= f.payload;
        recycle(&f);
        queue_.pop_front();
        if (bytes == 0 && !queue_.empty()) return false;
    }
    return true;
}

void FrameStream::flush() {
    if (closed_ || connecting_) return;
    iovec iov[kMaxIov];
    while (!queue_.empty()) {
        bool with_descriptors = false;
        msghdr m{};
        m.msg_iov = iov;
        m.msg_iovlen = gather(iov, kMaxIov, with_descriptors);
        alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxDescriptors)];
        if (with_descriptors) {
            std::array<int, kMaxDescriptors> fds;
            size_t count = std::min(queue_.front()->descriptors.size(), kMaxDescriptors);
            for (size_t i = 0; i < count; ++i) fds[i] = queue_.front()->descriptors[i].get();
            m.msg_control = control;
            m.msg_controllen = CMSG_SPACE(sizeof(int) * count);
            cmsghdr* c = CMSG_FIRSTHDR(&m);
            c->cmsg_level = SOL_SOCKET;
            c->cmsg_type = SCM_RIGHTS;
            c->cmsg_len = CMSG_LEN(sizeof(int) * count);
            std::memcpy(CMSG_DATA(c), fds.data(), sizeof(int) * count);
        }
        ssize_t n = ::sendmsg(fd_.get(), &m, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0) {
            if (errno == EINTR) continue;
            if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS) {
                want(true);
                return;
            }
            close({Code::link_failed, name + ": send failed: " + strerror(errno)});
            return;
        }
        if (with_descriptors) queue_.front()->descriptors.clear();
        sent(static_cast<uint64_t>(n));
    }
    want(false);
    if (was_full_ && has_room()) {
        was_full_ = false;
        handler_->on_drained(*this);
    }
}

void FrameStream::want(bool writable) {
    if (blocked_ == writable || closed_) return;
    blocked_ = writable;
    poller_.modify(token_, fd_.get(), writable ? (EPOLLIN | EPOLLOUT) : EPOLLIN);
}

// ---- receiving

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
