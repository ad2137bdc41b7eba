// Connections that a listener accepts have its options: an owner answers over them.
#include "transport/socket.h"

#include <doctest/doctest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <string>

using namespace tent;
using namespace tent::transport;

namespace {

int number(const UniqueFd& fd, int level, int name) {
    int value = 0;
    socklen_t size = sizeof value;
    REQUIRE(getsockopt(fd.get(), level, name, &value, &size) == 0);
    return value;
}

std::string congestion(const UniqueFd& fd) {
    char name[32] = {};
    socklen_t size = sizeof name - 1;
    REQUIRE(getsockopt(fd.get(), IPPROTO_TCP, TCP_CONGESTION, name, &size) == 0);
    return name;
}

}  // namespace

TEST_CASE("both ends of a connection have the options that were asked for") {
    // None of them is a default.
    SocketOptions options;
    options.congestion = "reno";
    options.sndbuf = 96 << 10;
    options.rcvbuf = 80 << 10;
    options.notsent_lowat = 24 << 10;
    Address here{"127.0.0.1", 0};
    auto listener = listen_tcp(here, options, here.port);
    REQUIRE_MESSAGE(listener.ok(), listener.status().text());
    auto dialled = dial_tcp(here, {}, options);
    REQUIRE_MESSAGE(dialled.ok(), dialled.status().text());
    pollfd waiting{listener->get(), POLLIN, 0};
    REQUIRE(poll(&waiting, 1, 20'000) == 1);
    UniqueFd accepted = accept_one(listener->get());
    REQUIRE(bool(accepted));
    for (const UniqueFd* end : {&dialled->fd, &accepted}) {
        CHECK(congestion(*end) == options.congestion);
        CHECK(number(*end, SOL_SOCKET, SO_SNDBUF) == 2 * options.sndbuf);  // the kernel counts its own share
        CHECK(number(*end, SOL_SOCKET, SO_RCVBUF) == 2 * options.rcvbuf);
        CHECK(number(*end, IPPROTO_TCP, TCP_NOTSENT_LOWAT) == options.notsent_lowat);
        CHECK(number(*end, IPPROTO_TCP, TCP_NODELAY) == 1);
    }
}
