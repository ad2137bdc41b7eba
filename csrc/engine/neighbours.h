// Engines of one host that use the same rails (those of tensor parallel ranks, say) tell each other what they
// have in flight over each, and how much has arrived. Every engine writes a page of shared memory of its own,
// and gives the others a descriptor that can only be read. They find each other by abstract unix sockets with
// numbered names, which belong to a network namespace as rails do, and are gone with their process, however
// it ends: then its part is, too. Only engines of the same user; what a page says is hostile until checked.
// Loop token held; nothing waits for anybody.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/poller.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "transport/shm/memory.h"

namespace tent::engine {

// What others do on a rail.
struct RailUse {
    uint64_t in_flight = 0;  // bytes
    uint64_t arrived = 0;    // bytes, since this was last asked
};

class Neighbours final : public PollHandler {
  public:
    Neighbours(Poller& poller, const Id128& me);
    ~Neighbours() override;

    // Becomes known, and gets to know those that are there.
    Status open();
    // Knocks at the next name that nobody known has, now and then: whoever could not be met before is met
    // later.
    void look(Nanos now);
    size_t count() const;  // of others, each once
    uint32_t number() const { return number_; }
    static size_t page_bytes();
    // Of this engine: all that is in flight, and has arrived since its start.
    void publish(const std::string& rail, uint64_t in_flight, uint64_t arrived, Nanos now);
    // Of all others together. One that says nothing new for a while (it was stopped) has nothing in flight.
    RailUse others(const std::string& rail, Nanos now);

    void on_ready(uint32_t events) override;  // another one knocks

    static constexpr uint32_t kNames = 64;              // so many engines of a user at most
    static constexpr size_t kRails = 64;                // of one
    static constexpr size_t kConnections = 2 * kNames;  // two that start at once meet twice

  private:
    struct Page;
    struct Neighbour;
    Status make_page();
    std::string name_of(uint32_t number) const;
    void knock(uint32_t number);
    void meet(UniqueFd fd, uint32_t number);
    bool introduce(int fd) const;
    void forget(Neighbour* gone);
    bool first_of(size_t index) const;  // not the second acquaintance with the same one

    Poller& poller_;
    Id128 me_;
    uint32_t number_ = kNames;  // in our name; kNames: none was free
    uint32_t next_ = 0;         // to knock at
    Nanos looked_at_ = 0;
    UniqueFd listener_, page_fd_, page_read_only_;
    Poller::Token token_ = 0;
    transport::shm::Mapping page_memory_;
    Page* page_ = nullptr;
    std::vector<std::unique_ptr<Neighbour>> all_;
};

}  // namespace tent::engine
