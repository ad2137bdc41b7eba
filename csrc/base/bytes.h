// Little-endian readers and writers over untrusted bytes. A Reader never reads past its end: it turns bad
// instead, and whoever parses checks `ok()` once at the end.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tent {

using Bytes = std::vector<uint8_t>;
using ByteView = std::span<const uint8_t>;
using Id128 = std::array<uint8_t, 16>;  // incarnation, digest, version id: 128 opaque bits

inline ByteView as_bytes(std::string_view s) {
    return {reinterpret_cast<const uint8_t*>(s.data()), s.size()};
}

class Writer {
  public:
    explicit Writer(Bytes& out) : out_(out) {}
    void u8(uint8_t v) { out_.push_back(v); }
    void u16(uint16_t v) { put(v); }
    void u32(uint32_t v) { put(v); }
    void u64(uint64_t v) { put(v); }
    void raw(ByteView b) { out_.insert(out_.end(), b.begin(), b.end()); }
    void id(const Id128& v) { raw(ByteView(v.data(), v.size())); }
    // u16 length, then the bytes; longer ones are cut (callers check limits before).
    void str(std::string_view s) {
        auto n = static_cast<uint16_t>(s.size() > 0xffff ? 0xffff : s.size());
        u16(n);
        raw(as_bytes(s.substr(0, n)));
    }

  private:
    template <class T>
    void put(T v) {
        for (size_t i = 0; i < sizeof(T); ++i) out_.push_back(static_cast<uint8_t>(v >> (8 * i)));
    }
    Bytes& out_;
};

class Reader {
  public:
    explicit Reader(ByteView in) : in_(in) {}
    uint8_t u8() { return get<uint8_t>(); }
    uint16_t u16() { return get<uint16_t>(); }
    uint32_t u32() { return get<uint32_t>(); }
    uint64_t u64() { return get<uint64_t>(); }
    ByteView raw(size_t n) {
        if (n > in_.size()) {
            fail();
            return {};
        }
        ByteView r = in_.first(n);
        in_ = in_.subspan(n);
        return r;
    }
    Id128 id() {
        Id128 v{};
        ByteView b = raw(v.size());
        if (!b.empty()) std::memcpy(v.data(), b.data(), v.size());
        return v;
    }
    std::string str(size_t max) {
        size_t n = u16();
        if (n > max) {
            fail();
            return {};
        }
        ByteView b = raw(n);
        return {reinterpret_cast<const char*>(b.data()), b.size()};
    }
    size_t left() const { return in_.size(); }
    bool ok() const { return ok_; }
    // True if everything was read and nothing is left over.
    bool done() const { return ok_ && in_.empty(); }
    void fail() {
        ok_ = false;
        in_ = {};
    }

  private:
    template <class T>
    T get() {
        if (in_.size() < sizeof(T)) {
            fail();
            return 0;
        }
        T v = 0;
        for (size_t i = 0; i < sizeof(T); ++i) v = static_cast<T>(v | (static_cast<T>(in_[i]) << (8 * i)));
        in_ = in_.subspan(sizeof(T));
        return v;
    }
    ByteView in_;
    bool ok_ = true;
};

}  // namespace tent
