// Engines of one host that use the same rails (those of tensor parallel ranks, say) tell each other what they
// have in flight over each, and how much has arrived. Every engine writes a page of shared memory of its own,
// and gives the others a descriptor that can only be read. They find each other by abstract unix sockets,
// which belong to a network namespace as rails do, and are gone with their process, however it ends: then its
// part is, too. Only engines of the same user; what a page says is hostile until checked. Loop token held.
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

    // Becomes known, and gets to know those that are there. unsupported: there are none to be known here.
    Status open();
    size_t count() const;
    // Of this engine: all that is in flight, and has arrived since its start.
    void publish(const std::string& rail, uint64_t in_flight, uint64_t arrived, Nanos now);
    // Of all others together. One that says nothing new for a while (it was stopped) has nothing in flight.
    RailUse others(const std::string& rail, Nanos now);

    void on_ready(uint32_t events) override;  // another one knocks

    static constexpr size_t kMost = 64;  // others; and rails of one

  private:
    struct Page;
    struct Neighbour;
    Status make_page();
    void find_others();
    void meet(UniqueFd fd);
    bool introduce(int fd) const;
    void forget(Neighbour* gone);

    Poller& poller_;
    Id128 me_;
    std::string prefix_, name_;
    UniqueFd listener_, page_fd_, page_read_only_;
    Poller::Token token_ = 0;
    transport::shm::Mapping page_memory_;
    Page* page_ = nullptr;
    std::vector<std::unique_ptr<Neighbour>> all_;
};

}  // namespace tent::engine
