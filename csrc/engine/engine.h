// The engine: segments, peers, transfers, and the progress loop around the sprayer. Public calls are
// thread-safe and block only where they say so. One owner at a time holds the loop token: the progress
// thread, or a waiting caller that has taken the loop over, so that a small transfer costs no hand-off.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/poller.h"
#include "engine/descriptor.h"
#include "engine/destinations.h"
#include "engine/doubt.h"
#include "engine/neighbours.h"
#include "engine/observe.h"
#include "engine/offers.h"
#include "engine/owner_session.h"
#include "engine/peer.h"
#include "engine/registry.h"
#include "engine/responders.h"
#include "engine/settings.h"
#include "engine/transfer.h"
#include "sched/recorder.h"
#include "transport/interfaces.h"
#include "transport/rdma/fabric.h"
#include "transport/shm/copier.h"

namespace tent::engine {

struct LocalRail {
    RailId rail = 0;
    transport::Address address;  // port = where it listens
    std::string name;            // its interface; of no interface of ours: the address
    bool loopback = false;
    bool alive = true;    // as far as the kernel says
    bool shared = false;  // others of this host were busy on it, as the sprayer was told
    uint64_t others = 0;  // bytes that they have in flight over it
};

struct Counters {
    uint64_t submitted = 0, completed = 0, failed = 0, cancelled = 0, released = 0;
    uint64_t inline_transfers = 0, bytes_read = 0, bytes_written = 0;
    uint64_t handshakes_refused = 0, connections_accepted = 0, notifications = 0, check_failures = 0;
    uint64_t read_again = 0;       // second readings, of what did not match its check
    uint64_t sessions_parked = 0;  // closed for want of room, to be made again on use
};

struct LinkRow {  // what `tent` shows of a link
    std::string peer, transport, name;
    uint8_t state = 0;  // index into proto::kLinkStates
    sched::LinkView view;
};

class Engine final : public transport::Sink {
  public:
    // Listens and starts the threads. port_in_use, invalid_argument, no_memory.
    static Result<std::unique_ptr<Engine>> create(const Settings& settings);
    ~Engine() override;

    // ---- any thread ----
    // Ends everything: transfers are cancelled, peers told, grants revoked, threads joined. Blocks up to
    // `timeout` for attempts that only a lease can fence. Idempotent.
    void close(Nanos timeout);
    Status usable() const;  // closed, forked
    const std::string& name() const { return settings_.name; }
    const Id128& incarnation() const { return incarnation_; }
    Bytes descriptor();

    Result<std::shared_ptr<Segment>> allocate(uint64_t bytes, uint64_t extent, const std::string& name,
                                              Rights exposed);
    Result<std::shared_ptr<Segment>> add(uint8_t* base, uint64_t bytes, const std::string& name,
                                         Rights exposed, bool writable, uint64_t extent = 0);
    // Blocks until nothing touches it any more (invariant 11) or `timeout`: busy, and the memory must stay.
    Status unregister(SegmentId id, Nanos timeout);

    // Blocks up to `timeout`. An existing live session with the same incarnation is shared.
    Result<std::shared_ptr<Peer>> connect(ByteView descriptor, Nanos timeout);
    void disconnect(const std::shared_ptr<Peer>& peer);
    std::vector<proto::SegmentInfo> segments_of(Peer& peer, Nanos timeout);  // asks the owner again
    PeerState state_of(Peer& peer);
    Result<Bytes> call(Peer& peer, uint16_t method, ByteView request, Nanos timeout);
    // Peers' writes to this segment are limited to what the lender lends, and their calls are the lender's to
    // answer. Before anyone else knows of the segment. segment_gone.
    Status set_lender(SegmentId segment, std::shared_ptr<Lender> lender);

    // offers.h. What became of them is told once each by take_ended_offers(), which blocks up to `timeout`.
    Status offer(OfferSpec spec);
    bool end_offer(const Id128& name);  // false: it has ended before
    std::vector<std::pair<Id128, proto::OfferEnd>> take_ended_offers(Nanos timeout);
    size_t live_offers();

    // Checks and starts an intent. `will_wait`: the caller goes on to wait() at once (it copies itself then).
    Result<std::shared_ptr<Transfer>> submit(const Intent& intent, bool will_wait);
    // False on time-out, which ends nothing.
    bool wait(Transfer& transfer, Nanos timeout);
    bool wait_released(Transfer& transfer, Nanos timeout);
    // True if this call cancelled it (a completion wins the race).
    bool cancel(Transfer& transfer);
    void set_priority(Transfer& transfer, Priority priority);
    // Ranges of a finished read (with `remember_links`) whose bytes are not right.
    std::shared_ptr<Doubt> doubt(Transfer& transfer, std::vector<uint32_t> ranges);
    // Reads them once more into the same memory, which the caller has kept, over one link alone: the
    // next. Blocks until nothing of it touches that memory, or about `timeout`. False: every link was tried.
    bool read_again(const std::shared_ptr<Doubt>& doubt, Nanos timeout);
    // Says which of these are good now: links that had brought other bytes are corrupting.
    void settle_doubt(Doubt& doubt, std::span<const uint32_t> good);
    Nanos predict(Peer& peer, uint64_t bytes, Priority priority);
    // Whether bytes go to and from this peer through memory that both see: this process copies them.
    bool shares_memory(Peer& peer);
    int event_fd(Transfer& transfer);  // readable once done; owned by the transfer
    // The transfer shows up in take_finished() once it is done.
    void want_callback(Transfer& transfer);
    // Blocks up to `timeout` for finished transfers with callbacks and for news of notifications and logs.
    bool take_finished(std::vector<TransferId>& ids, Nanos timeout);
    bool take_notifications(std::vector<std::pair<std::string, Bytes>>& out, Nanos timeout);
    Counters counters();
    std::vector<LinkRow> links();
    // observe.cpp. Of this node, and of a peer that answers for itself; these block up to `timeout`.
    proto::NodeStats stats();
    Bytes recording(const std::string& reason);
    Result<proto::NodeStats> stats_of(Peer& peer, Nanos timeout);
    Result<Bytes> recording_of(Peer& peer, const std::string& reason, Nanos timeout);
    // What became of the links since the last call; false: nothing worth a recording.
    bool take_fault(std::string& what);
    // Work that observers asked for: take_finished() returns when there is some.
    bool take_probe(ProbeJob& job);
    void probe_done(uint64_t id, std::string report);
    // What the transports that are enabled state of themselves.
    std::vector<transport::Capabilities> capabilities() const;
    transport::shm::Copier& copier() { return *copier_; }

    // The loop token, for a few instructions.
    std::unique_lock<std::mutex> hold_loop() { return std::unique_lock(token_); }

    // ---- for peers and sessions, loop token held ----
    const Settings& settings() const { return settings_; }
    Registry& registry() { return registry_; }
    Responders& responders() { return responders_; }
    // The rail by which a connection came in.
    RailId rail_of(const transport::FrameStream& stream) const;
    Poller& poller() { return poller_; }
    const std::string& host() const { return host_; }
    const std::vector<LocalRail>& rails() const { return rails_; }
    RailId memory_rail() const { return memory_rail_; }
    // The device to bind a connection to that shall leave by this rail; empty: the address is one of this
    // host's, and what goes there never leaves it.
    std::string device_towards(const LocalRail& rail, const transport::Address& to);
    RailId remote_rail(const std::string& node, const std::string& address);
    transport::SocketOptions socket_options() const;
    transport::rdma::Fabric* fabric() { return fabric_.get(); }  // null: there is no RDMA
    transport::rdma::Region region_of(const Segment& segment) const;
    // budget.cpp. Before a connection is made: closes what has been idle longest while there are too many.
    // False: there are, and everything is in use.
    bool make_room(Nanos now);
    bool close_idlest(Nanos grace);  // false: nothing is idle, or has been for so long
    proto::HandshakeConfig handshake_config();
    Id128 random_id();
    Nanos loop_lag() const { return lag_; }
    void note_work(Nanos now) { worked_at_ = now; }  // bytes move: more will follow
    void wake_at(Nanos when) { wake_at_ = std::min(wake_at_, when); }
    LinkId add_link(const sched::LinkSpec& spec, Peer* peer);
    void link_down(LinkId link);
    void link_asleep(LinkId link);
    void remove_link(LinkId link);
    bool forget_link(LinkId link) { return sprayer_.forget_link(link); }
    void link_probe(LinkId link, bool good);
    // Its owner's word: so many bytes of writes under way on it, for so long.
    void link_window(LinkId link, uint64_t bytes, Nanos life) {
        Nanos now = monotonic_now();
        sprayer_.link_window(link, bytes, now + life, now);
    }
    sched::LinkState state_of(LinkId link) const { return sprayer_.view(link).state; }
    bool link_is_up(LinkId link) const { return state_of(link) == sched::LinkState::up; }
    void peer_changed(Peer& peer);
    bool has_transfers(const Peer& peer) const;  // that are not done
    void peer_died(Peer& peer);
    void wake_followers();  // what a waiting caller waits for may have come
    Lender* lender() { return lender_.get(); }
    bool deliver_notification(const std::string& peer, ByteView bytes);
    Observers& observers() { return observers_; }
    Offers& offers() { return offers_; }
    void revoke_offer(Segment& view);
    void offer_ended(const Id128& name, proto::OfferEnd how);
    const sched::Recorder& recorder() const { return sprayer_.recorder(); }
    proto::NodeStats stats_from(uint32_t first_link) const;
    void tell_news();

    // transport::Sink
    void attempt_ended(AttemptId attempt, transport::End end, Status status, uint32_t piece) override;
    void attempt_progress(AttemptId attempt, uint64_t bytes) override;
    void channel_up(transport::Channel* channel) override;
    void channel_down(transport::Channel* channel, const Status& why) override;

  private:
    static constexpr Nanos kBusyTick = 5 * kMillisecond;
    static constexpr size_t kMostLinksOfPeer = 65536;
    static constexpr size_t kMostRemembered = 256;       // rails of nodes that are gone
    static constexpr uint64_t kMostNotified = 64 << 20;  // bytes of notifications that nobody has taken
    class Door;  // accepts connections and sees them through the handshake
    explicit Engine(const Settings& settings);
    Status start();

    // rails.cpp
    Status listen();
    const std::vector<transport::Interface>& interfaces();
    std::vector<transport::Interface> discover(const std::vector<transport::Interface>& known) const;
    Status add_rail(const transport::Interface& interface);
    void interfaces_changed();
    void open_fabric();
    void meet_neighbours();
    void share_rails(Nanos now);

    // budget.cpp. The kernel's limit is asked for once a second: it may be raised while we run.
    size_t budget(Nanos now);
    size_t budget_ = 0;
    Nanos budget_asked_ = -kSecond;

    void wait_until(const std::function<bool()>& settled, Nanos timeout);

    // submit.cpp
    Status check(const Intent& intent) const;
    std::shared_ptr<Transfer> make_transfer(const Intent& intent) const;
    Status admit(Transfer& transfer, const Intent& intent);
    bool run_inline(std::unique_lock<std::mutex>& token, Transfer& transfer);
    bool segments_known(Transfer& transfer);
    void schedule(const std::shared_ptr<Transfer>& transfer, Nanos now);
    void tick_soon(Nanos now, bool will_wait);

    // loop.cpp
    void loop();
    void lead(const std::atomic<bool>& flag, Nanos until);
    bool wait_for(const std::atomic<bool>& flag, Nanos timeout);
    Nanos others_lead(Nanos now) const;
    void stay_away(Nanos now, Nanos pause);
    void stop_leading();
    void cycle(const Poller::Batch* batch);
    void pump();
    void tick(Nanos now);
    bool forget(Peer& peer);
    void forget_rails();
    void perform(const sched::Action& action);
    void post(const sched::Action& action);
    bool repost(Peer& peer, AttemptId id, Peer::AttemptRecord record);
    void on_range_refused(Peer& peer, AttemptId id, Peer::AttemptRecord record, const Status& status,
                          uint32_t piece);
    void drain_copies();
    void report_progress(Nanos now);
    Nanos next_wakeup(Nanos now);

    // observe.cpp
    void note_fault(LinkId link);
    LinkRow link_row(const Peer& peer, const Peer::Link& link) const;
    template <class F>
    void each_link(F f) const {
        for (const auto& p : peers_) {
            if (!p) continue;
            for (const Peer::Link& l : p->links()) {
                if (l.id != kNoId) f(*p, l);
            }
        }
    }

    // doubt.cpp
    std::shared_ptr<Doubt> doubt(const std::shared_ptr<Transfer>& transfer, std::vector<uint32_t> ranges);
    LinkId next_witness(Doubt& doubt);
    bool read_again(const std::shared_ptr<Doubt>& doubt);
    void read_again_ended(Transfer& transfer);
    void settle(Doubt& doubt, std::span<const uint32_t> good);
    void stop_reading_again(Transfer& of);

    // completion.cpp
    void finish(const std::shared_ptr<Transfer>& transfer, Status result, RangeState rest);
    void release(const std::shared_ptr<Transfer>& transfer);
    bool segment_idle(const Segment& segment) const;
    void revoke_grant(Segment& segment);
    bool adapters_let_go(const Segment& segment);
    void admit_stream(std::unique_ptr<transport::FrameStream> stream);
    friend class Door;

    Settings settings_;
    Id128 incarnation_{};
    std::string host_, unix_name_;
    unsigned born_;
    mutable std::mutex token_;
    Poller poller_;
    Registry registry_;
    std::unique_ptr<transport::shm::Copier> copier_;
    std::unique_ptr<Door> door_;
    std::vector<LocalRail> rails_;
    std::unique_ptr<transport::InterfaceWatch> watch_;
    std::vector<transport::Interface> interfaces_;  // as of the kernel's last news of them
    bool watched_ = false;                          // there is such news
    std::unique_ptr<Neighbours> neighbours_;
    Nanos shared_at_ = 0;  // when they were last told of our rails
    bool shared_busy_ = false;
    struct RegionsOfEngine final : transport::rdma::Regions {
        explicit RegionsOfEngine(const Engine& e) : engine(e) {}
        bool region_at(const uint8_t* address, transport::rdma::Region& out) const override;
        const Engine& engine;
    };
    RegionsOfEngine regions_{*this};
    std::unique_ptr<transport::rdma::Fabric> fabric_;
    RailId memory_rail_ = 0;
    std::map<std::string, RailId> remote_rails_;
    size_t rails_to_tidy_ = kMostRemembered;  // when there are so many
    sched::RecordedSprayer sprayer_;

    std::vector<std::shared_ptr<Peer>> peers_;  // by index; a dead one stays until it is quiet
    std::map<uint32_t, std::shared_ptr<Peer>> live_peers_;
    std::vector<Peer*> link_peer_;  // by LinkId
    Responders responders_;         // outlives the sessions
    std::map<uint64_t, std::unique_ptr<OwnerSession>> sessions_;
    uint64_t next_session_ = 1;
    std::map<TransferId, std::shared_ptr<Transfer>> transfers_;  // not yet released
    std::vector<std::shared_ptr<Transfer>> waiting_;             // for links
    std::unordered_map<AttemptId, std::shared_ptr<Peer>> posted_;
    Destinations destinations_;
    TransferId next_transfer_ = 1;
    Counters counters_;
    std::shared_ptr<Lender> lender_;
    Observers observers_{*this};
    Offers offers_{*this};
    Nanos started_at_ = monotonic_now();

    std::vector<proto::Piece> pieces_;  // scratch of post()
    std::vector<transport::LocalPiece> local_;
    bool pumping_ = false;
    Nanos worked_at_ = 0;
    Nanos progressed_at_ = 0;  // when report_progress() last asked
    Nanos lag_ = 0, wake_at_ = kNever, next_tick_ = 0;
    std::atomic<Nanos> next_wakeup_{0};

    std::thread thread_;
    std::atomic<bool> stop_{false}, closed_{false};
    std::atomic<bool> leading_{false};
    std::atomic<Nanos> leads_since_{0}, led_at_{0};
    std::mutex away_mutex_;
    std::condition_variable away_cv_;
    std::atomic<bool> away_{false};  // the progress thread waits for the end of a long lead
    std::mutex done_mutex_;
    std::condition_variable done_cv_;
    std::atomic<int> followers_{0};

    std::mutex news_mutex_;
    std::condition_variable news_cv_;
    std::deque<TransferId> finished_;
    std::deque<std::pair<std::string, Bytes>> notifications_;
    uint64_t notified_bytes_ = 0;
    std::deque<std::pair<Id128, proto::OfferEnd>> ended_offers_;
    bool news_ = false;
    std::string fault_;
};

}  // namespace tent::engine
