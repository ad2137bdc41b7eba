// A peer that dials an engine and attacks it: before the handshake, in it, and as an authenticated peer.
#include <fcntl.h>
#include <sys/mman.h>

#include <map>

#include "proto/handoff_messages.h"
#include "proto/observe_messages.h"
#include "proto/store_messages.h"
#include "wire.h"

namespace tent::fuzz {
namespace {

using proto::FrameType;

class Attacker {
  public:
    Attacker(Program& program, const Shared& shared, Seen& seen)
        : program_(program), shared_(shared), seen_(seen) {
        // A few sessions at a time, so that inputs meet what others have left.
        for (uint8_t i = 0; i < 4; ++i) sessions_[i].fill(static_cast<uint8_t>(0x40 + i));
        for (Id128& s : sessions_) s[0] = static_cast<uint8_t>(program.u8() & 3);
    }

    void run() {
        while (!program_.done()) step();
        for (auto& c : slots_) {
            if (c) c->finish(seen_);
        }
    }

  private:
    void step() {
        uint8_t op = program_.u8() % 20;
        size_t at = program_.u8() % std::size(slots_);
        if (op == 0) return open(at);
        // Frames on a connection that is not there are sent on a new one: most inputs get that far.
        if (!slots_[at]) open(at);
        Connection& c = *slots_[at];
        switch (op) {
            case 1:
            case 2:
                return read(c);
            case 3:
            case 4:
                return write(c);
            case 5:
                return revoke(c);
            case 6:
            case 7:
            case 8:
                return store_call(c);
            case 9:
                return observe_call(c);
            case 10:
                return frame(c, FrameType::notify, program_.some(64));
            case 11:
                return map(c);
            case 12:
                return pull(c);
            case 13:
                return frame(c, FrameType::segments, {});
            case 14:
                return anything(c);
            case 15:
                c.send_raw(without_forbidden(program_.some(255)), program_);
                return;
            case 16:
                c.reset();
                slots_[at].reset();
                return;
            case 17:
                c.finish(seen_);
                slots_[at].reset();
                return;
            case 18:
                answers(c, 20);
                return;
            default:
                return frame(c, static_cast<FrameType>(program_.u8() % 24), program_.some(32));
        }
    }

    void open(size_t at) {
        if (slots_[at]) slots_[at]->finish(seen_);
        uint8_t how = program_.u8();
        slots_[at] =
            how % 4 == 0 ? Connection::dial_unix(shared_.unix_name) : Connection::dial_tcp(shared_.port);
        proto::HandshakeConfig c;
        c.self = {kCluster, "attacker", {}, "some host"};
        c.self.incarnation.fill(0x77);
        c.secret = kSecret;
        c.session = sessions_[program_.u8() % std::size(sessions_)];
        c.purpose = static_cast<proto::Purpose>(how < 128 ? 1 : 1 + how % 5);
        c.link = program_.u8();
        slots_[at]->shake_hands(proto::Handshake::Role::initiator, c, program_);
    }

    // An attempt or request number: mostly fresh, now and then one that was used.
    uint64_t number() {
        uint8_t how = program_.u8();
        if (how < 160) return ++numbers_;
        return how < 240 ? numbers_ - std::min<uint64_t>(numbers_, how - 160) : program_.number();
    }

    SegmentId segment() {
        uint8_t which = program_.u8();
        if (which >= 248) return offered_;
        return which < 240 ? shared_.segments[which % 5] : static_cast<SegmentId>(program_.number());
    }

    std::vector<proto::Piece> pieces(uint64_t& bytes) {
        std::vector<proto::Piece> out;
        bytes = 0;
        size_t count = 1 + program_.u8() % 5;
        for (size_t i = 0; i < count; ++i) {
            proto::Piece p;
            if (loan_.code == 0 && loan_.loan != 0 && program_.u8() % 4 == 0) {
                p = {loan_.segment, loan_.epoch, loan_.offset + program_.u16() % kExtent,
                     program_.u16() % 4096u + 1};
            } else {
                p.segment = segment();
                p.epoch = program_.u8() < 240 ? 0 : static_cast<uint32_t>(program_.number());
                p.offset = program_.u8() < 160 ? program_.u16() : program_.number();
                p.length = program_.u8() < 200 ? program_.u16() % 8192u + 1 : program_.number();
            }
            bytes += p.length;
            out.push_back(p);
        }
        return out;
    }

    void read(Connection& c) {
        uint64_t bytes = 0;
        Bytes body;
        proto::encode_pieces(pieces(bytes), body);
        proto::Header h;
        h.type = FrameType::read;
        h.flags = program_.u8() % 5;
        h.attempt = number();
        c.send(h, body, {}, program_);
        answers(c, 0);
    }

    void write(Connection& c) {
        uint64_t bytes = 0;
        Bytes body;
        proto::encode_pieces(pieces(bytes), body);
        proto::Header h;
        h.type = FrameType::write;
        h.attempt = number();
        h.payload = program_.u8() < 230 ? bytes : program_.number();
        // As much as it says; or less, and what comes next is taken for payload.
        uint64_t real = program_.u8() < 220 ? std::min<uint64_t>(h.payload, 1 << 20) : program_.u16();
        Bytes payload(real, static_cast<uint8_t>(program_.u8() & 0x7f));
        c.send(h, body, payload, program_);
        answers(c, 0);
    }

    void revoke(Connection& c) {
        std::vector<AttemptId> attempts;
        for (size_t n = program_.u8() % 8; n > 0; --n) attempts.push_back(number());
        if (program_.u8() == 255) attempts.resize(8192, numbers_ + 1000);
        Bytes body;
        proto::encode_attempts(attempts, body);
        proto::Header h;
        h.type = FrameType::revoke;
        h.attempt = program_.u8() % 2 == 0 ? 0 : number();
        h.aux = program_.u8() < 200 ? numbers_ / 2 : program_.number();
        c.send(h, body, {}, program_);
        answers(c, 0);
    }

    void frame(Connection& c, FrameType type, const Input& body) {
        proto::Header h;
        h.type = type;
        h.attempt = number();
        h.aux = program_.u8() < 128 ? 0 : program_.number();
        c.send(h, body, {}, program_);
        answers(c, 0);
    }

    void anything(Connection& c) {
        proto::Header h;
        h.type = static_cast<FrameType>(program_.u8());
        h.flags = program_.u8();
        h.code = program_.u8() % 2 == 0 ? 0 : program_.u16();
        h.attempt = program_.number();
        h.aux = program_.number();
        h.payload = program_.u8() < 128 ? 0 : program_.number();
        c.send(h, without_forbidden(program_.some(255)), {}, program_);
        answers(c, 0);
    }

    template <class M>
    void call(Connection& c, uint16_t method, const M& message) {
        Bytes body;
        proto::encode(message, body);
        proto::Header h;
        h.type = FrameType::call;
        h.attempt = number();
        h.aux = program_.u8() < 245 ? method : program_.number();
        methods_[h.attempt] = method;
        c.send(h, body, {}, program_);
        // What is lent to us makes the next frames go deeper.
        answers(c, method == static_cast<uint16_t>(proto::Method::lend) || method == 128 ? 50 : 0);
    }

    Id128 digest() {
        Id128 d{};
        d[0] = program_.u8() % 16;
        return d;
    }
    std::vector<Id128> digests() {
        std::vector<Id128> out;
        for (size_t n = program_.u8() % 5; n > 0; --n) out.push_back(digest());
        return out;
    }

    void store_call(Connection& c) {
        auto method = static_cast<proto::Method>(1 + program_.u8() % 9);
        auto raw = static_cast<uint16_t>(method);
        switch (method) {
            case proto::Method::lend:
                return call(c, raw, proto::LendRequest{program_.number(), program_.u16()});
            case proto::Method::give_back:
                return call(c, raw, proto::GiveBack{program_.u8() < 200 ? loan_.loan : program_.number()});
            case proto::Method::commit: {
                proto::CommitRequest m;
                m.loan = program_.u8() < 230 ? loan_.loan : program_.number();
                m.epoch = program_.u8() < 230 ? loan_.epoch : static_cast<uint32_t>(program_.number());
                m.space = digest();
                m.generation = program_.number();
                for (size_t n = program_.u8() % 5; n > 0; --n) {
                    uint64_t offset =
                        program_.u8() < 160 ? loan_.offset + 64 * (1 + program_.u8()) : program_.number();
                    uint64_t length = program_.u8() < 200 ? program_.u16() : program_.number();
                    m.items.push_back({digest(), offset, length, program_.number()});
                }
                return call(c, raw, m);
            }
            case proto::Method::pin:
                return call(c, raw, proto::PinRequest{static_cast<uint32_t>(program_.number()), digests()});
            case proto::Method::remove:
                return call(c, raw, proto::RemoveRequest{digest(), digests()});
            case proto::Method::stat:
                return call(c, raw, proto::StatRequest{});
            default:
                return call(c, raw, proto::DigestList{digests()});
        }
    }

    // What is opened makes the next frames go deeper: there are two offers, one of each kind.
    void offer_call(Connection& c) {
        Id128 name = kOffers[program_.u8() % 2];
        uint8_t how = program_.u8();
        if (how >= 240) name[0] = program_.u8();
        auto first = static_cast<uint32_t>(how < 200 ? how % 4 : program_.number());
        if (how % 8 != 7) return call(c, 128, proto::OpenRequest{name, first});
        call(c, 129, proto::ReleaseRequest{name, static_cast<proto::OfferEnd>(program_.u8() % 4)});
    }

    void observe_call(Connection& c) {
        uint8_t which = program_.u8();
        if (which >= 192) return offer_call(c);
        auto raw = static_cast<uint16_t>(64 + which % 5);
        switch (static_cast<proto::ObserveMethod>(raw)) {
            case proto::ObserveMethod::stats:
                return call(c, raw, proto::StatsRequest{static_cast<uint32_t>(program_.number())});
            case proto::ObserveMethod::recording:
                return call(c, raw,
                            proto::RecordingRequest{program_.u8() < 128 ? 0 : handle_, program_.u8() % 10u,
                                                    program_.number()});
            case proto::ObserveMethod::probe:
                return call(c, raw,
                            proto::ProbeRequest{program_.some(64), static_cast<uint32_t>(program_.number())});
            case proto::ObserveMethod::probe_result:
                return call(c, raw, proto::ProbeTicket{program_.number()});
            default:
                return call(c, raw, proto::ProbeMemory{});
        }
    }

    void map(Connection& c) {
        proto::Header h;
        h.type = FrameType::map;
        h.flags = program_.u8() % 5;
        h.attempt = number();
        h.aux = (static_cast<uint64_t>(segment()) << 32) |
                (program_.u8() < 200 ? program_.u8() % 5u : program_.u16());
        std::vector<int> fds;
        std::vector<UniqueFd> owned;
        if (program_.u8() % 2 == 0) {  // the hazard page comes first: of the right size and sealed, or not
            h.aux = UINT64_MAX;
            uint8_t how = program_.u8();
            owned.emplace_back(memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING));
            int fd = owned.back().get();
            if (how < 224) demand(ftruncate(fd, how < 192 ? 65536 : program_.u16()) == 0, "ftruncate");
            if (how % 8 != 7) fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
            for (size_t n = how < 128 ? 1 : program_.u8() % 9; n > 0; --n) fds.push_back(fd);
        }
        c.send(h, {}, {}, program_, fds);
        answers(c, 0);
    }

    void pull(Connection& c) {
        uint64_t bytes = 0;
        std::vector<proto::Piece> p = pieces(bytes);
        std::vector<uint64_t> from;
        for (size_t i = 0; i < p.size(); ++i) {
            from.push_back(program_.u8() < 200 ? reinterpret_cast<uint64_t>(source_.data())
                                               : program_.number());
        }
        Bytes body;
        proto::encode_pull(p, from, body);
        proto::Header h;
        h.type = FrameType::pull;
        h.attempt = number();
        c.send(h, body, {}, program_);
        answers(c, 0);
    }

    void answers(Connection& c, int milliseconds) {
        while (c.open()) {
            auto f = c.receive(milliseconds, seen_);
            if (!f) return;
            if (f->header.type != FrameType::reply || f->header.code != 0) continue;
            uint16_t method = methods_[f->header.attempt];
            seen_.note(0x100000000ull | method);
            proto::Lent lent;
            proto::RecordingPart part;
            proto::Opened opened;
            if (method == 128 && proto::decode(f->body, opened) == Code::ok) offered_ = opened.segment;
            if (method == 1 && proto::decode(f->body, lent) == Code::ok && lent.code == 0) loan_ = lent;
            if (method == 65 && proto::decode(f->body, part) == Code::ok) handle_ = part.handle;
            milliseconds = 0;
        }
    }

    static Input without_forbidden(Input bytes) {
        for (uint8_t& b : bytes) b = b == kForbidden ? 0 : b;
        return bytes;
    }

    Program& program_;
    const Shared& shared_;
    Seen& seen_;
    std::optional<Connection> slots_[4];
    Id128 sessions_[4];
    uint64_t numbers_ = 0, handle_ = 0;
    std::map<uint64_t, uint16_t> methods_;
    SegmentId offered_ = 0;
    proto::Lent loan_;
    Bytes source_ = Bytes(1 << 16, 0x11);
};

}  // namespace

void attack(Program& program, const Shared& shared, Seen& seen) {
    Attacker(program, shared, seen).run();
}

}  // namespace tent::fuzz
