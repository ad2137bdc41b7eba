#include "transport/interfaces.h"

#include <errno.h>
#include <ifaddrs.h>
#include <linux/ethtool.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cstring>

namespace tent::transport {

std::vector<Interface> interfaces() {
    std::vector<Interface> found;
    ifaddrs* all = nullptr;
    if (getifaddrs(&all) != 0) return found;
    for (ifaddrs* i = all; i != nullptr; i = i->ifa_next) {
        if (i->ifa_addr == nullptr || (i->ifa_flags & IFF_UP) == 0) continue;
        int family = i->ifa_addr->sa_family;
        if (family != AF_INET && family != AF_INET6) continue;
        std::string name = i->ifa_name;
        name = name.substr(0, name.find(':'));  // an alias is the same device
        char host[NI_MAXHOST];
        socklen_t size = family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
        if (getnameinfo(i->ifa_addr, size, host, sizeof host, nullptr, 0, NI_NUMERICHOST) != 0) continue;
        if (std::strncmp(host, "fe80", 4) == 0) continue;  // link-local: not routable, scope is ours alone
        found.push_back({name, host, (i->ifa_flags & IFF_LOOPBACK) != 0, (i->ifa_flags & IFF_RUNNING) != 0});
    }
    freeifaddrs(all);
    return found;
}

uint64_t believed_speed(uint32_t mbits, std::string_view driver) {
    constexpr uint32_t kMost = 10'000'000;  // 10 Tbit/s; "unknown" is said as a larger number
    for (std::string_view software : {"", "veth", "tun", "bridge", "dummy", "macvlan", "ipvlan", "vxlan"}) {
        if (driver == software) return 0;
    }
    return mbits == 0 || mbits > kMost ? 0 : uint64_t{mbits} * 125'000;
}

uint64_t speed_of(const std::string& interface) {
    UniqueFd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ifreq request{};
    if (!fd || interface.size() >= sizeof request.ifr_name) return 0;
    std::memcpy(request.ifr_name, interface.data(), interface.size());
    ethtool_drvinfo driver{};
    driver.cmd = ETHTOOL_GDRVINFO;
    request.ifr_data = reinterpret_cast<char*>(&driver);
    if (ioctl(fd.get(), SIOCETHTOOL, &request) != 0) return 0;
    ethtool_cmd link{};
    link.cmd = ETHTOOL_GSET;
    request.ifr_data = reinterpret_cast<char*>(&link);
    if (ioctl(fd.get(), SIOCETHTOOL, &request) != 0) return 0;
    return believed_speed(ethtool_cmd_speed(&link),
                          {driver.driver, strnlen(driver.driver, sizeof driver.driver)});
}

InterfaceWatch::~InterfaceWatch() {
    if (token_ != 0) poller_.remove(token_, fd_.get());
}

Status InterfaceWatch::open() {
    fd_ = UniqueFd(socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_ROUTE));
    sockaddr_nl a{};
    a.nl_family = AF_NETLINK;
    a.nl_groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR;
    if (!fd_ || bind(fd_.get(), reinterpret_cast<sockaddr*>(&a), sizeof a) != 0) {
        return {Code::unsupported, std::string("the kernel gives no news of interfaces: ") + strerror(errno)};
    }
    token_ = poller_.add(fd_.get(), EPOLLIN, this);
    return Status::good();
}

void InterfaceWatch::on_ready(uint32_t) {
    char buffer[8192];
    bool any = false;
    for (;;) {
        ssize_t n = recv(fd_.get(), buffer, sizeof buffer, MSG_DONTWAIT);
        bool lost = n < 0 && errno == ENOBUFS;  // news was lost, which is news as well
        if (n <= 0 && !lost) break;
        any = true;
    }
    if (any) changed_();
}

}  // namespace tent::transport
