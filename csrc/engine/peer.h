// A session towards another node, from the initiator's side: its control connection, its links, its attempts.
// Loop token held for everything that does not say otherwise.
#pragma once

#include <array>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>

#include "engine/descriptor.h"
#include "engine/transfer.h"
#include "proto/lease.h"
#include "transport/rdma/initiator.h"
#include "transport/shm/channel.h"
#include "transport/stream.h"
#include "transport/tcp/channel.h"

namespace tent::engine {

class Engine;
struct LocalRail;

// Parked: without a session, since it was idle and there were too many connections; its next use makes
// another.
enum class PeerState : uint8_t { connecting, alive, parked, dead };

// A question to the owner whose answer somebody waits for (store messages).
struct Call {
    Status status;
    Bytes reply;
    std::atomic<bool> done{false};  // the rest is set before, and never changes after
    void finish(Status s, ByteView bytes);
};

class Peer final : public transport::Session,
                   public transport::StreamHandler,
                   public std::enable_shared_from_this<Peer> {
  public:
    struct Link {
        LinkId id = kNoId;  // kNoId until it came up for the first time
        RailId local = 0, remote = 0;
        std::string name, rail, peer_rail;
        transport::tcp::Route route;
        // `probe`: shall take the channel's place; `earlier`: a probe that has had no answer so far. What a
        // rail swallowed while it was lost is repeated by the kernel after a second or more, far too late for
        // one that is back; a fresh one finds out at once, and the earlier one answers where all is slow.
        std::unique_ptr<transport::LinkChannel> channel, probe, earlier;
        std::array<std::unique_ptr<transport::LinkChannel>*, 3> channels() {
            return {&channel, &probe, &earlier};
        }
        bool is_shm = false, is_rdma = false;
        bool refused = false;     // RDMA: one of its ends has none
        Nanos since = 0;          // when it was first wanted
        bool cross = false;       // rails of different index: dialled while one of them has no other link
        bool asleep = false;      // closed for want of work, or not needed now: not dialled
        bool waking = false;      // was asleep, and is dialled again
        Nanos lost_at = 0;        // since when it has not worked; 0: it works
        size_t from = 0, to = 0;  // index of the local rail and of the remote one
        int path = 0;             // of the connections between them
        Nanos next_dial = 0, dial_backoff = 0;
        Nanos back_at = 0;  // its rail's carrier is back: dialled then, not before
    };
    struct AttemptRecord {
        std::shared_ptr<Transfer> transfer;
        uint64_t begin = 0, end = 0;
        LinkId link = 0;
        transport::Channel* channel = nullptr;
        std::vector<uint32_t> ranges;  // of each remote piece
        bool exact = false;
    };

    Peer(Engine& engine, uint32_t index, Descriptor descriptor);
    ~Peer() override;

    void start(Nanos now);
    void close(const Status& why);  // orderly, by us
    void tick(Nanos now, Nanos lease_now);
    void flush();
    bool dead() const { return state_ == PeerState::dead; }
    bool ready() const { return state_ == PeerState::alive && has_segments_ && (shm_ || any_link_up()); }
    const Status& why_dead() const { return why_; }
    PeerState state() const { return state_; }
    uint32_t index() const { return index_; }
    const Descriptor& descriptor() const { return descriptor_; }
    const std::vector<proto::SegmentInfo>& segments() const { return segments_; }
    // Nothing is under way or waits, and nothing of its owner's is lent to us.
    bool idle() const;
    Nanos last_used() const { return last_used_; }
    void park();                 // an idle one
    void wake(Nanos pause = 0);  // it is used: a parked one begins another session, now or after a pause
    bool reachable() const {
        return state_ != PeerState::dead && (state_ != PeerState::connecting || was_alive_);
    }
    bool exposes(SegmentId segment) const;
    const std::vector<Link>& links() const { return links_; }
    transport::shm::ShmChannel* shm() { return shm_.get(); }
    bool shm_decorated() const { return shm_shell_ != nullptr; }
    bool quiet() const;

    // The best tier whose links reach every segment of the transfer, and which of them if not all; dials what
    // is missing. Nothing: no link is up yet (`hopeless` says never).
    struct Ways {
        uint8_t tier = 0;
        std::vector<LinkId> links;
    };
    std::optional<Ways> ways_for(const Transfer& transfer, Status& hopeless);
    // Whether RDMA may carry it: adapters compare no epochs, and know no offers.
    bool carried_by_rdma(const Transfer& transfer) const;
    void ports_changed();  // RDMA ports of ours came or went
    Status post(AttemptId id, AttemptRecord record, std::span<const proto::Piece> remote,
                std::span<const transport::LocalPiece> local, uint64_t bytes, Priority priority);
    void revoke(AttemptId id);
    std::map<AttemptId, AttemptRecord>& attempts() { return attempts_; }
    Link* link_of(LinkId id);
    transport::Channel* channel_of(LinkId id);
    bool owns(const transport::Channel* channel) const;
    void report_progress();
    void rail_changed(const LocalRail& rail);  // the kernel says that one of ours is down, or back
    void rails_changed();                      // there are more of ours
    void set_rails(const std::vector<RailAddress>& rails);  // the peer's, as the directory has them now
    bool forget_links();  // once it is dead and quiet: their ids may be others'; false: not yet
    void link_state(LinkId link, sched::LinkState state);  // the sprayer's news
    void channel_up(transport::Channel* channel);
    void channel_down(transport::Channel* channel, const Status& why);
    void probe(LinkId link);
    void request_segments();
    bool segments_fresh() const { return segment_request_ == 0; }
    void call(uint16_t method, ByteView request, std::shared_ptr<Call> call);
    void notify(Bytes payload);
    bool touches(const uint8_t* address, uint64_t length) const;

    // Session
    void revoke_at_owner(transport::Channel* channel, AttemptId attempt) override;
    void revoked(uint64_t request) override;
    void forget_at_owner(AttemptId attempt) override;
    void close_at_owner(uint64_t lane, const std::vector<AttemptId>& attempts) override;
    void wake_at(Nanos when) override;
    uint64_t lease_token() const override { return lease_.last_token(); }
    void send_control(const proto::Header& header, ByteView body, std::vector<int> descriptors) override;

    // StreamHandler: the control connection
    void on_open(transport::FrameStream& stream) override;
    void on_frame(transport::FrameStream& stream, const proto::Header& header, ByteView body) override;
    void on_payload(transport::FrameStream& stream, const proto::Header& header, ByteView body,
                    std::vector<transport::LocalPiece>& landing) override;
    bool may_land(transport::FrameStream&) override { return false; }
    void on_payload_end(transport::FrameStream&, bool) override {}
    void on_closed(transport::FrameStream& stream, const Status& why) override;

  private:
    struct OpenCall {
        std::shared_ptr<Call> call;
        uint16_t method = 0;
        Bytes request;  // kept to be sent again, should the control connection be lost
    };
    void send_call(uint64_t request, const OpenCall& call);
    bool any_link_up() const;
    transport::Channel* memory_channel() const;
    std::unique_ptr<transport::Shell> shell(const char* transport, const std::string& rail,
                                            const std::string& theirs);
    bool same_host() const;
    void dial_control(Nanos now);
    std::unique_ptr<transport::FrameStream> control_stream(transport::Dialled dialled,
                                                           const std::string& where);
    void keep_control_alive(Nanos now);
    void promote_spare();
    bool owner_exited() const;  // its process, where we see it, is gone
    void make_shm(transport::FrameStream& stream);
    void open_shm();
    void make_links();
    void make_link(size_t from, size_t to, int path, bool cross);
    void meet_verbs();
    void make_rdma_links(Nanos now);
    Link* rdma_beside(const Link& link);
    bool waits_for_rdma(const Link& link, Nanos now);
    std::unique_ptr<transport::LinkChannel> make_channel(const Link& link, transport::Sink& sink);
    void rdma_down(Link& link, const Status& why);
    bool covered(const Link& link) const;
    bool covers(Link& link, Nanos now) const;
    void cover_rails(Nanos now);
    void wake_links();
    void sleep(Link& link, const Status& why);
    void close_idle_links(Nanos now);
    void dial(Link& link, Nanos now);
    void dial_links(Nanos now);
    void send_revokes();
    void send_closes();
    void repeat_revokes();
    bool send_revoke(const proto::Header& header, ByteView body);
    void fenced(AttemptId id);
    // What waits for the owner's answer to a revoke is certain without it: all, or all but pulls.
    void fence(bool pulls_too);
    void die(const Status& why);
    void end_session(const Status& why);
    void note_loans(const OpenCall& call, ByteView reply);
    void on_mapped(transport::FrameStream& stream, const proto::Header& header, ByteView body);
    // A TCP link over the rails of an RDMA link is used where that cannot be.
    static constexpr uint8_t kNetworkTier = 1, kBehindRdma = 2;
    static proto::HandshakeConfig handshake(void* self, proto::Purpose purpose, uint32_t rail);

    Engine& engine_;
    uint32_t index_;
    Descriptor descriptor_;
    PeerState state_ = PeerState::connecting;
    Status why_;
    Id128 session_{};
    std::unique_ptr<transport::FrameStream> control_;
    std::unique_ptr<transport::FrameStream> spare_;  // over another rail, not open yet: the next control_
    transport::Address control_to_, spare_to_;
    std::vector<std::unique_ptr<transport::FrameStream>> dead_streams_;
    size_t control_route_ = 0;  // which way the control connection is dialled next
    size_t refused_in_a_row_ = 0;
    Nanos next_control_dial_ = 0;
    bool was_alive_ = false, by_unix_ = false, unix_failed_ = false;
    proto::WriterLease lease_;
    int pidfd_ = -1;
    UniqueFd pidfd_owner_;
    std::unique_ptr<transport::shm::ShmChannel> shm_;
    std::unique_ptr<transport::Shell> shm_shell_;  // stands before it, if anything does
    LinkId shm_link_ = kNoId;
    size_t local_rails_ = 0, remote_rails_ = 0;  // those that have links
    bool want_tcp_ = false;
    std::unique_ptr<transport::rdma::Initiator> rdma_;  // outlives the channels; null: one of us has none
    bool was_up_ = false;                               // one of its links was
    Nanos last_used_ = 0;
    std::vector<Link> links_;
    std::vector<std::unique_ptr<transport::LinkChannel>> retired_;
    std::map<AttemptId, AttemptRecord> attempts_;
    std::vector<proto::SegmentInfo> segments_;
    bool has_segments_ = false;
    bool dialling_ = false;  // room is being made for it
    uint64_t segment_request_ = 0, next_request_ = 1;
    std::vector<AttemptId> to_revoke_, to_forget_;
    std::map<uint64_t, std::vector<AttemptId>> revoking_;
    struct Closing {
        uint64_t lane = 0;
        std::vector<AttemptId> attempts;  // fenced when it is confirmed
    };
    std::vector<Closing> to_close_;
    std::map<uint64_t, std::vector<Closing>> closing_;
    std::map<uint64_t, OpenCall> calls_;
    std::set<uint64_t> loans_;  // of a page store, as far as this session was told
    std::map<uint64_t, Bytes>
        notifications_;  // sent, not yet confirmed: sent again on a new control connection
};

}  // namespace tent::engine
