#include "transport/rdma/device.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "base/fork_guard.h"
#include "base/log.h"

namespace tent::transport::rdma {
namespace {

constexpr const char* kClass = "/sys/class/infiniband";
constexpr int kSilentEntries = 16;

std::vector<std::string> names_in(const std::string& folder) {
    std::vector<std::string> names;
    DIR* d = opendir(folder.c_str());
    if (d == nullptr) return names;
    while (const dirent* e = readdir(d)) {
        if (e->d_name[0] != '.') names.emplace_back(e->d_name);
    }
    closedir(d);
    std::sort(names.begin(), names.end());
    return names;
}

std::string line_of(const std::string& file) {
    std::ifstream in(file);
    std::string line;
    std::getline(in, line);
    return line;
}

void unblock(int fd) {
    int flags = fcntl(fd, F_GETFL);
    if (flags >= 0) fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

}  // namespace

bool gid_of(const std::string& address, Id128& gid) {
    in_addr four{};
    if (inet_pton(AF_INET, address.c_str(), &four) == 1) {
        gid = {};
        gid[10] = gid[11] = 0xff;
        std::memcpy(gid.data() + 12, &four, 4);
        return true;
    }
    return inet_pton(AF_INET6, address.substr(0, address.find('%')).c_str(), gid.data()) == 1;
}

std::vector<GidEntry> gid_table() {
    std::vector<GidEntry> all;
    for (const std::string& device : names_in(kClass)) {
        std::string ports = std::string(kClass) + "/" + device + "/ports";
        for (const std::string& port : names_in(ports)) {
            std::string at = ports + "/" + port;
            for (const std::string& index : names_in(at + "/gids")) {
                GidEntry e;
                e.device = device;
                e.port = static_cast<uint8_t>(std::atoi(port.c_str()));
                e.index = static_cast<uint8_t>(std::atoi(index.c_str()));
                if (!gid_of(line_of(at + "/gids/" + index), e.gid) || e.gid == Id128{}) continue;
                e.type = line_of(at + "/gid_attrs/types/" + index);
                all.push_back(std::move(e));
            }
        }
    }
    return all;
}

Device::Device(Poller& poller, const Library& lib, std::string name, uint32_t domain,
               std::function<void(Device&, const std::string&, uint8_t, bool)> changed)
    : poller_(poller), lib_(lib), name_(std::move(name)), domain_(domain), changed_(std::move(changed)) {}

Device::~Device() {
    if (completions_token_ != 0) poller_.remove(completions_token_, channel_->fd);
    if (events_token_ != 0) poller_.remove(events_token_, context_->async_fd);
    if (silent_ != nullptr) lib_.destroy_cq(silent_);
    if (channel_ != nullptr) unguard_fd(channel_->fd);
    if (channel_ != nullptr) lib_.destroy_comp_channel(channel_);
    if (pd_ != nullptr) lib_.dealloc_pd(pd_);
    if (context_ == nullptr) return;
    unguard_fd(context_->async_fd);
    unguard_fd(context_->command_fd);
    lib_.close_device(context_);
}

Status Device::open(abi::Device* device) {
    auto failed = [&](const char* what) {
        return Status(Code::io_error, "RDMA device " + name_ + ": " + what + ": " + std::strerror(errno));
    };
    context_ = lib_.open_device(device);
    if (context_ == nullptr) return failed("cannot be opened (is /dev/infiniband there, and readable?)");
    // A forked child that kept them would keep our queue pairs alive when we are gone.
    guard_fd(context_->command_fd);
    guard_fd(context_->async_fd);
    if (lib_.query_device(context_, &limits_) != 0) return failed("does not answer");
    pd_ = lib_.alloc_pd(context_);
    if (pd_ == nullptr) return failed("no protection domain");
    channel_ = lib_.create_comp_channel(context_);
    if (channel_ == nullptr) return failed("no completion channel");
    guard_fd(channel_->fd);
    silent_ = lib_.create_cq(context_, kSilentEntries, nullptr, nullptr, 0);
    if (silent_ == nullptr) return failed("no completion queue");
    unblock(channel_->fd);
    unblock(context_->async_fd);
    completions_token_ = poller_.add(channel_->fd, EPOLLIN, this);
    events_token_ = poller_.add(context_->async_fd, EPOLLIN, &events_);
    return Status::good();
}

void Device::on_ready(uint32_t) {
    abi::CompletionQueue* cq = nullptr;
    void* handler = nullptr;
    while (lib_.get_cq_event(channel_, &cq, &handler) == 0) {
        lib_.ack_cq_events(cq, 1);
        static_cast<CompletionHandler*>(handler)->on_completions();
    }
}

void Device::on_events() {
    abi::AsyncEvent event{};
    while (lib_.get_async_event(context_, &event) == 0) {
        int type = event.type;
        bool of_port = type >= abi::kPortActiveEvent && type <= abi::kGidChange;
        auto port = static_cast<uint8_t>(of_port ? event.element.port : 0);
        lib_.ack_async_event(&event);
        switch (type) {
            case abi::kPortError:
                changed_(*this, "its port " + std::to_string(port) + " is down", port, true);
                break;
            case abi::kDeviceFatal:
                changed_(*this, "it has failed for good", 0, true);
                break;
            case abi::kPortActiveEvent:
                changed_(*this, "its port " + std::to_string(port) + " is up", port, false);
                break;
            case abi::kGidChange:
            case abi::kLidChange:
            case abi::kPkeyChange:
                changed_(*this, "the addresses of its port " + std::to_string(port) + " have changed", port,
                         false);
                break;
            default:
                log(LogLevel::debug, "RDMA device " + name_ + ": event " + std::to_string(type));
        }
    }
}

}  // namespace tent::transport::rdma
