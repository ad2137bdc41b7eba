#include "transport/rdma/lane.h"

#include <errno.h>

#include <array>
#include <cstring>

#include "transport/rdma/channel.h"

namespace tent::transport::rdma {
namespace {

constexpr uint64_t kProof = UINT64_MAX;       // the id of the request that reads the incarnation
constexpr uint64_t kSilentBytes = 512 << 10;  // so many may be without a completion of their own
constexpr uint32_t kSilentPart = 4;           // and this part of the queue
constexpr size_t kPolled = 32;

}  // namespace

// Belongs to the thread that connects as much as to the lane: either may be done with it last.
struct Lane::Connecting {
    std::shared_ptr<QueuePair> qp;
    Lane* lane = nullptr;  // null: ended meanwhile. On the loop only
    Status status;
    alignas(64) std::array<uint8_t, 64> proof{};
    abi::MemoryRegion* region = nullptr;
    ~Connecting() {
        if (region != nullptr) qp->port().device->lib().dereg_mr(region);
    }
};

Lane::~Lane() {
    end();
}

Status Lane::open(const Port& port, const Options& options) {
    auto made = QueuePair::create(port, options, this);
    if (!made.ok()) return made.status();
    qp_ = std::move(*made);
    return Status::good();
}

void Lane::connect(Worker& worker, const proto::OpenedQueuePair& theirs, const Id128& expected) {
    state_ = State::connecting;
    theirs_ = theirs;
    expected_ = expected;
    connecting_ = std::make_shared<Connecting>();
    connecting_->qp = qp_;
    connecting_->lane = this;
    worker.submit(
        [c = connecting_, peer = theirs.end] {
            c->status = c->qp->connect(peer);
            if (!c->status.ok()) return;
            Device& device = *c->qp->port().device;
            c->region = device.lib().reg_mr(device.pd(), c->proof.data(), c->proof.size(), abi::kLocalWrite);
            if (c->region == nullptr)
                c->status = {Code::no_memory, "RDMA device " + device.name() + " registers no memory: " +
                                                  std::strerror(errno) + " (ulimit -l too small?)"};
        },
        [c = connecting_] {
            if (c->lane == nullptr) return;
            if (!c->status.ok()) return c->lane->channel_->lane_broken(*c->lane, c->status);
            c->lane->prove();
        });
}

void Lane::prove() {
    state_ = State::proving;
    abi::Element to{reinterpret_cast<uint64_t>(connecting_->proof.data()), sizeof(Id128),
                    connecting_->region->lkey};
    abi::SendRequest r{}, *bad = nullptr;
    r.id = kProof;
    r.elements = &to;
    r.count = 1;
    r.opcode = abi::kRead;
    r.flags = abi::kSignaled;
    r.rdma.remote_address = theirs_.probe_address;
    r.rdma.rkey = theirs_.probe_key;
    if (qp_->post(&r, &bad) != 0)
        channel_->lane_broken(*this, {Code::link_failed, "a queue pair takes no request"});
}

void Lane::proved(const abi::Completion& c) {
    if (state_ != State::proving) return;
    if (c.status != abi::kSuccess) {
        return channel_->lane_broken(
            *this,
            {Code::link_failed, std::string("the proof of a queue pair ended in ") + status_name(c.status)});
    }
    if (std::memcmp(connecting_->proof.data(), expected_.data(), expected_.size()) != 0)
        return channel_->lane_broken(*this,
                                     {Code::stale_incarnation, "the queue pair leads to another node"});
    state_ = State::ready;
    last_completion_ = monotonic_now();
    channel_->lane_ready(*this);
}

void Lane::add(const Work& w, std::span<const abi::Element> elements, Op op, AttemptId attempt, bool last) {
    sent_.push_back({attempt, w.length});
    ++silent_;
    silent_bytes_ += w.length;
    abi::SendRequest& r = batch_.emplace_back();
    r.id = first_ + sent_.size() - 1;
    r.count = static_cast<int>(w.count);
    r.opcode = op == Op::read ? abi::kRead : abi::kWrite;
    r.rdma.remote_address = w.remote;
    r.rdma.rkey = w.key;
    // Whoever is full and hears of nothing would stay full.
    if (last || silent_ >= qp_->depth() / kSilentPart || silent_bytes_ >= kSilentBytes) {
        r.flags |= abi::kSignaled;
        silent_ = 0;
        silent_bytes_ = 0;
    }
    if (op == Op::write && w.length <= qp_->most_inline()) r.flags |= abi::kInline;
    elements_.insert(elements_.end(), elements.begin(), elements.end());
}

// One call, and one doorbell, for everything that was added.
Status Lane::submit() {
    if (batch_.empty()) return Status::good();
    size_t element = 0;
    for (size_t i = 0; i < batch_.size(); ++i) {
        abi::SendRequest& r = batch_[i];
        r.elements = elements_.data() + element;
        element += static_cast<size_t>(r.count);
        r.next = i + 1 < batch_.size() ? &batch_[i + 1] : nullptr;
    }
    abi::SendRequest* bad = nullptr;
    int error = qp_->post(batch_.data(), &bad);
    batch_.clear();
    elements_.clear();
    if (error == 0) return Status::good();
    return {Code::link_failed,
            std::string("a queue pair takes no request: ") + std::strerror(error > 0 ? error : errno)};
}

void Lane::done_through(uint64_t sequence) {
    while (first_ <= sequence && !sent_.empty()) {
        Sent s = sent_.front();
        sent_.pop_front();
        ++first_;
        channel_->completed(*this, s.attempt, s.bytes);
    }
}

void Lane::on_completions() {
    if (state_ == State::ended) return;
    qp_->arm();  // first: what comes after the last poll must be told
    std::array<abi::Completion, kPolled> got;
    for (int n; (n = qp_->poll(got)) > 0;) {
        for (int i = 0; i < n; ++i) {
            const abi::Completion& c = got[static_cast<size_t>(i)];
            if (c.id == kProof) {
                proved(c);
                if (state_ == State::ended) return;
                continue;
            }
            if (c.status == abi::kSuccess) {
                last_completion_ = monotonic_now();
                done_through(c.id);
                continue;
            }
            // Requests end in order: those before the first bad one were good.
            done_through(c.id - 1);
            AttemptId guilty = sent_.empty() ? 0 : sent_.front().attempt;
            return channel_->failed(*this, c.status, guilty);
        }
    }
}

void Lane::end() {
    if (state_ == State::ended) return;
    State was = std::exchange(state_, State::ended);
    if (connecting_) connecting_->lane = nullptr;
    if (!qp_) return;
    // Not yet connected: nothing was posted, and its thread may wait for the neighbour yet. The last to let
    // go of it ends it.
    if (was == State::opening || was == State::connecting) {
        qp_.reset();
        return;
    }
    qp_->fail();
    std::array<abi::Completion, kPolled> got;
    for (int n; (n = qp_->poll(got)) > 0;) {
        for (int i = 0; i < n; ++i) {
            const abi::Completion& c = got[static_cast<size_t>(i)];
            if (c.id != kProof && c.status == abi::kSuccess) done_through(c.id);
        }
    }
    qp_->finish();
    connecting_.reset();
    qp_.reset();
}

}  // namespace tent::transport::rdma
