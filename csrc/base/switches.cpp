#include "base/switches.h"

#ifdef TENT_TEST_SWITCHES
#include <array>
#include <atomic>
#include <string_view>

namespace tent {
namespace {
constexpr std::array<std::string_view, static_cast<size_t>(Protection::count)> kNames = {
    "fence", "lease", "epoch", "check", "grant", "commit", "incarnation", "generation", "token", "bounds"};
std::array<std::atomic<bool>, static_cast<size_t>(Protection::count)> g_off{};
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
