// RDMA devices, their ports and the addresses of those. A rail is an IP address; the port that it is reached
// by is the one with a RoCE v2 GID of that address. Loop token held.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/poller.h"
#include "transport/rdma/library.h"

namespace tent::transport::rdma {

// How an address is written as a GID. False: it is no address.
bool gid_of(const std::string& address, Id128& gid);

// As far as sysfs tells, without the library.
struct GidEntry {
    std::string device;
    uint8_t port = 0, index = 0;
    Id128 gid{};
    std::string type;  // "RoCE v2", "IB/RoCE v1"
};
std::vector<GidEntry> gid_table();

// Whose completion queue has something.
class CompletionHandler {
  public:
    virtual ~CompletionHandler() = default;
    virtual void on_completions() = 0;
};

class Device final : public PollHandler {
  public:
    // `changed`: a port or an address of it came, went or failed.
    Device(Poller& poller, const Library& lib, std::string name, uint32_t domain,
           std::function<void(Device&, const std::string& what, uint8_t port, bool lost)> changed);
    ~Device() override;
    Status open(abi::Device* device);
    const std::string& name() const { return name_; }
    uint32_t domain() const { return domain_; }
    const Library& lib() const { return lib_; }
    abi::Context* context() const { return context_; }
    abi::ProtectionDomain* pd() const { return pd_; }
    abi::CompletionChannel* channel() const { return channel_; }
    abi::CompletionQueue* silent() const { return silent_; }  // of queue pairs that post nothing
    const abi::DeviceAttributes& limits() const { return limits_; }
    void on_ready(uint32_t events) override;  // completions

  private:
    struct Events final : PollHandler {
        explicit Events(Device& d) : device(d) {}
        void on_ready(uint32_t) override { device.on_events(); }
        Device& device;
    };
    void on_events();

    Poller& poller_;
    const Library& lib_;
    std::string name_;
    uint32_t domain_;
    std::function<void(Device&, const std::string&, uint8_t, bool)> changed_;
    abi::Context* context_ = nullptr;
    abi::ProtectionDomain* pd_ = nullptr;
    abi::CompletionChannel* channel_ = nullptr;
    abi::CompletionQueue* silent_ = nullptr;
    abi::DeviceAttributes limits_{};
    Events events_{*this};
    Poller::Token completions_token_ = 0, events_token_ = 0;
};

// A rail's port.
struct Port {
    Device* device = nullptr;
    uint8_t number = 0, gid_index = 0, mtu = 0;
    Id128 gid{};
    uint16_t lid = 0;
    uint32_t max_message = 0;
};

}  // namespace tent::transport::rdma
