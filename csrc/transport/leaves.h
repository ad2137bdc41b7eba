// The leaf hashes of the pages that a transfer moves, taken by whoever copies the bytes, while they are in
// its cache: reading them again afterwards costs about a third of a copy. What was not hashed on the way, or
// not for sure what lies there now, has no check here, and its bytes are hashed afterwards.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "base/digest.h"

namespace tent::transport {

class Leaves {
  public:
    // Range i of the transfer lies at local[i] and is the next part of page group[i], whose digest is
    // digests[group[i]]. All are copied. `prefix` are the ranges' beginnings in the transfer's stream, and
    // its end.
    Leaves(std::span<const Id128> digests, std::span<const uint32_t> group, std::span<const uint64_t> local,
           std::span<const uint64_t> prefix);

    // One thread's walk over bytes that it copies in the order of the stream.
    class Walk {
      public:
        explicit Walk(Leaves& leaves) : leaves_(leaves) {}
        // `n` bytes of the local memory at `local` were just copied; they are at `bytes` as they arrived.
        void copied(const uint8_t* local, const uint8_t* bytes, uint64_t n);

      private:
        void part(uint32_t range, uint64_t at, const uint8_t* bytes, uint64_t n);
        Leaves& leaves_;
        Xxh3Stream leaf_;             // a leaf that came in more than one piece, as far as it came
        uint32_t page_ = UINT32_MAX;  // whose
        uint64_t next_ = 0;           // where in that page it goes on
    };

    // A stream's position, moved back to a leaf's boundary if there is one behind `begin`: attempts that are
    // cut there hash whole leaves.
    uint64_t cut(uint64_t begin, uint64_t end, uint32_t last_range) const;

    // Bytes that attempts were given to carry. More than the stream has: something was carried twice, and
    // nobody knows which came last.
    void carrying(uint64_t bytes) { carried_.fetch_add(bytes, std::memory_order_relaxed); }

    // The check of a page, once the transfer has been released. None: hash its bytes.
    std::optional<uint64_t> check(uint32_t page) const;
    uint32_t pages() const { return static_cast<uint32_t>(pages_.size()); }

  private:
    struct Page {
        Id128 digest{};
        uint64_t bytes = 0;
        uint64_t first_leaf = 0;
    };
    struct Range {
        uint64_t local, bytes;
        uint32_t page;
        uint64_t in_page;  // where in the page it begins
    };
    uint32_t at_address(uint64_t local) const;
    void set(uint32_t page, uint64_t leaf, uint64_t hash);

    std::vector<Page> pages_;
    std::vector<Range> ranges_;         // in the order of the stream
    std::vector<uint32_t> by_address_;  // ranges, by where they lie
    std::vector<uint64_t> prefix_;
    std::vector<std::atomic<uint64_t>> hashes_;
    std::vector<std::atomic<bool>> known_;
    std::atomic<uint64_t> carried_{0};
};

}  // namespace tent::transport
