// What the engine is told at its start. Filled from tent_core.config (the one schema, with units and
// defaults).
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "sched/sprayer.h"
#include "transport/rdma/queue_pair.h"

namespace tent::transport {
class Decorator;
}

namespace tent::engine {

struct Settings {
    std::string cluster = "default";
    std::string secret;
    std::string name;
    std::string host_identity;
    std::vector<std::string> bind;  // addresses, one rail each; empty: what is found, and comes later
    std::vector<std::string> include, exclude;   // patterns of interface names, for what is found
    std::map<std::string, uint64_t> rail_rates;  // bytes per second, by interface
    std::vector<std::string> advertise;          // what peers are told instead, same order; empty: as bound
    uint16_t port = 0;
    bool share_rails = false;     // with other engines of this host
    bool share_loopback = false;  // that rail, too: for tests
    Nanos deadline = 30 * kSecond;
    Nanos lease = 3 * kSecond;
    Nanos heartbeat = 10 * kMillisecond;
    Nanos idle_heartbeat = kSecond;
    Nanos connect_timeout = 2 * kSecond;
    Nanos spin = 50 * kMicrosecond;
    int copy_threads = 0;
    uint64_t inline_bytes = 256 << 10;
    uint64_t slice_min = 64 << 10;
    uint64_t slice_max = 4 << 20;
    sched::Policy policy = sched::Policy::water;
    uint32_t hedge_percent = 0;  // of the bytes may move early from links that are late
    bool tcp = true, shm = true, pull = true, rdma = true;
    transport::rdma::Options verbs;
    std::string congestion = "cubic";
    int connections = 1;                              // of a pair of rails
    Nanos idle_close = 60 * kSecond;                  // links without work are closed after that
    int max_connections = 0;                          // 0: half of what the process may open
    uint64_t recorder_bytes = 4 << 20;                // of the flight recorder; 0: none
    std::shared_ptr<transport::Decorator> decorator;  // test builds only: stands before every channel
    int sndbuf = 4 << 20, rcvbuf = 4 << 20, notsent_lowat = 256 << 10;
};

}  // namespace tent::engine
