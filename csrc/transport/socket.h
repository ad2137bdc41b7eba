// Sockets: addresses as text, listening and dialling, options. Errors name the address and what to do.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "base/unique_fd.h"

namespace tent::transport {

// "10.0.0.1" or "fe80::1%eth0" with a port.
struct Address {
    std::string host;
    uint16_t port = 0;
    std::string text() const;
    bool operator==(const Address&) const = default;
};

struct SocketOptions {
    std::string congestion = "cubic";  // empty: the kernel's default
    int sndbuf = 0, rcvbuf = 0;        // bytes; 0: the kernel's choice
    int notsent_lowat = 0;
};

struct Dialled {
    UniqueFd fd;
    bool connecting = false;
};

// Connections that it accepts have its options. `port`: the one that it listens on.
Result<UniqueFd> listen_tcp(const Address& address, const SocketOptions& options, uint16_t& port);
// Where a connection leaves from. Without a device it leaves by whatever the kernel's routes say, whatever
// address it bears.
struct Source {
    std::string address, device;  // may be empty
};
// Non-blocking.
Result<Dialled> dial_tcp(const Address& to, const Source& from, const SocketOptions& options);
// Abstract unix sockets: no file, gone with their process, private to a network namespace.
Result<UniqueFd> listen_unix(const std::string& name);
Result<Dialled> dial_unix(const std::string& name);
// Accepts one connection; empty when none is waiting.
UniqueFd accept_one(int fd);
std::string local_host(int fd);  // its own address, without the port; empty for a unix socket
std::string describe(int fd);    // "10.0.0.1:1234 -> 10.0.0.2:99"

// What identifies this host for shared memory: boot id and the namespaces that must be shared.
std::string host_identity(const std::string& configured);

}  // namespace tent::transport
