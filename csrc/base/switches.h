// The protections that a test build can switch off, one at a time, to prove that their tests notice. In a
// release build (TENT_TEST_SWITCHES undefined) every one is the constant true and no switch exists.
#pragma once

#include <cstdint>

namespace tent {

enum class Protection : uint8_t {
    fence,
    lease,
    epoch,
    check,
    grant,
    commit,
    incarnation,
    generation,
    token,
    bounds,
    reroute,
    account,
    drain,
    quarantine,
    hold,
    join,
    warming,
    offer,
    count
};

#ifdef TENT_TEST_SWITCHES
bool protection_on(Protection p);
// Returns false when the name is unknown.
bool set_protection(const char* name, bool on);
#else
constexpr bool protection_on(Protection) {
    return true;
}
#endif

}  // namespace tent
