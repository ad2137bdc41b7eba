#include "transport/rdma/memory.h"

#include <errno.h>
#include <sys/resource.h>

#include <cstring>

#include "base/log.h"

namespace tent::transport::rdma {
namespace {

constexpr Nanos kFailureHolds = kSecond;  // before it is tried again

Status refusal(const std::string& device, uint64_t bytes, int error) {
    std::string what = "RDMA device " + device + " cannot register " + std::to_string(bytes) +
                       " bytes: " + std::strerror(error);
    rlimit limit{};
    getrlimit(RLIMIT_MEMLOCK, &limit);
    if ((error == ENOMEM || error == EAGAIN || error == EPERM) && limit.rlim_cur != RLIM_INFINITY) {
        what +=
            ". This process may lock " + std::to_string(limit.rlim_cur >> 10) +
            " KiB (ulimit -l): raise it to unlimited (limits.conf: memlock; systemd: LimitMEMLOCK=infinity; "
            "docker: --ulimit memlock=-1)";
    }
    return {Code::no_memory, what};
}

int access_of(const Region& r) {
    int access = r.writable ? abi::kLocalWrite : 0;
    if (allows(r.remote, Op::read)) access |= abi::kRemoteRead;
    if (allows(r.remote, Op::write) && r.writable) access |= abi::kRemoteWrite;
    return access;
}

}  // namespace

void Memory::clear() {
    for (auto& [key, c] : chunks_) {
        if (c->region != nullptr) c->lib->dereg_mr(c->region);
    }
    chunks_.clear();
}

const abi::MemoryRegion* Memory::get(Device& device, const Region& r, uint64_t chunk, Status& why) {
    std::shared_ptr<Chunk>& c = chunks_[{r.segment, device.domain(), chunk}];
    why = Status::good();
    if (c && (c->busy || c->region != nullptr)) return c->busy ? nullptr : c->region;
    if (c && monotonic_now() - c->failed_at < kFailureHolds) {
        why = c->failed;
        return nullptr;
    }
    c = std::make_shared<Chunk>();
    c->busy = true;
    c->lib = &device.lib();
    uint8_t* base = r.base + chunk * kChunk;
    uint64_t bytes = r.chunk_bytes(chunk);
    abi::ProtectionDomain* pd = device.pd();
    auto error = std::make_shared<int>(0);
    // While it is busy the thread alone touches `region`: nothing is lost when it is stopped in between.
    worker_.submit(
        [=, c = c, access = access_of(r)] {
            c->region = c->lib->reg_mr(pd, base, bytes, access);
            *error = errno;
        },
        [c = c, error, bytes, name = device.name()] {
            c->busy = false;
            if (c->region != nullptr) return;
            c->failed = refusal(name, bytes, *error);
            c->failed_at = monotonic_now();
            log(LogLevel::warning, c->failed.message());
        });
    return nullptr;
}

bool Memory::forget(SegmentId segment) {
    bool gone = true;
    for (auto it = chunks_.lower_bound({segment, 0, 0});
         it != chunks_.end() && it->first.segment == segment;) {
        std::shared_ptr<Chunk> c = it->second;
        if (!c->busy && c->region == nullptr) {
            it = chunks_.erase(it);
            continue;
        }
        gone = false;
        ++it;
        if (c->busy) continue;
        c->busy = true;
        worker_.submit(
            [c] {
                c->lib->dereg_mr(c->region);
                c->region = nullptr;
            },
            [c] { c->busy = false; });
    }
    return gone;
}

}  // namespace tent::transport::rdma
