#include "target.h"

#include <malloc.h>

#include <algorithm>
#include <filesystem>

#if defined(__SANITIZE_ADDRESS__)
extern "C" size_t __sanitizer_get_current_allocated_bytes();
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(at, bytes) ((void)(at), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(at, bytes) ((void)(at), (void)(bytes))
#endif

namespace tent::fuzz {
namespace {

constexpr uint64_t kGuard = 64 << 10;
constexpr uint64_t kStride = kGuard + kData;
constexpr size_t kRegions = 4;  // writable, read only, not exposed, of the honest peer
constexpr Nanos kPatience = 20 * kSecond;

engine::Settings settings(const char* name) {
    engine::Settings s;
    s.cluster = kCluster;
    s.secret = kSecret;
    s.name = name;
    s.bind = {"127.0.0.1"};
    s.lease = 3 * kSecond;  // a starved machine is not what is tested
    s.recorder_bytes = 1 << 20;
    return s;
}

std::unique_ptr<engine::Engine> start(const engine::Settings& s) {
    auto e = engine::Engine::create(s);
    demand(e.ok(), "an engine does not start");
    return std::move(*e);
}

class HonestLender final : public engine::Lender {
  public:
    explicit HonestLender(const Id128& incarnation) : honest_(incarnation) {}
    bool may_write(const WriterId& writer, uint64_t, uint64_t) const override {
        return writer.incarnation == honest_;
    }
    bool lends_to(const WriterId&) const override { return false; }
    uint64_t loans_ended() const override { return 0; }
    void writer_lost(const WriterId&) override {}
    void writer_gone(const WriterId&) override {}
    Result<Bytes> call(const WriterId&, uint16_t, ByteView) override { return Bytes{}; }

  private:
    Id128 honest_;
};

class StoreLender final : public engine::Lender {
  public:
    explicit StoreLender(std::shared_ptr<store::Store> s) : store_(std::move(s)) {}
    bool may_write(const WriterId& w, uint64_t offset, uint64_t length) const override {
        return store_->may_write(w, offset, length);
    }
    bool lends_to(const WriterId& w) const override { return store_->lends_to(w); }
    uint64_t loans_ended() const override { return store_->loans_ended(); }
    void writer_lost(const WriterId& w) override { store_->writer_lost(w); }
    void writer_gone(const WriterId& w) override { store_->writer_gone(w); }
    Result<Bytes> call(const WriterId& w, uint16_t method, ByteView request) override {
        return store::serve_call(*store_, w, method, request, boottime_now());
    }

  private:
    std::shared_ptr<store::Store> store_;
};

// Three pieces of a page each, at the start of each half of what is there for offers.
bool in_offer(size_t at) {
    return at % kData < 3 * 8192 && at % 8192 < 4096;
}

size_t entries(const char* folder) {
    namespace fs = std::filesystem;
    return static_cast<size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

size_t allocated() {
#if defined(__SANITIZE_ADDRESS__)
    return __sanitizer_get_current_allocated_bytes();
#else
    return mallinfo2().uordblks;
#endif
}

}  // namespace

Target::Target(Shared& shared)
    : shared_(shared),
      area_(kRegions * kStride + kGuard, kForbidden),
      mine_(kData),
      theirs_(kData),
      offered_(2 * kData, kForbidden) {
    for (size_t at = 0; at < offered_.size(); ++at) offered_[at] = in_offer(at) ? 0x15 : kForbidden;
    engine::Settings one = settings("owner"), two = settings("honest"), three = settings("visitor");
    two.shm = three.shm = false;
    owner_ = start(one);
    honest_ = start(two);
    visitor_ = start(three);
    auto id = [&](size_t i, const std::shared_ptr<engine::Segment>& s) { shared_.segments[i] = s->id; };
    id(0, expose(0, "writable", Rights::read_write));
    id(1, expose(1, "read only", Rights::read));
    id(2, expose(2, "not exposed", Rights::none));
    std::fill_n(area_.data() + kGuard + 2 * kStride, kData, kForbidden);
    auto memfd = owner_->allocate(kData, kExtent, "memfd", Rights::read);
    demand(memfd.ok(), "no memory");
    id(3, *memfd);
    reserved_ = expose(3, "of the honest peer", Rights::read_write);
    demand(owner_->set_lender(reserved_->id, std::make_shared<HonestLender>(honest_->incarnation())).ok(),
           "lender");
    auto pool = owner_->allocate(kData, kExtent, "pool", Rights::read_write);
    demand(pool.ok(), "no memory");
    pool_ = *pool;
    id(4, pool_);
    store::StoreConfig c;
    c.base = pool_->base;
    c.bytes = kData;
    c.extent_bytes = kExtent;
    c.epochs = pool_->face->epochs;
    c.segment = pool_->id;
    c.node = "owner";
    c.incarnation = owner_->incarnation();
    auto s = store::Store::create(c);
    demand(s.ok(), "no store");
    store_ = *s;
    demand(owner_->set_lender(pool_->id, std::make_shared<StoreLender>(store_)).ok(), "lender");
    demand(honest_->add(mine_.data(), kData, "mine", Rights::none, true).ok(), "segment");
    demand(visitor_->add(theirs_.data(), kData, "theirs", Rights::none, true).ok(), "segment");

    demand(owner_->add(offered_.data(), offered_.size(), "offered", Rights::none, true).ok(), "segment");
    offer();

    auto d = engine::decode_descriptor(owner_->descriptor());
    demand(d.ok(), "an engine's own descriptor");
    shared_.incarnation = d->incarnation;
    shared_.port = d->rails.at(0).address.port;
    d->unix_name.copy(shared_.unix_name, sizeof shared_.unix_name - 1);
    auto p = honest_->connect(owner_->descriptor(), kPatience);
    demand(p.ok(), "the honest peer is not let in");
    peer_ = *p;
    Bytes ask;  // what the engine makes for observers is made now, and not counted as left over
    proto::encode(proto::ProbeMemory{}, ask);
    auto method = static_cast<uint16_t>(proto::ObserveMethod::probe_memory);
    demand(honest_->call(*peer_, method, ask, kPatience).ok(), "an observer is not answered");
}

Target::~Target() {
    for (auto* e : {&visitor_, &honest_, &owner_}) (*e)->close(kPatience);
    ASAN_UNPOISON_MEMORY_REGION(area_.data(), area_.size());
}

// Memory of our own with guards on both sides.
std::shared_ptr<engine::Segment> Target::expose(size_t at, const char* name, Rights rights) {
    uint8_t* base = area_.data() + kGuard + at * kStride;
    std::fill_n(base, kData, static_cast<uint8_t>(0x10 + at));
    auto s = owner_->add(base, kData, name, rights, true);
    demand(s.ok(), "a segment is not taken");
    for (size_t i = 0; i <= kRegions; ++i) ASAN_POISON_MEMORY_REGION(area_.data() + i * kStride, kGuard);
    return *s;
}

void Target::check_guards() {
    for (size_t i = 0; i <= kRegions; ++i) {
        uint8_t* guard = area_.data() + i * kStride;
        ASAN_UNPOISON_MEMORY_REGION(guard, kGuard);
        bool whole = std::all_of(guard, guard + kGuard, [](uint8_t b) { return b == kForbidden; });
        demand(whole, "an engine wrote outside of what it exposes");
        ASAN_POISON_MEMORY_REGION(guard, kGuard);
    }
    const uint8_t* hidden = area_.data() + kGuard + 2 * kStride;
    bool whole = std::all_of(hidden, hidden + kData, [](uint8_t b) { return b == kForbidden; });
    demand(whole, "an engine wrote to what it does not expose");
    const uint8_t* constant = area_.data() + kGuard + kStride;
    whole = std::all_of(constant, constant + kData, [](uint8_t b) { return b == 0x11; });
    demand(whole, "an engine wrote to what it exposes for reading only");
    for (size_t at = 0; at < offered_.size(); ++at) {
        bool writable = at >= kData && in_offer(at);
        uint8_t before = in_offer(at) ? 0x15 : kForbidden;
        demand(writable || offered_[at] == before, "an engine wrote to what it does not offer");
    }
}

void Target::transfer(engine::Engine& from, const std::shared_ptr<engine::Peer>& peer, Op op,
                      uint32_t segment, uint8_t* local, uint64_t bytes, Nanos deadline, bool must) {
    uint64_t at[] = {reinterpret_cast<uint64_t>(local), reinterpret_cast<uint64_t>(local) + bytes / 2};
    uint64_t offset[] = {64, kData / 2}, length[] = {bytes / 2, bytes / 2};
    engine::Intent in;
    in.op = op;
    in.peer = peer;
    in.local = at;
    in.segment = std::span<const uint32_t>(&segment, 1);
    in.offset = offset;
    in.length = length;
    in.timeout = deadline;
    auto t = from.submit(in, true);
    if (!must && !t.ok()) return;
    demand(t.ok(), "an honest transfer is refused");
    demand(from.wait(**t, kPatience), "a transfer hangs");
    if (must && !(*t)->result().ok()) std::fprintf(stderr, "%s\n", (*t)->result().text().c_str());
    demand(!must || (*t)->result().ok(), "an honest transfer fails");
    demand(from.wait_released(**t, kPatience), "a transfer is not released");
}

void Target::serve_honestly() {
    constexpr uint64_t kBytes = 64 << 10;
    if (honest_->state_of(*peer_) == engine::PeerState::dead) {
        auto p = honest_->connect(owner_->descriptor(), kPatience);
        demand(p.ok(), "the honest peer is not let in any more");
        peer_ = *p;
    }
    auto value = static_cast<uint8_t>(++rounds_ % 0x70);
    std::fill_n(mine_.data(), kBytes, value);
    transfer(*honest_, peer_, Op::write, reserved_->id, mine_.data(), kBytes, kPatience, true);
    std::fill_n(mine_.data(), kBytes, uint8_t{0});
    transfer(*honest_, peer_, Op::read, reserved_->id, mine_.data(), kBytes, kPatience, true);
    bool same = std::all_of(mine_.data(), mine_.data() + kBytes, [&](uint8_t b) { return b == value; });
    demand(same, "an honest peer reads wrong bytes");
}

void Target::visit_impostor(size_t which) {
    engine::Descriptor d;
    d.cluster = kCluster;
    d.name = "impostor";
    d.host = "another host";
    d.incarnation.fill(0x55);
    d.rails.push_back({{"127.0.0.1", shared_.false_ports[which]}, "lo"});
    auto p = visitor_->connect(engine::encode(d), 100 * kMillisecond);
    if (!p.ok()) return;
    for (Op op : {Op::read, Op::write}) {
        transfer(*visitor_, *p, op, 1, theirs_.data(), 32 << 10, 40 * kMillisecond, false);
    }
    (void)visitor_->call(**p, 1, Bytes(16), 10 * kMillisecond);
    visitor_->disconnect(*p);
}

// Pieces of memory that is otherwise not exposed: one to be read, one to be written.
void Target::offer() {
    owner_->take_ended_offers(0);
    for (size_t i = 0; i < 2; ++i) {
        uint8_t* base = offered_.data() + i * kData;
        engine::OfferSpec spec;
        spec.name = kOffers[i];
        for (size_t part = 0; part < 3; ++part) spec.ranges.push_back({base + part * 8192, 4096});
        spec.checks.assign(i == 0 ? 3 : 0, 7);
        spec.rights = i == 0 ? Rights::read : Rights::write;
        spec.lease = 3600 * kSecond;
        Status s = owner_->offer(std::move(spec));
        demand(s.ok() || s.code() == Code::name_in_use, "an offer is not taken");
    }
}

void Target::upkeep() {
    offer();
    std::vector<std::pair<std::string, Bytes>> notifications;
    owner_->take_notifications(notifications, 0);
    engine::ProbeJob job;
    while (owner_->take_probe(job)) owner_->probe_done(job.id, "{}");
    store_->take_unpublish(1000);
    store_->take_unpublished(1000);
    if (store_->free_extents() > 1) return;
    store::Reclaim r = store_->begin_reclaim(boottime_now() + kSecond * 3600, 0);
    if (r.extent != kNoId) store_->finish_reclaim(r.extent);
}

Target::Held Target::settle(const Held* before) {
    Nanos until = monotonic_now() + kPatience;
    for (;;) {
        uint64_t sessions = 0;
        for (const auto& [name, value] : owner_->stats().counters) {
            if (name == "sessions") sessions = value;
        }
        Held now{entries("/proc/self/fd"), entries("/proc/self/task"), 0};
        bool back =
            before == nullptr || (now.descriptors <= before->descriptors && now.threads <= before->threads);
        if (sessions <= 1 && back) {  // one: the honest peer's
            upkeep();
            store_->rebuild();  // out of memory that attackers wrote to
            now.bytes = allocated();
            return now;
        }
        if (monotonic_now() > until) {
            std::fprintf(stderr, "%zu sessions, %zu descriptors, %zu threads are left\n",
                         static_cast<size_t>(sessions), now.descriptors, now.threads);
            demand(false, "what hostile peers held is not given back");
        }
        timespec nap{0, 10 * kMillisecond};
        nanosleep(&nap, nullptr);
    }
}

}  // namespace tent::fuzz
