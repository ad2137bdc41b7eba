// A hostile end of a connection: knows the secret, speaks the protocol, and breaks it where the program says.
#pragma once

#include <sys/socket.h>

#include <optional>

#include "base/unique_fd.h"
#include "program.h"
#include "proto/handshake.h"
#include "proto/wire.h"

namespace tent::fuzz {

struct Frame {
    proto::Header header;
    Bytes body;
    uint64_t payload = 0;  // bytes of it
};

class Connection {
  public:
    explicit Connection(UniqueFd fd);
    static Connection dial_tcp(uint16_t port);
    static Connection dial_unix(const std::string& name);

    explicit operator bool() const { return bool(fd_); }
    int fd() const { return fd_.get(); }
    bool open() const { return open_; }  // the handshake was finished
    // As the program says: genuine, with another secret, damaged on the way, or nothing of the kind.
    void shake_hands(proto::Handshake::Role role, const proto::HandshakeConfig& config, Program& program);
    // Encoded, damaged if the program says so, split where it says so. A false answer: the other side is
    // gone.
    bool send(proto::Header header, ByteView body, ByteView payload, Program& program,
              std::span<const int> descriptors = {});
    bool send_raw(ByteView bytes, Program& program, std::span<const int> descriptors = {});
    // The next frame, if one comes within the time (0: is there). Checks what an engine sends.
    std::optional<Frame> receive(int milliseconds, Seen& seen);
    // Takes all that comes until the other side has closed. It must.
    void finish(Seen& seen);
    void reset();  // with RST

  private:
    bool fill(int milliseconds);
    bool talk(proto::Handshake& handshake, bool damaged, Program& program);
    UniqueFd fd_;
    bool open_ = false, gone_ = false;
    Bytes in_;
};

}  // namespace tent::fuzz
