#include "transport/socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <cstring>

namespace tent::transport {
namespace {

bool parse(const Address& a, sockaddr_storage& out, socklen_t& size) {
    addrinfo hints{};
    hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    if (getaddrinfo(a.host.c_str(), std::to_string(a.port).c_str(), &hints, &found) != 0) return false;
    std::memcpy(&out, found->ai_addr, found->ai_addrlen);
    size = found->ai_addrlen;
    freeaddrinfo(found);
    return true;
}

std::string text_of(const sockaddr_storage& a, socklen_t size) {
    if (a.ss_family == AF_UNIX) return "unix";
    char host[NI_MAXHOST], port[NI_MAXSERV];
    if (getnameinfo(reinterpret_cast<const sockaddr*>(&a), size, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
        return "?";
    }
    return std::string(host) + ":" + port;
}

Status no_socket() {
    std::string why = std::string("cannot make a socket: ") + strerror(errno);
    if (errno == EMFILE) why += ": raise `ulimit -n`, or lower tcp.max_connections";
    return {Code::no_memory, why};
}

socklen_t abstract_address(const std::string& name, sockaddr_un& a) {
    a = {};
    a.sun_family = AF_UNIX;
    size_t n = std::min(name.size(), sizeof a.sun_path - 1);
    std::memcpy(a.sun_path + 1, name.data(), n);
    return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + n);
}

std::string namespace_of(const char* kind) {
    char link[64];
    std::string path = std::string("/proc/self/ns/") + kind;
    ssize_t n = readlink(path.c_str(), link, sizeof link - 1);
    return n > 0 ? std::string(link, static_cast<size_t>(n)) : "?";
}

void apply(int fd, const SocketOptions& o) {
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (!o.congestion.empty()) {
        setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, o.congestion.c_str(),
                   static_cast<socklen_t>(o.congestion.size()));
    }
    if (o.sndbuf > 0) setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &o.sndbuf, sizeof o.sndbuf);
    if (o.rcvbuf > 0) setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &o.rcvbuf, sizeof o.rcvbuf);
    if (o.notsent_lowat > 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &o.notsent_lowat, sizeof o.notsent_lowat);
    }
}

}  // namespace

std::string Address::text() const {
    bool v6 = host.find(':') != std::string::npos;
    return (v6 ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

Result<UniqueFd> listen_tcp(const Address& address, const SocketOptions& options, uint16_t& port) {
    sockaddr_storage a{};
    socklen_t size = 0;
    if (!parse(address, a, size)) {
        return {Code::invalid_argument, "node.bind: '" + address.host + "' is no IPv4 or IPv6 address"};
    }
    UniqueFd fd(socket(a.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!fd) return no_socket();
    int one = 1;
    setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    apply(fd.get(), options);
    if (bind(fd.get(), reinterpret_cast<sockaddr*>(&a), size) != 0 || listen(fd.get(), 256) != 0) {
        if (errno == EADDRINUSE) {
            return {Code::port_in_use, "port " + std::to_string(address.port) + " of " + address.host +
                                           " is in use: choose another node.port, or 0 for any free one"};
        }
        return {Code::invalid_argument,
                "cannot listen on " + address.text() + ": " + strerror(errno) + ": check node.bind"};
    }
    size = sizeof a;
    getsockname(fd.get(), reinterpret_cast<sockaddr*>(&a), &size);
    port = ntohs(a.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&a)->sin6_port
                                         : reinterpret_cast<sockaddr_in*>(&a)->sin_port);
    return fd;
}

Result<Dialled> dial_tcp(const Address& to, const Source& from, const SocketOptions& options) {
    sockaddr_storage a{};
    socklen_t size = 0;
    if (!parse(to, a, size)) return {Code::invalid_argument, "'" + to.host + "' is no address"};
    UniqueFd fd(socket(a.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!fd) return no_socket();
    apply(fd.get(), options);
    // Permitted to everybody since Linux 5.7; before that the route decides.
    if (!from.device.empty()) {
        setsockopt(fd.get(), SOL_SOCKET, SO_BINDTODEVICE, from.device.c_str(),
                   static_cast<socklen_t>(from.device.size()));
    }
    if (!from.address.empty()) {
        sockaddr_storage local{};
        socklen_t local_size = 0;
        if (parse({from.address, 0}, local, local_size) && local.ss_family == a.ss_family) {
            int one = 1;
            setsockopt(fd.get(), IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
            if (bind(fd.get(), reinterpret_cast<sockaddr*>(&local), local_size) != 0) {
                return {Code::link_failed, "cannot leave by " + from.address + ": " + strerror(errno)};
            }
        }
    }
    int r = connect(fd.get(), reinterpret_cast<sockaddr*>(&a), size);
    if (r != 0 && errno != EINPROGRESS) {
        return {Code::peer_unreachable, "cannot connect to " + to.text() + ": " + strerror(errno)};
    }
    return Dialled{std::move(fd), r != 0};
}

Result<UniqueFd> listen_unix(const std::string& name) {
    sockaddr_un a;
    socklen_t size = abstract_address(name, a);
    UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!fd || bind(fd.get(), reinterpret_cast<sockaddr*>(&a), size) != 0 || listen(fd.get(), 256) != 0) {
        return {Code::port_in_use, std::string("cannot listen on the unix socket: ") + strerror(errno)};
    }
    return fd;
}

Result<Dialled> dial_unix(const std::string& name) {
    sockaddr_un a;
    socklen_t size = abstract_address(name, a);
    UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!fd) return no_socket();
    if (connect(fd.get(), reinterpret_cast<sockaddr*>(&a), size) != 0) {
        return {Code::peer_unreachable, std::string("no unix socket of the peer here: ") + strerror(errno)};
    }
    return Dialled{std::move(fd), false};
}

UniqueFd accept_one(int fd) {
    int got = accept4(fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    return got < 0 ? UniqueFd() : UniqueFd(got);
}

std::string local_host(int fd) {
    sockaddr_storage local{};
    socklen_t n = sizeof local;
    char host[NI_MAXHOST];
    if (getsockname(fd, reinterpret_cast<sockaddr*>(&local), &n) != 0 || local.ss_family == AF_UNIX ||
        getnameinfo(reinterpret_cast<sockaddr*>(&local), n, host, sizeof host, nullptr, 0, NI_NUMERICHOST) !=
            0)
        return "";
    return host;
}

std::string describe(int fd) {
    sockaddr_storage local{}, remote{};
    socklen_t n = sizeof local, m = sizeof remote;
    getsockname(fd, reinterpret_cast<sockaddr*>(&local), &n);
    getpeername(fd, reinterpret_cast<sockaddr*>(&remote), &m);
    if (local.ss_family == AF_UNIX) return "unix socket";
    return text_of(local, n) + " -> " + text_of(remote, m);
}

std::string host_identity(const std::string& configured) {
    std::string id = configured;
    if (id.empty()) {
        char boot[64] = {};
        if (FILE* f = fopen("/proc/sys/kernel/random/boot_id", "re")) {
            if (fgets(boot, sizeof boot, f) != nullptr) boot[strcspn(boot, "\n")] = 0;
            fclose(f);
        }
        id = boot;
    }
    return id + "/" + namespace_of("pid") + "/" + namespace_of("mnt") + "/" + namespace_of("user");
}

}  // namespace tent::transport
