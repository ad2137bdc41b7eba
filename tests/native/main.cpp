// A test build takes TENT_TEST_PROTECTION_OFF=<name> (base/switches.h): the tests of that protection must
// then fail.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
