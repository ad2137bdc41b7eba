#include "base/switches.h"

#ifdef TENT_TEST_SWITCHES
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace tent {
namespace {
// In the enumeration's order.
constexpr std::array<std::string_view, static_cast<size_t>(Protection::count)> kNames = {
    "fence",  "lease",   "epoch",   "check", "grant",      "commit", "incarnation", "generation", "token",
    "bounds", "reroute", "account", "drain", "quarantine", "hold",   "join",        "warming",    "offer"};
static_assert(!kNames.back().empty(), "a protection without a name");
std::array<std::atomic<bool>, static_cast<size_t>(Protection::count)> g_off{};

// TENT_TEST_PROTECTION_OFF=name turns one protection off from the start: in native tests, in Python, and in
// every process that a test starts. A name that does not exist must not look like a protection that nothing
// needs.
const bool g_from_environment = [] {
    const char* name = std::getenv("TENT_TEST_PROTECTION_OFF");
    if (name != nullptr && *name != '\0' && !set_protection(name, false)) {
        std::fprintf(stderr, "TENT_TEST_PROTECTION_OFF: no protection is called '%s'\n", name);
        std::_Exit(70);
    }
    return true;
}();
}  // namespace

bool protection_on(Protection p) {
    return !g_off[static_cast<size_t>(p)].load(std::memory_order_relaxed);
}

bool set_protection(const char* name, bool on) {
    for (size_t i = 0; i < kNames.size(); ++i) {
        if (kNames[i] == name) {
            g_off[i].store(!on);
            return true;
        }
    }
    return false;
}

}  // namespace tent
#endif
