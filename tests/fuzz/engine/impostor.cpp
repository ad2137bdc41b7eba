// A process that passes for an owner: what an engine that dials it is told is what a program says.
#include <poll.h>
#include <sys/mman.h>

#include "proto/store_messages.h"
#include "wire.h"

namespace tent::fuzz {
namespace {

using proto::FrameType;
using proto::Header;

class Impostor {
  public:
    Impostor(Program& program, const Shared& shared, Seen& seen)
        : program_(program), shared_(shared), seen_(seen) {}

    // One session: connections are served until the program is over and the engine has gone, or for a while.
    void run(int listener) {
        // An input's worth of patience is little: the engine comes back at once, while there is a program.
        for (int idle = 0; idle < 40 && !shared_.stop.load();) {
            std::vector<pollfd> fds{{listener, POLLIN, 0}};
            for (Connection& c : connections_) fds.push_back({c.fd(), POLLIN, 0});
            int n = poll(fds.data(), fds.size(), 5);
            idle = n > 0 ? 0 : idle + 1;
            if (n <= 0 && program_.done()) break;
            if (fds[0].revents != 0) accept(listener);
            for (size_t i = 1; i < fds.size(); ++i) {
                if (fds[i].revents != 0) serve(connections_[i - 1]);
            }
            std::erase_if(connections_, [](const Connection& c) { return !c || !c.open(); });
            if (connections_.empty() && program_.done() && served_) break;
        }
        for (Connection& c : connections_) c.reset();
    }

  private:
    void accept(int listener) {
        UniqueFd fd(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
        if (!fd) return;
        Connection c(std::move(fd));
        proto::HandshakeConfig config;
        config.self = {kCluster, "impostor", {}, "another host"};
        config.self.incarnation.fill(0x55);
        config.secret = kSecret;
        c.shake_hands(proto::Handshake::Role::owner, config, program_);
        if (!c.open()) return c.reset();
        served_ = true;
        Header token;
        token.type = FrameType::token;
        token.aux = 1;
        c.send(token, {}, {}, program_);
        connections_.push_back(std::move(c));
    }

    void serve(Connection& c) {
        auto f = c.receive(0, seen_);
        if (!f) return c.reset();
        do {
            answer(c, *f);
            f = c.receive(0, seen_);
        } while (f && c);
    }

    void answer(Connection& c, const Frame& f) {
        uint8_t how = program_.u8();
        if (how >= 250) return c.reset();
        if (how >= 240) return;  // silence
        if (how >= 200) anything(c, f);
        if (how >= 220) return;
        Header h;
        h.attempt = f.header.attempt;
        Bytes body;
        switch (f.header.type) {
            case FrameType::segments: {
                h.type = FrameType::segment_table;
                std::vector<proto::SegmentInfo> table;
                for (uint32_t i = 1; i <= 2; ++i)
                    table.push_back({i, proto::SegmentKind::memfd, Rights::read_write,
                                     program_.u8() < 230 ? kData : program_.number(), 0, 0, "false"});
                proto::encode_segments(table, body);
                break;
            }
            case FrameType::read:
                return send_data(c, f);
            case FrameType::write:
                h.type = FrameType::write_ack;
                h.aux = UINT64_MAX;
                if (program_.u8() > 220) h.code = program_.u8(), h.aux = program_.number();
                break;
            case FrameType::revoke:
                if (f.header.attempt == 0) return;
                h.type = FrameType::revoked;
                break;
            case FrameType::notify:
                h.type = FrameType::notify_ack;
                break;
            case FrameType::call:
                h.type = FrameType::reply;
                if (program_.u8() > 200) h.code = program_.u8();
                proto::encode(proto::Lent{0, program_.number(), 1, 0, 1, program_.number(), kExtent}, body);
                break;
            case FrameType::map:
                h.type = FrameType::mapped;
                h.code = 14;
                break;
            default:
                return;
        }
        c.send(h, body, {}, program_);
    }

    // In order and whole, or not.
    void send_data(Connection& c, const Frame& f) {
        std::vector<proto::Piece> pieces;
        uint64_t total = 0;
        demand(proto::decode_pieces(f.body, pieces, total), "an engine sent a malformed read");
        Header h;
        h.type = FrameType::data;
        h.attempt = f.header.attempt;
        size_t parts = 1 + program_.u8() % 3;
        for (uint64_t at = 0; at < total && c;) {
            uint64_t n = std::min<uint64_t>(total / parts + 1, total - at);
            h.aux = program_.u8() < 235 ? at : program_.number();
            if (program_.u8() > 235) n = std::min<uint64_t>(program_.number(), 1 << 20);
            h.payload = program_.u8() < 245 ? 0 : program_.number();  // 0: what there is
            if (n == 0 || !c.send(h, {}, Bytes(n, 0x22), program_)) return;
            at += n;
        }
    }

    void anything(Connection& c, const Frame& f) {
        Header h;
        h.type = static_cast<FrameType>(program_.u8() % 24);
        h.flags = program_.u8();
        h.code = program_.u8() % 2 == 0 ? 0 : program_.u8();
        h.attempt = program_.u8() < 128 ? f.header.attempt : program_.number();
        h.aux = program_.number();
        h.payload = program_.u8() < 200 ? 0 : program_.number();
        c.send(h, program_.some(255), Bytes(program_.u8() < 128 ? 0 : program_.u16() % 8192u, 0x33),
               program_);
    }

    Program& program_;
    const Shared& shared_;
    Seen& seen_;
    std::vector<Connection> connections_;
    bool served_ = false;
};

}  // namespace

void impersonate(Program& program, const Shared& shared, int listener, Seen& seen) {
    Impostor(program, shared, seen).run(listener);
}

}  // namespace tent::fuzz
