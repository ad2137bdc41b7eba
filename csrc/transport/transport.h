// The one contract between TENT and a way to move bytes. A transport states what it can do, posts attempts
// and reports what became of them. It decides nothing: no retry, no choice of path, no fallback.
//
// Threads: every call and every callback happens with the engine's loop token held, one at a time. A
// transport that has threads of its own hands their results over on the loop (see shm's copier).
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/poller.h"
#include "base/status.h"
#include "model/fault_plan.h"
#include "model/types.h"
#include "proto/wire.h"
#include "transport/leaves.h"

namespace tent::transport {

// How an attempt that was given up is fenced.
enum class Fence : uint8_t {
    local,  // by this side alone, when revoke() is answered: reads over sockets, copies by our own threads
    owner,  // the owner confirms that it takes nothing more of the attempt
};

struct Capabilities {
    const char* name = "";
    bool same_host_only = false;
    bool one_sided = false;  // the owner's CPU takes no part in a transfer
    Fence read_fence = Fence::local;
    Fence write_fence = Fence::owner;
    uint32_t remote_kinds = 0;  // bit per proto::SegmentKind it can reach
    uint32_t max_pieces = 0;    // of one attempt
    uint64_t max_bytes = 0;     // of one attempt
};

struct LocalPiece {
    uint8_t* address = nullptr;
    uint64_t length = 0;
};

// One posting of one slice. The pieces pair up by bytes, not by index; both sums equal `bytes`. The spans are
// copied by post() as far as the transport needs them later.
struct Attempt {
    AttemptId id = 0;
    Op op = Op::read;
    Priority priority = Priority::normal;
    std::span<const proto::Piece> remote;
    std::span<const LocalPiece> local;
    uint64_t bytes = 0;
    // Optional: who copies the bytes in this process hashes them for it. A transport that does not may ignore
    // it.
    std::shared_ptr<Leaves> leaves;
};

enum class End : uint8_t {
    done,     // every byte is in place (write: the owner said so)
    link,     // the link failed; fenced: nothing of it can land any more
    revoked,  // answer to revoke(): fenced
    range,    // a piece was refused by the owner: `piece` says which (kNoId: the attempt as a whole); nothing
              // more lands
};

class Channel;

// What the engine hears. May be called from inside revoke() and close(), never from inside post().
class Sink {
  public:
    virtual ~Sink() = default;
    virtual void channel_up(Channel* channel) = 0;
    virtual void attempt_ended(AttemptId attempt, End end, Status status, uint32_t piece) = 0;
    // So many bytes of it have reached the other side (write: its kernel) or this one (read). Evidence for
    // rate and health; only rising numbers count.
    virtual void attempt_progress(AttemptId attempt, uint64_t bytes) = 0;
    // The channel is unusable; every attempt posted on it still gets its own attempt_ended.
    virtual void channel_down(Channel* channel, const Status& why) = 0;
};

// What a channel asks of its session: messages over any live connection to the owner. Answers come back
// through the calls named in the comments.
class Session {
  public:
    virtual ~Session() = default;
    // The owner is to take nothing more of `attempt`; Channel::fenced(attempt) follows when that is certain.
    virtual void revoke_at_owner(Channel* channel, AttemptId attempt) = 0;
    // The owner need not send the rest of a read any more. No answer.
    virtual void forget_at_owner(AttemptId attempt) = 0;
    virtual uint64_t lease_token() const = 0;
    // What the owner answered to a revoke that came by this channel's own connection.
    virtual void revoked(uint64_t request) = 0;
    // The owner is to end its half of a queue pair (lane); Channel::fenced() follows for each of these
    // attempts when it has.
    virtual void close_at_owner(uint64_t lane, const std::vector<AttemptId>& attempts) = 0;
    // flush() is to be called at that time, if not before.
    virtual void wake_at(Nanos when) = 0;
    // Sends a frame on the control connection.
    virtual void send_control(const proto::Header& header, ByteView body, std::vector<int> descriptors) = 0;
};

// One link's means of moving slices towards one peer.
class Channel {
  public:
    virtual ~Channel() = default;
    virtual const Capabilities& capabilities() const = 0;
    // Not ok: nothing was posted, and no callback follows.
    virtual Status post(const Attempt& attempt) = 0;
    // Gives an attempt up. attempt_ended() follows (revoked, or whatever came first).
    virtual void revoke(AttemptId attempt) = 0;
    virtual void fenced(AttemptId attempt) = 0;
    // Reports attempt_progress() of everything posted. Cheap enough for every millisecond.
    virtual void report_progress() {}
    // Nothing of it is sent from or lands in [address, address + length) any more (the caller has revoked the
    // attempts).
    virtual bool touches(const uint8_t* address, uint64_t length) const = 0;
    // Ends everything on it: attempts end with End::link as soon as they are fenced.
    virtual void close(const Status& why) = 0;
    // True while nothing it posted can touch memory any more.
    virtual bool quiet() const = 0;
};

// A channel that is made by dialling, and can be lost.
class LinkChannel : public Channel {
  public:
    virtual Status dial() = 0;  // channel_up or channel_down follows
    virtual bool up() const = 0;
    virtual Nanos dialled_at() const = 0;
    virtual void flush() = 0;  // sends what post() queued: once per batch
    // Sends a control frame over this link, where the control connection may be out of reach. False: not
    // connected.
    virtual bool send_frame(const proto::Header& header, ByteView body) = 0;
};

// Stands before a channel: it is the sink of that channel, and what the engine uses in its place.
class Shell : public LinkChannel, public Sink {
  public:
    virtual void wrap(std::unique_ptr<LinkChannel> inner) = 0;
    virtual void wrap(Channel& inner) = 0;  // that the engine keeps, and that is never dialled; outlives this
};

// Makes shells for the channels of an engine: of tests that break links (transport/fault). Loop token held.
class Decorator {
  public:
    virtual ~Decorator() = default;
    virtual Status start(Poller& poller) = 0;
    virtual void stop() = 0;  // before the poller goes
    virtual std::unique_ptr<Shell> shell(const FaultLink& link, Sink& sink) = 0;
};

}  // namespace tent::transport
