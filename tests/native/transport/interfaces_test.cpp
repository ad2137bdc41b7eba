// What is known of network interfaces.
#include "transport/interfaces.h"

#include <doctest/doctest.h>

#include <algorithm>

using namespace tent::transport;

TEST_CASE("a driver's speed is believed, unless it is software's or none") {
    CHECK(believed_speed(25'000, "mlx5_core") == 3'125'000'000);
    CHECK(believed_speed(100, "e1000e") == 12'500'000);
    CHECK(believed_speed(10'000, "veth") == 0);
    CHECK(believed_speed(10, "tun") == 0);
    CHECK(believed_speed(10'000, "") == 0);
    CHECK(believed_speed(0, "mlx5_core") == 0);
    CHECK(believed_speed(UINT32_MAX, "virtio_net") == 0);
}

TEST_CASE("loopback, and what is no interface, have no speed") {
    CHECK(speed_of("lo") == 0);
    CHECK(speed_of("no-such-device") == 0);
    CHECK(speed_of(std::string(300, 'x')) == 0);
    CHECK(speed_of("") == 0);
    auto all = interfaces();
    CHECK(std::any_of(all.begin(), all.end(), [](const Interface& i) { return i.loopback; }));
}
