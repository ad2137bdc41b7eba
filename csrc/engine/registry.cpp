#include "engine/registry.h"

#include <algorithm>

#include "base/switches.h"

namespace tent::engine {

using transport::shm::Face;

bool Segment::lends(const WriterId& writer, uint64_t offset, uint64_t bytes) const {
    return !lender || !protection_on(Protection::grant) || lender->may_write(writer, offset, bytes);
}

bool Segment::covers(const transport::LocalPiece& p) const {
    if (view) return view->overlaps(p);
    return p.address < base + length && base < p.address + p.length;
}

proto::SegmentInfo Segment::info() const {
    proto::SegmentInfo i;
    i.id = id;
    i.kind = kind;
    i.rights = exposed;
    i.length = length;
    i.extent = memory.extent_bytes;
    i.address = kind == proto::SegmentKind::region ? reinterpret_cast<uint64_t>(base) : 0;
    i.name = name;
    return i;
}

Result<std::shared_ptr<Segment>> Registry::enter(std::shared_ptr<Segment> s) {
    auto after = by_address_.upper_bound(s->base);
    if (after != by_address_.end() && after->first < s->base + s->length) {
        return {Code::overlapping, "the memory overlaps segment '" + after->second->name + "'"};
    }
    if (after != by_address_.begin()) {
        Segment* before = std::prev(after)->second;
        if (before->base + before->length > s->base) {
            return {Code::overlapping, "the memory overlaps segment '" + before->name + "'"};
        }
    }
    for (const auto& [id, other] : by_id_) {
        if (!s->name.empty() && other->name == s->name) {
            return {Code::name_in_use, "a segment named '" + s->name + "' exists already"};
        }
    }
    if (s->exposed != Rights::none) {
        size_t extents = (s->length + s->extent_bytes() - 1) / s->extent_bytes();
        Result<UniqueFd> fd = transport::shm::make_memfd("tent-face", Face::bytes(extents));
        if (!fd.ok()) return fd.status();
        auto map = transport::shm::map_own(*fd, Face::bytes(extents), true);
        if (!map.ok()) return map.status();
        auto ro = transport::shm::read_only(*fd);
        if (!ro.ok()) return ro.status();
        s->face_memory = std::move(*map);
        s->face_fd = std::move(*ro);
        s->face = reinterpret_cast<Face*>(s->face_memory.address());
        s->face->extents = static_cast<uint32_t>(extents);
        for (size_t i = 0; i < extents; ++i) s->face->epochs[i].store(1);
        s->face->alive.store(1);
    }
    s->id = next_++;
    if (s->name.empty()) s->name = "segment-" + std::to_string(s->id);
    by_id_[s->id] = s;
    by_address_[s->base] = s.get();
    return s;
}

Result<std::shared_ptr<Segment>> Registry::make(uint64_t bytes, uint64_t extent, const std::string& name,
                                                Rights exposed) {
    constexpr uint64_t kPage = 4096;
    if (bytes == 0) return {Code::invalid_argument, "a segment needs at least one byte"};
    uint64_t rounded = (bytes + kPage - 1) / kPage * kPage;
    if (extent == 0 || extent > rounded) extent = rounded;
    if (extent % kPage != 0) return {Code::invalid_argument, "an extent must be a multiple of 4096 bytes"};
    auto memory = transport::shm::allocate_extents(rounded, extent);
    if (!memory.ok()) return memory.status();
    auto s = std::make_shared<Segment>();
    s->memory = std::move(*memory);
    s->base = s->memory.range.address();
    s->length = bytes;
    s->kind = proto::SegmentKind::memfd;
    s->name = name;
    s->exposed = exposed;
    return s;
}

Result<std::shared_ptr<Segment>> Registry::allocate(uint64_t bytes, uint64_t extent, const std::string& name,
                                                    Rights exposed) {
    auto made = make(bytes, extent, name, exposed);
    return made.ok() ? enter(std::move(*made)) : made;
}

Result<std::shared_ptr<Segment>> Registry::add(uint8_t* base, uint64_t bytes, const std::string& name,
                                               Rights exposed, bool writable, uint64_t extent) {
    if (base == nullptr || bytes == 0)
        return {Code::invalid_argument, "a segment needs an address and at least one byte"};
    if (reinterpret_cast<uint64_t>(base) + bytes < bytes)
        return {Code::out_of_range, "the memory wraps around"};
    auto s = std::make_shared<Segment>();
    if (extent > bytes) return {Code::invalid_argument, "an extent is larger than the memory"};
    s->base = base;
    s->length = bytes;
    s->memory.extent_bytes = extent;
    s->name = name;
    s->exposed = exposed;
    s->writable = writable;
    return enter(std::move(s));
}

std::shared_ptr<Segment> Registry::enter_view(std::unique_ptr<View> view, Rights exposed) {
    auto s = std::make_shared<Segment>();
    s->length = view->bytes();
    s->kind = proto::SegmentKind::offer;
    s->exposed = exposed;
    s->view = std::move(view);
    s->id = next_++;
    s->name = "offer-" + std::to_string(s->id);
    by_id_[s->id] = s;
    return s;
}

std::shared_ptr<Segment> Registry::find(SegmentId id) const {
    auto it = by_id_.find(id);
    return it == by_id_.end() ? nullptr : it->second;
}

Segment* Registry::locate(const uint8_t* address, uint64_t length) const {
    if (last_ == nullptr || address < last_->base || address >= last_->base + last_->length) {
        auto it = by_address_.upper_bound(address);
        if (it == by_address_.begin()) return nullptr;
        last_ = std::prev(it)->second;
    }
    auto offset = static_cast<uint64_t>(address - last_->base);
    return address >= last_->base && within(offset, length, last_->length) ? last_ : nullptr;
}

void Registry::remove(SegmentId id) {
    auto it = by_id_.find(id);
    if (it == by_id_.end()) return;
    if (!it->second->view) by_address_.erase(it->second->base);
    last_ = nullptr;
    by_id_.erase(it);
}

std::vector<proto::SegmentInfo> Registry::exposed() const {
    std::vector<proto::SegmentInfo> out;
    for (const auto& [id, s] : by_id_) {
        if (s->exposed != Rights::none && !s->revoked && !s->view) out.push_back(s->info());
    }
    return out;
}

Status Registry::resolve(const WriterId& peer, Op op, std::span<const proto::Piece> pieces,
                         std::vector<transport::LocalPiece>& out, uint32_t& piece) const {
    out.clear();
    for (uint32_t i = 0; i < pieces.size(); ++i) {
        const proto::Piece& p = pieces[i];
        piece = i;
        auto it = by_id_.find(p.segment);
        bool granted = it != by_id_.end() && !it->second->revoked && it->second->exposed != Rights::none;
        if (granted && it->second->view && protection_on(Protection::grant))
            granted = it->second->view->open_to(peer.session);
        if (!granted) return {Code::segment_gone, "no segment " + std::to_string(p.segment) + " is exposed"};
        Segment& s = *it->second;
        if (!allows(s.exposed, op)) {
            return {Code::permission_denied, "segment '" + s.name + "' is not exposed for that"};
        }
        if ((s.view || protection_on(Protection::bounds)) && !within(p.offset, p.length, s.length)) {
            return {Code::out_of_range, "segment '" + s.name + "' has " + std::to_string(s.length) +
                                            " bytes: [" + std::to_string(p.offset) + ", +" +
                                            std::to_string(p.length) + ") lies outside"};
        }
        if (op == Op::write && !s.lends(peer, p.offset, p.length)) {
            return {Code::permission_denied, "segment '" + s.name + "': [" + std::to_string(p.offset) +
                                                 ", +" + std::to_string(p.length) + ") is not lent to you"};
        }
        if (p.epoch != 0 && s.face != nullptr && protection_on(Protection::epoch)) {
            uint64_t extent = p.offset / s.extent_bytes();
            uint64_t last = (p.offset + std::max<uint64_t>(p.length, 1) - 1) / s.extent_bytes();
            for (; extent <= last; ++extent) {
                if (extent >= s.face->extents || s.face->epochs[extent].load() != p.epoch)
                    return {Code::stale_epoch, "the extent was reused"};
            }
        }
        if (s.view) {
            s.view->used_at = boottime_now();
            s.view->slice(p.offset, p.length, out);
        } else {
            out.push_back({s.base + p.offset, p.length});
        }
    }
    return Status::good();
}

}  // namespace tent::engine
