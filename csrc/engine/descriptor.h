// How a node is found: its identity and the rails it listens on, as a blob that travels by directory or by
// hand.
#pragma once

#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/status.h"
#include "transport/socket.h"

namespace tent::engine {

struct RailAddress {
    transport::Address address;
    std::string name;
};

struct Descriptor {
    std::string cluster, name, host;
    Id128 incarnation{};
    std::string unix_name;       // abstract unix socket; empty: none
    uint64_t probe_address = 0;  // where the incarnation lies in the node's memory: proves process_vm_readv
    std::vector<RailAddress> rails;
};

Bytes encode(const Descriptor& d);
// Hostile until checked: protocol or version_mismatch.
Result<Descriptor> decode_descriptor(ByteView bytes);

}  // namespace tent::engine
