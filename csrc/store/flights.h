// Pages on their way into this process. Several threads may want one page of another node at the same time:
// the first to ask fetches it, the others wait and are handed a copy of what it got, verified like any read.
//
// Thread-safe. Whoever joined must land() what it leads, whatever became of it; until then its followers
// wait. Copies into a follower's memory happen inside the leader's land(), and never after the follower's
// leave() has returned. Bounded by the reads under way: nothing is kept once they have ended.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "store/copy.h"
#include "store/reason.h"

namespace tent::store {

// N pages of P parts each: digests and versions N x 16 bytes, addresses and lengths N x P.
struct Destinations {
    size_t count = 0, parts = 1;
    const uint8_t* digests = nullptr;
    const uint8_t* versions = nullptr;
    const uint64_t* addresses = nullptr;
    const uint64_t* lengths = nullptr;
};

class Flights {
  public:
    explicit Flights(Executor executor) : executor_(std::move(executor)) {}

    // One reader's part in it. Used by one thread, but for cancel().
    class Ticket {
      public:
        // Does it follow for this page? Otherwise the caller is to fetch it.
        bool follows(size_t row) const { return followed_[row] != nullptr; }
        // What became of the pages that the caller fetched: statuses and checks, one per page (those of
        // followed pages are not looked at). Hands copies to the followers; `check`: verified. Once.
        void land(std::span<const PageStatus> status, std::span<const uint64_t> checks, bool check);
        // Until every followed page is decided, cancel(), or `patience`.
        void wait(Nanos patience);
        void cancel();
        // Nothing is written to the caller's memory any more. `status` of followed pages: HIT, what kept
        // their leader from getting them, or PENDING: undecided, or a reason that was the leader's own.
        void leave(std::span<PageStatus> status);
        ~Ticket();

      private:
        friend class Flights;
        struct Waiter {
            size_t row = 0;
            PageStatus status = PageStatus::PENDING;
            bool decided = false, copying = false;
            Ticket* ticket = nullptr;
        };
        struct Key {
            Id128 digest{}, version{};
            bool operator==(const Key&) const = default;
        };
        struct Copy {
            std::shared_ptr<Waiter> waiter;
            size_t row;  // of the leader
            bool good = true;
        };
        std::vector<Copy> decide(std::span<const PageStatus> status);
        bool hand_over(const Copy& copy, uint64_t check, bool verify) const;
        Ticket() = default;
        std::shared_ptr<Flights> flights_;
        size_t parts_ = 1;
        std::vector<Id128> digests_;
        std::vector<uint64_t> addresses_, lengths_;
        std::vector<std::pair<size_t, Key>> leads_;
        std::vector<std::shared_ptr<Waiter>> followed_;  // by row; null: the caller fetches it
        bool cancelled_ = false;
    };

    // `wanted`: which of the pages come from elsewhere (the others are the caller's own business). Only a
    // fetch of at least this urgency (0 is the highest) is waited for.
    static std::unique_ptr<Ticket> join(const std::shared_ptr<Flights>& flights, const Destinations& pages,
                                        std::span<const uint8_t> wanted, uint8_t priority);
    size_t under_way() const;  // pages
    size_t following() const;  // destinations that wait

  private:
    struct Flight {
        uint64_t length = 0;
        uint8_t priority = 0;
        std::vector<std::shared_ptr<Ticket::Waiter>> waiters;
    };
    struct Hash {  // digests are random bits already
        size_t operator()(const Ticket::Key& key) const {
            size_t h;
            std::memcpy(&h, key.digest.data(), sizeof h);
            return h;
        }
    };
    Executor executor_;
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::unordered_map<Ticket::Key, Flight, Hash> flights_;
};

}  // namespace tent::store
