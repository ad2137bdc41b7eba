// Records with several replicas: which one to read, and how replicas come and go.
#include "base/switches.h"
#include "store/record.h"

namespace tent::store {
namespace {

constexpr uint64_t kDiskCost = 1'000'000;  // nanoseconds a MiB, beside what the way from there takes

// Chooses replicas for the pages of one batch, and knows how much was asked of whom.
class Chooser {
  public:
    Chooser(const DecodeOptions& options, std::vector<NodeRef>& nodes) : options_(options), nodes_(nodes) {}

    // Its place in the record; kMaxReplicas when all were tried.
    size_t choose(const Record& record, uint8_t tried) {
        size_t best = kMaxReplicas;
        uint64_t soonest = UINT64_MAX;
        for (size_t i = 0; i < record.replica_count; ++i) {
            const Replica& r = record.replicas[i];
            if ((tried >> i & 1) != 0) continue;
            if (r.node == options_.prefer) return i;
            if (record.replica_count == 1) return i;
            uint64_t at = asked_[node(r)] + time_of(r, record.length);
            if (at < soonest) {
                soonest = at;
                best = i;
            }
        }
        return best;
    }
    // The replica's node, as an index into the nodes met so far.
    uint32_t node(const Replica& r) {
        auto is = [&](const NodeRef& n) { return n.incarnation == r.incarnation && n.name == r.node; };
        if (last_ >= nodes_.size() || !is(nodes_[last_])) {
            for (last_ = 0; last_ < nodes_.size() && !is(nodes_[last_]); ++last_) {
            }
        }
        if (last_ == nodes_.size()) nodes_.push_back({std::string(r.node), r.incarnation});
        asked_.resize(nodes_.size());
        return static_cast<uint32_t>(last_);
    }
    void asked(uint32_t node_index, const Replica& r, uint64_t bytes) {
        asked_[node_index] += time_of(r, bytes);
    }

  private:
    uint64_t time_of(const Replica& r, uint64_t bytes) const {
        uint64_t cost = kUnknownCost;
        for (const NodeCost& c : options_.costs) {
            if (c.node.incarnation == r.incarnation && c.node.name == r.node) cost = c.nanos_per_mib;
        }
        if (r.segment == kDiskSegment) cost += kDiskCost;
        // Not more than a page's share of a day, whatever a record or a prediction says.
        uint64_t mib = std::min<uint64_t>((bytes >> 20) + 1, 1 << 20);
        return std::min<uint64_t>(cost, 1'000'000'000) * mib;
    }

    const DecodeOptions& options_;
    std::vector<NodeRef>& nodes_;
    std::vector<uint64_t> asked_;  // nanoseconds, by node
    size_t last_ = 0;
};

void clear_row(const RecordColumns& out, size_t i) {
    out.node[i] = kNoId;
    out.segment[i] = out.epoch[i] = 0;
    out.offset[i] = out.length[i] = out.check[i] = 0;
    out.which[i] = out.replicas[i] = 0;
    std::memset(out.version + 16 * i, 0, 16);
}

PageStatus fill_row(const Record& record, const DecodeOptions& options, Chooser& chooser,
                    const RecordColumns& out, size_t i) {
    out.length[i] = record.length;
    out.check[i] = record.check;
    out.replicas[i] = record.replica_count;
    std::memcpy(out.version + 16 * i, record.version.data(), 16);
    size_t which = chooser.choose(record, options.tried == nullptr ? 0 : options.tried[i]);
    if (which == kMaxReplicas) return PageStatus::OWNER_UNREACHABLE;
    const Replica& r = record.replicas[which];
    out.which[i] = static_cast<uint8_t>(which);
    out.node[i] = chooser.node(r);
    out.segment[i] = r.segment;
    out.epoch[i] = r.epoch;
    out.offset[i] = r.offset;
    if (record.replica_count > 1) chooser.asked(out.node[i], r, record.length);
    if (record.generation < options.generation && protection_on(Protection::generation)) {
        return PageStatus::CLEARED;
    }
    return options.expect != nullptr && options.expect[i] != record.length ? PageStatus::LENGTH_MISMATCH
                                                                           : PageStatus::HIT;
}

bool same_place(const Replica& a, const Replica& b) {
    return a.node == b.node && a.incarnation == b.incarnation && a.segment == b.segment &&
           a.extent == b.extent && a.epoch == b.epoch && a.offset == b.offset;
}

}  // namespace

bool same_incarnation(const Id128& a, const Id128& b) {
    return a == b || !protection_on(Protection::incarnation);
}

void decode_records(std::span<const ByteView> records, const DecodeOptions& options, const RecordColumns& out,
                    std::vector<NodeRef>& nodes) {
    Chooser chooser(options, nodes);
    Record record;
    for (size_t i = 0; i < out.count; ++i) {
        clear_row(out, i);
        PageStatus status =
            records[i].data() == nullptr ? PageStatus::ABSENT : decode_record(records[i], record);
        if (status == PageStatus::HIT) status = fill_row(record, options, chooser, out, i);
        out.status[i] = static_cast<uint8_t>(status);
    }
}

bool with_replica(const Record& there, const Record& mine, Bytes& out) {
    if (there.version != mine.version || there.length != mine.length || there.check != mine.check ||
        there.generation != mine.generation) {
        return false;
    }
    Record merged = there;
    merged.replica_count = 0;
    for (size_t i = 0; i < there.replica_count; ++i) {
        if (there.replicas[i].node != mine.replicas[0].node)
            merged.replicas[merged.replica_count++] = there.replicas[i];
    }
    if (merged.replica_count == kMaxReplicas) return false;
    merged.replicas[merged.replica_count++] = mine.replicas[0];
    encode_record(merged, out);
    return true;
}

Bytes without_replicas(const Record& there, uint32_t which) {
    Record left = there;
    left.replica_count = 0;
    for (size_t i = 0; i < there.replica_count; ++i) {
        if ((which >> i & 1) == 0) left.replicas[left.replica_count++] = there.replicas[i];
    }
    Bytes out;
    if (left.replica_count > 0) encode_record(left, out);
    return out;
}

uint32_t shared_replicas(const Record& there, const Record& other) {
    uint32_t both = 0;
    for (size_t i = 0; i < there.replica_count; ++i) {
        for (size_t k = 0; k < other.replica_count; ++k) {
            if (same_place(there.replicas[i], other.replicas[k])) both |= 1u << i;
        }
    }
    return both;
}

}  // namespace tent::store
