#include "store/copy.h"

#include <algorithm>
#include <array>
#include <memory>
#include <vector>

#include "base/digest.h"

namespace tent::store {
namespace {

constexpr uint64_t kUnitLeaves = 4;  // 256 KiB: large enough to be worth a thread, small enough to share out

// A position in a page that lies in parts.
class Cursor {
  public:
    Cursor(const PageJob& job, uint64_t position) : job_(job), left_(position) {
        while (part_ < job_.parts && left_ >= job_.length[part_]) left_ -= job_.length[part_++];
    }
    // The next `n` bytes in one piece, or null if they straddle parts. Moves on only if they do not.
    uint8_t* whole(uint64_t n) {
        if (job_.length[part_] - left_ < n) return nullptr;
        uint8_t* at = reinterpret_cast<uint8_t*>(job_.address[part_]) + left_;
        advance(n);
        return at;
    }
    template <class Piece>
    void each(uint64_t n, Piece&& piece) {
        for (uint64_t done = 0; done < n;) {
            uint64_t take = std::min(n - done, job_.length[part_] - left_);
            piece(reinterpret_cast<uint8_t*>(job_.address[part_]) + left_, done, take);
            advance(take);
            done += take;
        }
    }

  private:
    void advance(uint64_t n) {
        left_ += n;
        while (part_ < job_.parts && left_ >= job_.length[part_]) left_ -= job_.length[part_++];
    }
    const PageJob& job_;
    size_t part_ = 0;
    uint64_t left_;  // offset in the part
};

struct Unit {
    PageJob* job;
    uint64_t first, end;  // leaves
    uint64_t* leaves;     // of the whole page
};

void copy_leaf(const PageJob& job, Cursor& at, Direction direction, uint8_t* slot, uint64_t n) {
    if (direction == Direction::in) {
        at.each(n,
                [&](uint8_t* part, uint64_t done, uint64_t take) { std::memcpy(slot + done, part, take); });
    } else if (direction == Direction::out) {
        at.each(n,
                [&](uint8_t* part, uint64_t done, uint64_t take) { std::memcpy(part, slot + done, take); });
    }
    (void)job;
}

// One leaf, copied and hashed. A leaf whose parts lie apart goes through `scratch`, so that what is hashed is
// what was handed out and not what the slot may have become meanwhile.
uint64_t hash_leaf(const PageJob& job, Cursor& at, Direction direction, uint64_t leaf, uint64_t n,
                   uint8_t* scratch) {
    uint8_t* slot = job.slot == nullptr ? nullptr : job.slot + leaf * kLeafBytes;
    if (direction == Direction::in) {
        copy_leaf(job, at, direction, slot, n);
        return leaf_check(job.digest, leaf, slot, n);
    }
    if (uint8_t* part = at.whole(n)) {
        if (direction == Direction::out) std::memcpy(part, slot, n);
        return leaf_check(job.digest, leaf, part, n);
    }
    if (direction == Direction::out) {
        std::memcpy(scratch, slot, n);
        copy_leaf(job, at, direction, scratch, n);
    } else {
        copy_leaf(job, at, Direction::in, scratch, n);
    }
    return leaf_check(job.digest, leaf, scratch, n);
}

void run_unit(const Unit& unit, Direction direction, bool hash) {
    PageJob& job = *unit.job;
    Cursor at(job, unit.first * kLeafBytes);
    if (!hash) {
        uint64_t from = unit.first * kLeafBytes;
        uint64_t to = std::min(job.bytes, unit.end * kLeafBytes);
        copy_leaf(job, at, direction, job.slot + from, to - from);
        return;
    }
    std::unique_ptr<uint8_t[]> scratch;
    if (direction != Direction::in && job.parts > 1) scratch.reset(new uint8_t[kLeafBytes]);
    for (uint64_t leaf = unit.first; leaf < unit.end; ++leaf) {
        uint64_t n = std::min<uint64_t>(kLeafBytes, job.bytes - leaf * kLeafBytes);
        unit.leaves[leaf] = hash_leaf(job, at, direction, leaf, n, scratch.get());
    }
}

uint64_t leaves_of(const PageJob& job) {
    return (job.bytes + kLeafBytes - 1) / kLeafBytes;
}

}  // namespace

void copy_pages(std::span<PageJob> jobs, Direction direction, bool hash, const Executor& executor) {
    if (direction == Direction::verify && !hash) return;
    uint64_t total = 0;
    for (const PageJob& job : jobs) total += leaves_of(job);
    std::vector<uint64_t> leaves(total);
    std::vector<Unit> units;
    units.reserve(total / kUnitLeaves + jobs.size());
    uint64_t* next = leaves.data();
    for (PageJob& job : jobs) {
        uint64_t count = leaves_of(job);
        for (uint64_t first = 0; first < count; first += kUnitLeaves) {
            units.push_back({&job, first, std::min(count, first + kUnitLeaves), next});
        }
        next += count;
    }
    auto work = [&](size_t i) { run_unit(units[i], direction, hash); };
    if (executor && units.size() > 1) {
        executor(units.size(), work);
    } else {
        for (size_t i = 0; i < units.size(); ++i) work(i);
    }
    if (!hash) return;
    const uint64_t* at = leaves.data();
    for (PageJob& job : jobs) {
        uint64_t count = leaves_of(job);
        job.check = combine_leaves(job.digest, at, count, job.bytes);
        at += count;
    }
}

}  // namespace tent::store
