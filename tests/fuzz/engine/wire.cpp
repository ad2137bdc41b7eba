#include "wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/un.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace tent::fuzz {
namespace {

constexpr int kPatience = 10'000;  // milliseconds: an engine that does not answer within them hangs

void damage(Bytes& bytes, size_t from, Program& program) {
    for (size_t n = 1 + program.u8() % 3; n > 0 && bytes.size() > from; --n) {
        size_t at = from + program.u16() % (bytes.size() - from);
        switch (program.u8() % 4) {
            case 0:
                bytes[at] ^= static_cast<uint8_t>(1 << (program.u8() % 8));
                break;
            case 1:
                bytes[at] = program.u8();
                break;
            case 2: {
                uint64_t v = program.number();
                std::memcpy(bytes.data() + at, &v, std::min<size_t>(8, bytes.size() - at));
                break;
            }
            default:
                bytes.resize(at);
        }
    }
}

}  // namespace

Connection::Connection(UniqueFd fd) : fd_(std::move(fd)) {
    int one = 1;
    setsockopt(fd_.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    timeval limit{kPatience / 1000, 0};
    setsockopt(fd_.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
}

Connection Connection::dial_tcp(uint16_t port) {
    UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd.get(), reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) fd.reset();
    return Connection(std::move(fd));
}

Connection Connection::dial_unix(const std::string& name) {
    UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un to{};
    to.sun_family = AF_UNIX;
    std::memcpy(to.sun_path + 1, name.data(), name.size());
    auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
    if (connect(fd.get(), reinterpret_cast<sockaddr*>(&to), size) != 0) fd.reset();
    return Connection(std::move(fd));
}

bool Connection::send_raw(ByteView bytes, Program& program, std::span<const int> descriptors) {
    uint8_t how = program.u8();
    size_t step = how < 176 ? bytes.size() : 1 + how % 41;
    for (size_t sent = 0, pieces = 0; sent < bytes.size() && fd_ && !gone_; ++pieces) {
        size_t n = pieces < 64 ? std::min(step, bytes.size() - sent) : bytes.size() - sent;
        iovec part{const_cast<uint8_t*>(bytes.data()) + sent, n};
        msghdr m{};
        m.msg_iov = &part;
        m.msg_iovlen = 1;
        alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * 8)] = {};
        if (!descriptors.empty()) {
            size_t size = std::min<size_t>(descriptors.size(), 8) * sizeof(int);
            m.msg_control = control;
            m.msg_controllen = CMSG_SPACE(size);
            cmsghdr* c = CMSG_FIRSTHDR(&m);
            c->cmsg_level = SOL_SOCKET;
            c->cmsg_type = SCM_RIGHTS;
            c->cmsg_len = CMSG_LEN(size);
            std::memcpy(CMSG_DATA(c), descriptors.data(), size);
            descriptors = {};
        }
        ssize_t got = sendmsg(fd_.get(), &m, MSG_NOSIGNAL);
        demand(got >= 0 || errno != EAGAIN, "an engine takes no bytes any more");
        if (got <= 0) gone_ = true;
        sent += static_cast<size_t>(std::max<ssize_t>(got, 0));
    }
    return fd_ && !gone_;
}

bool Connection::send(proto::Header h, ByteView body, ByteView payload, Program& program,
                      std::span<const int> descriptors) {
    h.body = static_cast<uint32_t>(body.size());
    if (h.payload == 0) h.payload = payload.size();
    std::array<uint8_t, proto::kHeaderBytes> head;
    proto::encode(h, head);
    Bytes all(head.begin(), head.end());
    all.insert(all.end(), body.begin(), body.end());
    uint8_t how = program.u8() % 8;
    if (how == 7) damage(all, 0, program);
    if (how == 6) damage(all, proto::kHeaderBytes, program);
    all.insert(all.end(), payload.begin(), payload.end());
    return send_raw(all, program, descriptors);
}

// False: nothing came in time, or nothing will come any more.
bool Connection::fill(int milliseconds) {
    if (!fd_) return false;
    pollfd p{fd_.get(), POLLIN, 0};
    if (poll(&p, 1, milliseconds) <= 0) return false;
    uint8_t buffer[65536];
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * 8)];
    iovec part{buffer, sizeof buffer};
    msghdr m{};
    m.msg_iov = &part;
    m.msg_iovlen = 1;
    m.msg_control = control;
    m.msg_controllen = sizeof control;
    ssize_t n = recvmsg(fd_.get(), &m, MSG_CMSG_CLOEXEC);
    for (cmsghdr* c = n > 0 ? CMSG_FIRSTHDR(&m) : nullptr; c != nullptr; c = CMSG_NXTHDR(&m, c)) {
        int fds[8];
        size_t count = std::min<size_t>((c->cmsg_len - CMSG_LEN(0)) / sizeof(int), 8);
        std::memcpy(fds, CMSG_DATA(c), count * sizeof(int));
        for (size_t i = 0; i < count; ++i) ::close(fds[i]);
    }
    if (n <= 0) {
        gone_ = true;
        return false;
    }
    in_.insert(in_.end(), buffer, buffer + n);
    return true;
}

bool Connection::talk(proto::Handshake& handshake, bool damaged, Program& program) {
    for (;;) {
        if (Bytes out = handshake.take_output(); !out.empty()) {
            if (damaged) damage(out, 0, program);
            if (!send_raw(out, program)) return false;
        }
        if (handshake.finished()) return true;
        size_t consumed = 0;
        Status s = handshake.feed(in_, consumed);
        in_.erase(in_.begin(), in_.begin() + static_cast<std::ptrdiff_t>(consumed));
        if (!s.ok()) return false;
        if (consumed > 0) continue;
        // What was damaged may be waited for on both sides.
        if (!fill(damaged ? 5 : kPatience)) return false;
    }
}

void Connection::shake_hands(proto::Handshake::Role role, const proto::HandshakeConfig& config,
                             Program& program) {
    if (!fd_) return;
    uint8_t how = program.u8() % 16;
    if (how == 15) {
        send_raw(program.some(255), program);
        return;
    }
    proto::HandshakeConfig c = config;
    if (how == 14) c.secret = "another one";
    for (size_t i = 0; i < c.nonce.size(); ++i) c.nonce[i] = static_cast<uint8_t>(i * 7 + 1);
    proto::Handshake handshake(role, c);
    open_ = talk(handshake, how >= 12 && how < 14, program);
}

std::optional<Frame> Connection::receive(int milliseconds, Seen& seen) {
    while (in_.size() < proto::kHeaderBytes) {
        if (!fill(milliseconds)) return std::nullopt;
    }
    Frame f;
    std::span<const uint8_t, proto::kHeaderBytes> head(in_.data(), proto::kHeaderBytes);
    demand(proto::decode(head, f.header), "an engine sent bytes that are no frame");
    size_t whole = proto::kHeaderBytes + f.header.body + f.header.payload;
    while (in_.size() < whole) {
        if (!fill(kPatience)) {
            demand(gone_, "an engine sent half a frame");
            return std::nullopt;
        }
    }
    auto body = in_.begin() + proto::kHeaderBytes, payload = body + f.header.body;
    f.body.assign(body, payload);
    f.payload = f.header.payload;
    auto end = payload + static_cast<std::ptrdiff_t>(f.payload);
    demand(std::search_n(payload, end, kForbiddenRun, kForbidden) == end,
           "an engine sent bytes of memory that it does not expose");
    in_.erase(in_.begin(), end);
    seen.note((static_cast<uint64_t>(f.header.type) << 32) | f.header.code);
    return f;
}

void Connection::finish(Seen& seen) {
    if (!fd_) return;
    shutdown(fd_.get(), SHUT_WR);
    while (!gone_) {
        if (open_ && receive(0, seen)) continue;
        if (!gone_ && !fill(kPatience))
            demand(gone_, "an engine keeps a connection that its peer has closed");
        if (!open_) in_.clear();
    }
    fd_.reset();
}

void Connection::reset() {
    if (!fd_) return;
    linger now{1, 0};
    setsockopt(fd_.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
    fd_.reset();
    gone_ = true;
    open_ = false;
}

}  // namespace tent::fuzz
