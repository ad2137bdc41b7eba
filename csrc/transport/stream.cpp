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

constexpr size_t kMaxIov = 64;
constexpr size_t kMaxDescriptors = 8;  // of one frame

// Where padding comes from.
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
    queued_bodies_ += f->header_bytes + f->body.size();
    if (!has_room()) was_full_ = true;
    queue_.push_back(f);
}

bool FrameStream::abandon(AttemptId attempt) {
    for (auto it = queue_.begin(); it != queue_.end(); ++it) {
        OutFrame* f = *it;
        if (f->attempt != attempt || f->payload == 0) continue;
        if (f->sent == 0) {
            queued_payload_ -= f->payload;
            queued_bodies_ -= f->header_bytes + f->body.size();
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
        if (f.header_bytes != 0) queued_bodies_ -= f.header_bytes + f.body.size();
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

}  // namespace tent::transport
