// Test builds with TENT_TEST_SWITCHES take TENT_PROTECTION_OFF=<name> (base/switches.h): the tests of that
// protection must then fail.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>

#include "base/switches.h"

int main(int argc, char** argv) {
#ifdef TENT_TEST_SWITCHES
    const char* off = std::getenv("TENT_PROTECTION_OFF");
    if (off && *off && !tent::set_protection(off, false)) {
        std::fprintf(stderr, "no protection is called %s\n", off);
        return 2;
    }
#endif
    return doctest::Context(argc, argv).run();
}
