// What an engine has of RDMA: the ports behind its rails, its registered memory, and the threads for what
// takes long. Without a device nothing is loaded and nothing started. Loop token held.
#pragma once

#include <map>

#include "transport/rdma/memory.h"
#include "transport/rdma/queue_pair.h"

namespace tent::transport::rdma {

// The engine's segments, as this transport may use them.
class Regions {
  public:
    virtual ~Regions() = default;
    virtual bool region_at(const uint8_t* address, Region& out) const = 0;
};

class Fabric {
  public:
    // `incarnation` stays where it is: peers read it to prove a queue pair. `changed`: ports came or went.
    Fabric(Poller& poller, const Options& options, const Regions& regions, Id128 incarnation,
           std::function<void()> changed);
    ~Fabric();
    // The rail's port, if it has one now; otherwise `why` says what is missing.
    const Port* port_of(const std::string& address, std::string& why);
    const Port* port_of(const Id128& gid);  // of a rail that was asked for before
    // Ports and addresses are looked up anew.
    void refresh() { ports_.clear(); }
    bool any() const { return !devices_.empty(); }

    // Our incarnation, readable by whoever has a queue pair to this device. Null: not yet.
    const abi::MemoryRegion* proof(Device& device);
    const Regions& regions() const { return regions_; }
    const Options& options() const { return options_; }
    Memory& memory() { return memory_; }
    Worker& connector() { return connector_; }
    // In a forked child: everything belongs to the parent.
    void abandon();
    void stop();  // no thread touches anything any more; before channels and sessions go
    size_t queue_pairs = 0;

  private:
    Status start();
    Device* device(const std::string& name, std::string& why);
    const Port* look_up(const std::string& address, const Id128& gid, std::string& why);

    Poller& poller_;
    Options options_;
    const Regions& regions_;
    alignas(4096) uint8_t proof_[4096] = {};
    std::function<void()> changed_;
    bool started_ = false;
    std::map<std::string, std::unique_ptr<Device>> devices_;
    std::map<std::string, std::string> unusable_;  // devices, and why
    struct Known {
        Id128 gid{};
        bool found = false;
        Port port;
        std::string why;
    };
    std::map<std::string, Known> ports_;         // by address
    std::map<Id128, std::string> addresses_;     // asked for so far, by GID
    std::map<std::string, std::string> logged_;  // what was said of an address
    std::map<uint32_t, abi::MemoryRegion*> proofs_;
    Worker connector_, registrar_;
    Memory memory_;
};

}  // namespace tent::transport::rdma
