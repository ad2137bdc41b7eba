#include "proto/answers.h"

#include <doctest/doctest.h>

using namespace tent;
using tent::proto::Answers;

TEST_CASE("a call that was carried out is answered again, word for word") {
    Answers answers;
    CHECK_FALSE(answers.carried_out(1));
    answers.remember(3, Bytes{1, 2, 3});
    answers.remember(7, Status(Code::busy, "later"));
    CHECK(answers.carried_out(3));
    CHECK(answers.carried_out(5));  // numbers rise: it came before 7 or never
    CHECK_FALSE(answers.carried_out(8));
    REQUIRE(answers.find(3) != nullptr);
    CHECK(answers.find(3)->value() == Bytes{1, 2, 3});
    CHECK(answers.find(7)->status().message() == "later");
    CHECK(answers.find(5) == nullptr);
}

TEST_CASE("what is remembered is bounded in number and in bytes") {
    Answers answers;
    for (uint64_t i = 1; i <= Answers::kMost + 1; ++i) answers.remember(i, Bytes{});
    CHECK(answers.find(1) == nullptr);
    CHECK(answers.find(2) != nullptr);
    answers.remember(10'000, Bytes(Answers::kMostBytes - 1));
    answers.remember(10'001, Bytes(2));
    CHECK(answers.find(10'000) == nullptr);
    CHECK(answers.find(10'001) != nullptr);
    answers.remember(10'002, Bytes(2 * Answers::kMostBytes));
    CHECK(answers.find(10'001) == nullptr);
    CHECK(answers.find(10'002) != nullptr);
}
