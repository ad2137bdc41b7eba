// The network interfaces of this host, and news of them from the kernel.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/poller.h"
#include "base/status.h"
#include "base/unique_fd.h"

namespace tent::transport {

// One address of an interface that is up.
struct Interface {
    std::string name, address;
    bool loopback = false;
    bool carrier = false;  // it has a link partner
};
// What a device's driver says of its speed, in Mbit/s, as bytes a second; 0: unknown, or not to be believed,
// as with software devices, which say anything.
uint64_t believed_speed(uint32_t mbits, std::string_view driver);
// The same, asked of the kernel (ethtool).
uint64_t speed_of(const std::string& interface);
// No link-local addresses: they need a zone, and zones are ours alone.
std::vector<Interface> interfaces();

// Calls back when links, carriers or addresses of interfaces change (rtnetlink). What has changed is asked of
// interfaces(): news may be lost or come in twice. Loop token held.
class InterfaceWatch final : public PollHandler {
  public:
    InterfaceWatch(Poller& poller, std::function<void()> changed)
        : poller_(poller), changed_(std::move(changed)) {}
    ~InterfaceWatch() override;
    // unsupported: this kernel or sandbox gives no such socket. Links then end by silence alone.
    Status open();
    void on_ready(uint32_t events) override;

  private:
    Poller& poller_;
    std::function<void()> changed_;
    UniqueFd fd_;
    Poller::Token token_ = 0;
};

}  // namespace tent::transport
