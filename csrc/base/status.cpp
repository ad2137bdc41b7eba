#include "base/status.h"

#include <array>

namespace tent {
namespace {
constexpr std::array<std::string_view, 30> kNames = {"ok",
                                                     "invalid_argument",
                                                     "out_of_range",
                                                     "unregistered",
                                                     "segment_gone",
                                                     "overlapping",
                                                     "read_only",
                                                     "unsupported",
                                                     "permission_denied",
                                                     "auth_failed",
                                                     "cluster_mismatch",
                                                     "version_mismatch",
                                                     "protocol",
                                                     "peer_unreachable",
                                                     "peer_dead",
                                                     "link_failed",
                                                     "deadline",
                                                     "cancelled",
                                                     "check_failed",
                                                     "no_memory",
                                                     "busy",
                                                     "name_in_use",
                                                     "port_in_use",
                                                     "closed",
                                                     "forked",
                                                     "internal",
                                                     "stale_epoch",
                                                     "stale_incarnation",
                                                     "io_error",
                                                     "no_space"};
}  // namespace

std::string_view code_name(Code code) {
    auto i = static_cast<size_t>(code);
    return i < kNames.size() ? kNames[i] : "internal";
}

Code code_from_wire(uint16_t raw) {
    return raw < kNames.size() ? static_cast<Code>(raw) : Code::internal;
}

}  // namespace tent
