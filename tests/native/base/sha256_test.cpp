#include <doctest/doctest.h>

#include <algorithm>
#include <string>

#include "base/digest.h"
#include "base/random.h"

using namespace tent;

namespace {

std::string hex(ByteView b) {
    static const char* digits = "0123456789abcdef";
    std::string s;
    for (uint8_t v : b) {
        s += digits[v >> 4];
        s += digits[v & 15];
    }
    return s;
}

std::string sha(std::string_view s) {
    return hex(sha256(as_bytes(s)));
}

std::string hmac(ByteView key, std::string_view data) {
    return hex(hmac_sha256(key, as_bytes(data)));
}

}  // namespace

TEST_CASE("sha256 of FIPS 180-4's examples") {
    CHECK(sha("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    CHECK(sha("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    CHECK(sha("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
          "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    CHECK(sha(std::string(1000000, 'a')) ==
          "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_CASE("sha256 around the padding's edges") {  // values: Python's hashlib
    CHECK(sha(std::string(55, 'a')) == "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318");
    CHECK(sha(std::string(56, 'a')) == "b35439a4ac6f0948b6d6f9e3c6af0f5f590ce20f1bde7090ef7970686ec6738a");
    CHECK(sha(std::string(63, 'a')) == "7d3e74a05d7db15bce4ad9ec0658ea98e3f06eeecf16b4c6fff2da457ddc2f34");
    CHECK(sha(std::string(64, 'a')) == "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb");
}

TEST_CASE("hmac_sha256 of RFC 4231's test cases") {
    CHECK(hmac(Bytes(20, 0x0b), "Hi There") ==
          "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    CHECK(hmac(as_bytes("Jefe"), "what do ya want for nothing?") ==
          "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    CHECK(hmac(Bytes(20, 0xaa), std::string(50, '\xdd')) ==
          "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe");
    Bytes counting;
    for (uint8_t i = 1; i <= 25; ++i) counting.push_back(i);
    CHECK(hmac(counting, std::string(50, '\xcd')) ==
          "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b");
    CHECK(hmac(Bytes(131, 0xaa), "Test Using Larger Than Block-Size Key - Hash Key First") ==
          "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
    CHECK(hmac(Bytes(131, 0xaa),
               "This is a test using a larger than block-size key and a larger than block-size data. The key "
               "needs to be hashed before being used by the HMAC algorithm.") ==
          "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2");
    CHECK(hmac({}, "") == "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad");
}

TEST_CASE("constant_time_equal compares contents and sizes") {
    Bytes a = {1, 2, 3}, b = {1, 2, 4}, c = {1, 2};
    CHECK(constant_time_equal(a, a));
    CHECK_FALSE(constant_time_equal(a, b));
    CHECK_FALSE(constant_time_equal(a, c));
    CHECK(constant_time_equal({}, {}));
}

TEST_CASE("random ids differ and are never zero") {
    Id128 a{}, b{};
    REQUIRE(random_id(a));
    REQUIRE(random_id(b));
    CHECK(a != b);
    CHECK(a != Id128{});
    Bytes many(1000, 0);
    REQUIRE(random_bytes(many.data(), many.size()));
    size_t zeros = static_cast<size_t>(std::count(many.begin(), many.end(), 0));
    CHECK(zeros < 100);  // 1000 random bytes have about four
    REQUIRE(random_bytes(nullptr, 0));
}
