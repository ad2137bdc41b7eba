#include "transport/shm/channel.h"

#include <algorithm>

namespace tent::transport::shm {
namespace {

constexpr uint32_t kind_bit(proto::SegmentKind kind) {
    return 1u << static_cast<int>(kind);
}

constexpr Capabilities kCapabilities{
    .name = "shm",
    .same_host_only = true,
    .one_sided = true,
    .read_fence = Fence::local,
    .write_fence = Fence::local,
    .remote_kinds = kind_bit(proto::SegmentKind::memfd) | kind_bit(proto::SegmentKind::region),
    .max_pieces = proto::kMaxPieces,
    .max_bytes = proto::kMaxPayload,
};

uint64_t extent_of(const proto::SegmentInfo& info) {
    return info.extent != 0 ? info.extent : info.length;
}

size_t extents_of(const proto::SegmentInfo& info) {
    uint64_t each = extent_of(info);
    return static_cast<size_t>((info.length + each - 1) / each);
}

}  // namespace

ShmChannel::ShmChannel(Session& session, Sink& sink, Copier& copier, pid_t owner, int pidfd, bool can_pull)
    : session_(session), sink_(sink), copier_(copier), owner_(owner), pidfd_(pidfd), can_pull_(can_pull) {}

ShmChannel::~ShmChannel() = default;

const Capabilities& ShmChannel::stated() {
    return kCapabilities;
}
const Capabilities& ShmChannel::capabilities() const {
    return kCapabilities;
}

Status ShmChannel::open() {
    Result<UniqueFd> fd = make_memfd("tent-hazards", sizeof(HazardPage));
    if (!fd.ok()) return fd.status();
    Result<Mapping> m = map_own(*fd, sizeof(HazardPage), true);
    if (!m.ok()) return m.status();
    Result<UniqueFd> ro = read_only(*fd);
    if (!ro.ok()) return ro.status();
    hazard_memory_ = std::make_shared<Mapping>(std::move(*m));
    hazard_fd_ = std::move(*ro);
    proto::Header h;
    h.type = proto::FrameType::map;
    h.aux = UINT64_MAX;  // no segment: this is our hazard page
    session_.send_control(h, {}, {hazard_fd_.get()});
    return Status::good();
}

const proto::SegmentInfo* ShmChannel::info_of(SegmentId segment) const {
    if (segments_ == nullptr) return nullptr;
    for (const proto::SegmentInfo& s : *segments_) {
        if (s.id == segment) return &s;
    }
    return nullptr;
}

bool ShmChannel::reaches(const proto::SegmentInfo& segment, Op op) const {
    (void)op;
    if (closed_) return false;
    if (segment.kind == proto::SegmentKind::memfd) return true;
    return segment.kind == proto::SegmentKind::region && can_pull_;
}

// Pairs remote pieces with local ones by bytes and splits at extents.
ShmChannel::Ready ShmChannel::build(const std::vector<proto::Piece>& remote,
                                    const std::vector<LocalPiece>& local, Op op, CopyJob& job, Status& why,
                                    uint32_t& bad) {
    size_t l = 0;
    uint64_t l_at = 0;
    job.hazards = reinterpret_cast<HazardPage*>(hazard_memory_->address());
    job.op = op;
    job.keep.push_back(hazard_memory_);
    for (uint32_t i = 0; i < remote.size(); ++i) {
        const proto::Piece& r = remote[i];
        bad = i;
        const proto::SegmentInfo* info = info_of(r.segment);
        if (info != nullptr &&
            !within(r.offset, r.length, info->length)) {  // also where nothing is mapped yet
            why = {Code::out_of_range, "segment " + std::to_string(r.segment) + " has " +
                                           std::to_string(info->length) + " bytes: [" +
                                           std::to_string(r.offset) + ", +" + std::to_string(r.length) +
                                           ") lies outside"};
            return Ready::impossible;
        }
        auto it = mapped_.find(r.segment);
        if (info == nullptr || it == mapped_.end() || it->second->face == nullptr) return Ready::missing;
        Mapped& m = *it->second;
        if (job.keep.back() != it->second) job.keep.push_back(it->second);
        bool region = m.info.kind == proto::SegmentKind::region;
        uint64_t extent_bytes = extent_of(m.info);
        for (uint64_t at = r.offset, left = r.length; left > 0;) {
            auto extent = static_cast<uint32_t>(at / extent_bytes);
            uint64_t in_extent = at % extent_bytes;
            uint64_t n = std::min({left, extent_bytes - in_extent, local[l].length - l_at});
            const uint8_t* theirs;
            if (region) {
                theirs = reinterpret_cast<const uint8_t*>(m.info.address) + at;
                job.pid = owner_;
                job.pidfd = pidfd_;
            } else {
                const std::vector<Mapping>& maps = op == Op::write ? m.writable : m.readable;
                if (extent >= maps.size() || !maps[extent]) return Ready::missing;
                theirs = maps[extent].address() + in_extent;
            }
            uint8_t* ours = local[l].address + l_at;
            CopyPart part;
            part.to = op == Op::read ? ours : const_cast<uint8_t*>(theirs);
            part.from = op == Op::read ? theirs : ours;
            part.length = n;
            part.face = m.face;
            part.segment = r.segment;
            part.extent = extent;
            part.epoch = r.epoch;
            part.piece = i;
            job.parts.push_back(part);
            at += n;
            left -= n;
            l_at += n;
            if (l_at == local[l].length) {
                ++l;
                l_at = 0;
            }
        }
    }
    return Ready::yes;
}

bool ShmChannel::prepare_inline(const Attempt& a, CopyJob& job) {
    if (closed_) return false;
    for (const proto::Piece& r : a.remote) {
        const proto::SegmentInfo* info = info_of(r.segment);
        if (info == nullptr || (info->kind == proto::SegmentKind::region && a.op == Op::write)) return false;
    }
    std::vector<proto::Piece> remote(a.remote.begin(), a.remote.end());
    std::vector<LocalPiece> local(a.local.begin(), a.local.end());
    Status why;
    uint32_t piece = 0;
    job.parts.clear();
    job.keep.clear();
    job.leaves = a.leaves;
    if (build(remote, local, a.op, job, why, piece) != Ready::yes) return false;
    ++inline_;
    return true;
}

// Asks for every mapping that is missing. Returns how many the attempt waits for.
int ShmChannel::request_maps(const std::vector<proto::Piece>& remote, Op op) {
    int missing = 0;
    for (const proto::Piece& r : remote) {
        const proto::SegmentInfo* info = info_of(r.segment);
        if (info == nullptr) continue;
        std::shared_ptr<Mapped>& shared = mapped_[r.segment];
        if (!shared) shared = std::make_shared<Mapped>();
        Mapped& m = *shared;
        m.info = *info;
        bool region = info->kind == proto::SegmentKind::region;
        bool write = op == Op::write && !region;
        uint64_t extent_bytes = extent_of(*info);
        if (!region) {
            m.readable.resize(extents_of(*info));
            m.writable.resize(extents_of(*info));
        }
        if (!within(r.offset, r.length, info->length)) continue;
        uint64_t first = region ? 0 : r.offset / extent_bytes,
                 last = region ? 0 : (r.offset + r.length - 1) / extent_bytes;
        for (uint64_t e = first; e <= last; ++e) {
            bool have = region ? m.face != nullptr : static_cast<bool>((write ? m.writable : m.readable)[e]);
            if (have) continue;
            ++missing;
            std::pair<SegmentId, uint32_t> what{r.segment, static_cast<uint32_t>(e << 1 | (write ? 1 : 0))};
            bool asked = std::any_of(requests_.begin(), requests_.end(),
                                     [&](const auto& q) { return q.second == what; });
            if (asked) continue;
            uint64_t id = next_request_++;
            requests_[id] = what;
            proto::Header h;
            h.type = proto::FrameType::map;
            h.attempt = id;
            h.flags = static_cast<uint8_t>(write ? Rights::read_write : Rights::read);
            h.aux = static_cast<uint64_t>(r.segment) << 32 | e;
            session_.send_control(h, {}, {});
        }
    }
    return missing;
}

void ShmChannel::on_mapped(uint64_t request, Code code, ByteView body, std::vector<UniqueFd> fds) {
    auto it = requests_.find(request);
    if (it == requests_.end()) return;
    auto [segment, what] = it->second;
    requests_.erase(it);
    Status status{code, std::string(reinterpret_cast<const char*>(body.data()),
                                    std::min(body.size(), proto::kMaxMessage))};
    auto found = mapped_.find(segment);
    if (code == Code::ok && found != mapped_.end()) {
        Mapped& m = *found->second;
        uint64_t extent_bytes = extent_of(m.info);
        uint32_t extent = what >> 1;
        bool region = m.info.kind == proto::SegmentKind::region, write = (what & 1) != 0;
        uint64_t n = std::min(extent_bytes, m.info.length - std::min(m.info.length, extent * extent_bytes));
        size_t count = extents_of(m.info);
        if (fds.size() != (region ? 1u : 2u)) {
            status = {Code::protocol, "the peer sent the wrong number of descriptors"};
        } else {
            Result<Mapping> face = map_foreign(fds[0], Face::bytes(count), false);
            status = face.ok() ? Status::good() : face.status();
            if (face.ok() && m.face == nullptr) {
                m.face_memory = std::move(*face);
                m.face = reinterpret_cast<const Face*>(m.face_memory.address());
                if (m.face->extents < count)
                    status = {Code::protocol, "the peer's segment face is too short"};
            }
            if (status.ok() && !region) {
                Result<Mapping> map = map_foreign(fds[1], n, write);
                if (map.ok()) {
                    copier_.warm(found->second, map->address(), n, write);
                    (write ? m.writable : m.readable)[extent] = std::move(*map);
                } else {
                    status = map.status();
                }
            }
        }
    }
    std::vector<AttemptId> waiting = std::move(waiting_);
    waiting_.clear();
    for (AttemptId id : waiting) {
        auto p = pending_.find(id);
        if (p == pending_.end()) continue;
        uint32_t piece = kNoId;
        for (uint32_t i = 0; i < p->second.remote.size() && !status.ok(); ++i) {
            if (p->second.remote[i].segment == segment) piece = i;
        }
        if (!status.ok() && piece != kNoId) {
            end(id, End::range, status, piece);
        } else {
            start(id, p->second);
        }
    }
}

Status ShmChannel::send_pull(AttemptId id, Pending& p) {
    // The owner pairs pieces with addresses one to one.
    std::vector<proto::Piece> pieces;
    std::vector<uint64_t> addresses;
    size_t l = 0;
    uint64_t l_at = 0;
    for (proto::Piece r : p.remote) {
        while (r.length > 0) {
            proto::Piece cut = r;
            cut.length = std::min(r.length, p.local[l].length - l_at);
            pieces.push_back(cut);
            addresses.push_back(reinterpret_cast<uint64_t>(p.local[l].address + l_at));
            r.offset += cut.length;
            r.length -= cut.length;
            l_at += cut.length;
            if (l_at == p.local[l].length) {
                ++l;
                l_at = 0;
            }
        }
    }
    Bytes body;
    proto::encode_pull(pieces, addresses, body);
    proto::Header h;
    h.type = proto::FrameType::pull;
    h.attempt = id;
    h.aux = session_.lease_token();
    session_.send_control(h, body, {});
    p.pulled = true;
    return Status::good();
}

void ShmChannel::start(AttemptId id, Pending& p) {
    const proto::SegmentInfo* first = info_of(p.remote[0].segment);
    bool region = first != nullptr && first->kind == proto::SegmentKind::region;
    if (region && p.op == Op::write) {
        (void)send_pull(id, p);
        return;
    }
    auto job = std::make_shared<CopyJob>();
    Status why;
    uint32_t piece = kNoId;
    switch (build(p.remote, p.local, p.op, *job, why, piece)) {
        case Ready::yes:
            job->attempt = id;
            job->owner = this;
            job->leaves = p.leaves;
            p.job = job;
            copier_.submit(std::move(job), helper_waits_);
            return;
        case Ready::missing:
            waiting_.push_back(id);
            if (request_maps(p.remote, p.op) == 0) {
                waiting_.pop_back();
                end(id, End::range, {Code::segment_gone, "the segment is not exposed to us"}, piece);
            }
            return;
        case Ready::impossible:
            end(id, End::range, why, piece);
    }
}

Status ShmChannel::post(const Attempt& a) {
    if (closed_) return {Code::link_failed, "the memory link is closed"};
    const proto::SegmentInfo* first = nullptr;
    for (const proto::Piece& r : a.remote) {
        const proto::SegmentInfo* info = info_of(r.segment);
        if (info == nullptr) continue;  // taken back since it was scheduled: start() says so, by its piece
        if (first == nullptr) first = info;
        if (!reaches(*info, a.op) || info->kind != first->kind) {
            return {Code::unsupported, "shared memory does not reach segment " + std::to_string(r.segment)};
        }
    }
    Pending& p = pending_[a.id];
    p.op = a.op;
    p.remote.assign(a.remote.begin(), a.remote.end());
    p.local.assign(a.local.begin(), a.local.end());
    p.leaves = a.leaves;
    start(a.id, p);
    return Status::good();
}

void ShmChannel::end(AttemptId id, End how, Status status, uint32_t piece) {
    auto it = pending_.find(id);
    if (it == pending_.end()) return;
    if (it->second.given_up) how = closed_ ? End::link : End::revoked;
    pending_.erase(it);
    sink_.attempt_ended(id, how, std::move(status), piece);
}

void ShmChannel::on_job(CopyJob& job) {
    auto it = pending_.find(job.attempt);
    if (it == pending_.end()) return;
    if (job.status.ok()) {
        end(job.attempt, End::done, Status::good(), kNoId);
    } else if (job.refused) {
        end(job.attempt, End::range, job.status, job.bad_piece);
    } else {
        end(job.attempt, End::link, job.status, job.bad_piece);
    }
}

void ShmChannel::on_pull_ended(AttemptId id, Code code, uint32_t piece, std::string message) {
    end(id, code == Code::ok ? End::done : End::range, {code, std::move(message)}, piece);
}

void ShmChannel::segment_gone(SegmentId segment) {
    mapped_.erase(segment);
}

void ShmChannel::revoke(AttemptId id) {
    auto it = pending_.find(id);
    if (it == pending_.end() || it->second.given_up) return;
    Pending& p = it->second;
    p.given_up = true;
    if (p.job) {
        p.job->cancelled.store(true);  // on_job follows: the copying thread says that it has stopped
    } else if (p.pulled) {
        session_.revoke_at_owner(this, id);
    } else {
        end(id, End::revoked, {Code::cancelled, "given up"}, kNoId);
    }
}

void ShmChannel::fenced(AttemptId id) {
    end(id, End::revoked, {Code::cancelled, "given up"}, kNoId);
}

void ShmChannel::close(const Status& why) {
    if (closed_) return;
    closed_ = true;
    std::vector<AttemptId> all;
    for (const auto& [id, p] : pending_) all.push_back(id);
    for (AttemptId id : all) {
        if (pending_.contains(id)) revoke(id);
    }
    sink_.channel_down(this, why);
}

bool ShmChannel::touches(const uint8_t* address, uint64_t length) const {
    for (const auto& [id, p] : pending_) {
        for (const LocalPiece& l : p.local) {
            if (l.address < address + length && address < l.address + l.length) return true;
        }
    }
    return false;
}

}  // namespace tent::transport::shm
