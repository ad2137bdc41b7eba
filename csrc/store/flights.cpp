#include "store/flights.h"

#include <algorithm>
#include <chrono>
#include <numeric>

#include "base/switches.h"

namespace tent::store {
namespace {

// Of the leader, not of the page: who waited tries itself.
bool leaders_own(PageStatus status) {
    return status == PageStatus::DEADLINE || status == PageStatus::CANCELLED || status == PageStatus::PENDING;
}

}  // namespace

std::unique_ptr<Flights::Ticket> Flights::join(const std::shared_ptr<Flights>& flights,
                                               const Destinations& pages, std::span<const uint8_t> wanted,
                                               uint8_t priority) {
    std::unique_ptr<Ticket> ticket(new Ticket);
    Ticket& t = *ticket;
    t.flights_ = flights;
    t.parts_ = pages.parts;
    t.addresses_.assign(pages.addresses, pages.addresses + pages.count * pages.parts);
    t.lengths_.assign(pages.lengths, pages.lengths + pages.count * pages.parts);
    t.followed_.resize(pages.count);
    t.digests_.resize(pages.count);
    std::lock_guard lock(flights->mutex_);
    for (size_t i = 0; i < pages.count; ++i) {
        Ticket::Key key;
        std::memcpy(key.digest.data(), pages.digests + 16 * i, 16);
        t.digests_[i] = key.digest;
        if (wanted[i] == 0) continue;
        std::memcpy(key.version.data(), pages.versions + 16 * i, 16);
        const uint64_t* sizes = t.lengths_.data() + i * pages.parts;
        uint64_t length = std::accumulate(sizes, sizes + pages.parts, uint64_t{0});
        auto [at, first] = flights->flights_.try_emplace(key, Flight{length, priority, {}});
        if (first) {
            t.leads_.emplace_back(i, key);
        } else if (at->second.length == length && at->second.priority <= priority) {
            auto waiter = std::make_shared<Ticket::Waiter>();
            waiter->row = i;
            waiter->ticket = &t;
            t.followed_[i] = waiter;
            at->second.waiters.push_back(std::move(waiter));
        }
    }
    return ticket;
}

size_t Flights::under_way() const {
    std::lock_guard lock(mutex_);
    return flights_.size();
}

size_t Flights::following() const {
    std::lock_guard lock(mutex_);
    size_t n = 0;
    for (const auto& [key, flight] : flights_) n += flight.waiters.size();
    return n;
}

// Ends the flights; those to whom a copy is to be given stay undecided, and their memory is theirs to keep.
std::vector<Flights::Ticket::Copy> Flights::Ticket::decide(std::span<const PageStatus> status) {
    std::vector<Copy> copies;
    std::lock_guard lock(flights_->mutex_);
    for (const auto& [row, key] : leads_) {
        auto at = flights_->flights_.find(key);
        for (auto& waiter : at->second.waiters) {
            if (waiter->ticket == nullptr) continue;  // it has left
            waiter->copying = status[row] == PageStatus::HIT;
            if (waiter->copying) {
                copies.push_back({waiter, row});
            } else {
                waiter->status = leaders_own(status[row]) ? PageStatus::PENDING : status[row];
                waiter->decided = true;
            }
        }
        flights_->flights_.erase(at);
    }
    leads_.clear();
    flights_->changed_.notify_all();
    return copies;
}

// From the leader's parts into the follower's: through memory in between where both lie in several.
bool Flights::Ticket::hand_over(const Copy& copy, uint64_t check, bool verify) const {
    const Ticket& to = *copy.waiter->ticket;
    const uint64_t* from_at = addresses_.data() + copy.row * parts_;
    const uint64_t* from_size = lengths_.data() + copy.row * parts_;
    const uint64_t* to_at = to.addresses_.data() + copy.waiter->row * to.parts_;
    const uint64_t* to_size = to.lengths_.data() + copy.waiter->row * to.parts_;
    PageJob job;
    job.digest = digests_[copy.row];
    job.bytes = std::accumulate(from_size, from_size + parts_, uint64_t{0});
    std::vector<uint8_t> between;
    if (to.parts_ == 1) {
        job.slot = reinterpret_cast<uint8_t*>(*to_at);
    } else if (parts_ == 1) {
        job.slot = reinterpret_cast<uint8_t*>(*from_at);
    } else {
        between.resize(job.bytes);
        job.slot = between.data();
    }
    if (to.parts_ == 1 || parts_ != 1) {
        job.address = from_at;
        job.length = from_size;
        job.parts = parts_;
        copy_pages({&job, 1}, Direction::in, verify && to.parts_ == 1, flights_->executor_);
    }
    if (to.parts_ != 1) {
        job.address = to_at;
        job.length = to_size;
        job.parts = to.parts_;
        copy_pages({&job, 1}, Direction::out, verify, flights_->executor_);
    }
    return !verify || job.check == check;
}

void Flights::Ticket::land(std::span<const PageStatus> status, std::span<const uint64_t> checks, bool check) {
    std::vector<Copy> copies = decide(status);
    if (copies.empty()) return;
    check = check && protection_on(Protection::check);
    for (Copy& copy : copies) copy.good = hand_over(copy, checks[copy.row], check);
    std::lock_guard lock(flights_->mutex_);
    for (const Copy& copy : copies) {
        copy.waiter->status =
            copy.good ? PageStatus::HIT : PageStatus::PENDING;  // its memory: it tries itself
        copy.waiter->decided = true;
        copy.waiter->copying = false;
    }
    flights_->changed_.notify_all();
}

void Flights::Ticket::wait(Nanos patience) {
    std::unique_lock lock(flights_->mutex_);
    flights_->changed_.wait_for(lock, std::chrono::nanoseconds(patience), [&] {
        return cancelled_ || std::all_of(followed_.begin(), followed_.end(),
                                         [](const auto& w) { return w == nullptr || w->decided; });
    });
}

void Flights::Ticket::cancel() {
    std::lock_guard lock(flights_->mutex_);
    cancelled_ = true;
    flights_->changed_.notify_all();
}

void Flights::Ticket::leave(std::span<PageStatus> status) {
    std::unique_lock lock(flights_->mutex_);
    for (const auto& waiter : followed_) {  // no copy begins from now on
        if (waiter != nullptr && !waiter->copying) waiter->ticket = nullptr;
    }
    flights_->changed_.wait(lock, [&] {
        return std::none_of(followed_.begin(), followed_.end(),
                            [](const auto& w) { return w != nullptr && w->copying; });
    });
    for (auto& waiter : followed_) {
        if (waiter == nullptr) continue;
        waiter->ticket = nullptr;
        if (!status.empty()) status[waiter->row] = waiter->status;
    }
}

Flights::Ticket::~Ticket() {
    std::vector<PageStatus> none(followed_.size(), PageStatus::PENDING);
    decide(none);
    leave({});
}

}  // namespace tent::store
