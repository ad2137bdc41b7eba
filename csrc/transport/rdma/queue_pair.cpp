#include "transport/rdma/queue_pair.h"

#include <errno.h>
#include <sys/random.h>

#include <algorithm>
#include <cstring>

namespace tent::transport::rdma {
namespace {

constexpr uint32_t kMostElements = 8;  // of one request
constexpr uint32_t kInline = 128;
constexpr uint8_t kRnrRetry = 7;  // nobody waits for receives here
constexpr uint8_t kHopLimit = 64;
constexpr uint8_t kMostReads = 16;

int mtu_code(int bytes) {
    for (int code = 5; code > 1; --code) {
        if (bytes >= 128 << code) return code;
    }
    return 1;
}

}  // namespace

Result<std::unique_ptr<QueuePair>> QueuePair::create(const Port& port, const Options& options,
                                                     CompletionHandler* handler) {
    const Library& lib = port.device->lib();
    const abi::DeviceAttributes& limits = port.device->limits();
    std::unique_ptr<QueuePair> q(new QueuePair(port, options));
    auto failed = [&](const char* what) {
        return Status(Code::no_memory, "RDMA device " + port.device->name() + ": no " + what + ": " +
                                           std::strerror(errno) +
                                           " (it may have no more, or 'ulimit -l' is too small)");
    };
    if (getrandom(&q->psn_, sizeof q->psn_, 0) < 0) q->psn_ = static_cast<uint32_t>(monotonic_now());
    q->psn_ &= 0xffffff;
    q->posts_ = handler != nullptr;
    q->depth_ = static_cast<uint32_t>(
        std::clamp(options.queue_depth, 4, std::max(4, std::min(limits.max_qp_wr, limits.max_cqe) - 1)));
    q->elements_ = std::min(
        kMostElements,
        static_cast<uint32_t>(std::max(
            1, std::min(limits.max_sge, limits.max_sge_rd > 0 ? limits.max_sge_rd : limits.max_sge))));
    abi::CompletionQueue* cq = port.device->silent();
    if (q->posts_) {
        q->cq_ = lib.create_cq(port.device->context(), static_cast<int>(q->depth_) + 1,
                               static_cast<void*>(handler), port.device->channel(), 0);
        if (q->cq_ == nullptr) return failed("completion queue");
        cq = q->cq_;
    }
    for (uint32_t bytes : {kInline, 0u}) {  // a provider that has no room for it refuses
        abi::QpInitAttributes init{};
        init.send_cq = init.recv_cq = cq;
        init.type = abi::kReliable;
        init.capacity = {q->posts_ ? q->depth_ : 1, 1, q->posts_ ? q->elements_ : 1, 1,
                         q->posts_ ? bytes : 0};
        q->qp_ = lib.create_qp(port.device->pd(), &init);
        q->inline_ = std::min(bytes, init.capacity.max_inline_data);
        if (q->qp_ != nullptr) break;
    }
    if (q->qp_ == nullptr) return failed("queue pair");
    abi::QpAttributes a{};
    a.state = abi::kInit;
    a.pkey_index = static_cast<uint16_t>(options.pkey_index);
    a.port = port.number;
    a.access = q->posts_ ? 0 : abi::kRemoteRead | abi::kRemoteWrite;
    Status s = q->state_change(a, abi::kState | abi::kPkeyIndex | abi::kPort | abi::kAccessFlags, "INIT");
    if (!s.ok()) return s;
    if (q->posts_) q->arm();
    return q;
}

QueuePair::~QueuePair() {
    finish();
    if (cq_ != nullptr) port_.device->lib().destroy_cq(cq_);
}

Status QueuePair::state_change(abi::QpAttributes& a, int mask, const char* what) {
    int error = port_.device->lib().modify_qp(qp_, &a, mask);
    if (error == 0) return Status::good();
    return {Code::link_failed, "RDMA device " + port_.device->name() + ": a queue pair does not reach " +
                                   what + ": " + std::strerror(error > 0 ? error : errno)};
}

proto::QueuePairEnd QueuePair::end() const {
    const abi::DeviceAttributes& limits = port_.device->limits();
    proto::QueuePairEnd e;
    e.gid = port_.gid;
    e.number = qp_->number;
    e.psn = psn_;
    int mtu = options_.mtu > 0 ? std::min<int>(mtu_code(options_.mtu), port_.mtu) : port_.mtu;
    e.mtu = static_cast<uint8_t>(std::clamp(mtu, 1, 5));
    int reads = posts_ ? limits.max_qp_init_rd_atom : limits.max_qp_rd_atom;
    e.reads = static_cast<uint8_t>(std::clamp<int>(reads, 1, kMostReads));
    e.lid = port_.lid;
    return e;
}

Status QueuePair::connect(const proto::QueuePairEnd& peer) {
    std::lock_guard lock(mutex_);
    if (failed_ || qp_ == nullptr) return {Code::cancelled, "not wanted any more"};
    proto::QueuePairEnd own = end();
    uint8_t reads = std::min(own.reads, peer.reads);
    abi::QpAttributes a{};
    a.state = abi::kReadyToReceive;
    a.path_mtu = std::min(own.mtu, peer.mtu);
    a.peer_number = peer.number;
    a.receive_psn = peer.psn;
    a.max_served_reads = posts_ ? 1 : reads;
    a.min_rnr_timer = 12;
    std::memcpy(a.address.route.destination.raw, peer.gid.data(), peer.gid.size());
    a.address.route.gid_index = port_.gid_index;
    a.address.route.hop_limit = kHopLimit;
    a.address.route.traffic_class = static_cast<uint8_t>(options_.traffic_class);
    a.address.is_global = 1;
    a.address.lid = peer.lid;
    a.address.service_level = static_cast<uint8_t>(options_.service_level);
    a.address.port = port_.number;
    Status s = state_change(a,
                            abi::kState | abi::kAddress | abi::kPathMtu | abi::kPeerNumber |
                                abi::kReceivePsn | abi::kMaxServedReads | abi::kMinRnrTimer,
                            "RTR");
    if (!s.ok() || !posts_) return s;
    a = {};
    a.state = abi::kReadyToSend;
    a.timeout = static_cast<uint8_t>(options_.timeout);
    a.retry_count = static_cast<uint8_t>(options_.retry_count);
    a.rnr_retry = kRnrRetry;
    a.send_psn = psn_;
    a.max_reads = reads;
    return state_change(
        a, abi::kState | abi::kTimeout | abi::kRetryCount | abi::kRnrRetry | abi::kSendPsn | abi::kMaxReads,
        "RTS");
}

void QueuePair::fail() {
    std::lock_guard lock(mutex_);
    if (failed_ || qp_ == nullptr) return;
    failed_ = true;
    abi::QpAttributes a{};
    a.state = abi::kError;
    (void)port_.device->lib().modify_qp(qp_, &a, abi::kState);
}

void QueuePair::finish() {
    std::lock_guard lock(mutex_);
    failed_ = true;
    if (qp_ != nullptr) port_.device->lib().destroy_qp(qp_);
    qp_ = nullptr;
}

int QueuePair::post(abi::SendRequest* first, abi::SendRequest** bad) {
    return port_.device->context()->operations.post_send(qp_, first, bad);
}

int QueuePair::poll(std::span<abi::Completion> out) {
    return port_.device->context()->operations.poll_cq(cq_, static_cast<int>(out.size()), out.data());
}

void QueuePair::arm() {
    port_.device->context()->operations.request_notification(cq_, 0);
}

Fault classify(int status) {
    switch (status) {
        case abi::kRemoteAccess:
        case abi::kRemoteInvalidRequest:
        case abi::kRemoteOperation:
            return Fault::access;
        case abi::kLocalLength:
        case abi::kLocalProtection:
            return Fault::local;
        default:
            return Fault::link;
    }
}

const char* status_name(int status) {
    static constexpr const char* kNames[] = {
        "success",        "LOC_LEN_ERR", "LOC_QP_OP_ERR", "LOC_EEC_OP_ERR",    "LOC_PROT_ERR",
        "WR_FLUSH_ERR",   "MW_BIND_ERR", "BAD_RESP_ERR",  "LOC_ACCESS_ERR",    "REM_INV_REQ_ERR",
        "REM_ACCESS_ERR", "REM_OP_ERR",  "RETRY_EXC_ERR", "RNR_RETRY_EXC_ERR",
    };
    bool known = status >= 0 && static_cast<size_t>(status) < std::size(kNames);
    return known ? kNames[status] : "an error of the device";
}

}  // namespace tent::transport::rdma
