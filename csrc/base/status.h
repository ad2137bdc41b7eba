// Status: the result of anything that can go wrong. A stable code and a message that names the thing and the
// fix. Codes cross the wire and the Python edge (bindings map them to exceptions by name): append, never
// renumber.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace tent {

enum class Code : uint16_t {
    ok = 0,
    invalid_argument = 1,
    out_of_range = 2,
    unregistered = 3,
    segment_gone = 4,
    overlapping = 5,
    read_only = 6,
    unsupported = 7,
    permission_denied = 8,
    auth_failed = 9,
    cluster_mismatch = 10,
    version_mismatch = 11,
    protocol = 12,
    peer_unreachable = 13,
    peer_dead = 14,
    link_failed = 15,
    deadline = 16,
    cancelled = 17,
    check_failed = 18,
    no_memory = 19,
    busy = 20,
    name_in_use = 21,
    port_in_use = 22,
    closed = 23,
    forked = 24,
    internal = 25,
    stale_epoch = 26,
    stale_incarnation = 27,
    io_error = 28,
    no_space = 29,
};

// The code's stable name, e.g. "out_of_range".
std::string_view code_name(Code code);
// A code received from a peer: anything unknown becomes `internal`.
Code code_from_wire(uint16_t raw);

class [[nodiscard]] Status {
  public:
    Status() = default;
    Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}
    static Status good() { return {}; }

    bool ok() const { return code_ == Code::ok; }
    explicit operator bool() const { return ok(); }
    Code code() const { return code_; }
    const std::string& message() const { return message_; }
    std::string text() const { return std::string(code_name(code_)) + ": " + message_; }

  private:
    Code code_ = Code::ok;
    std::string message_;
};

// A value or the Status that says why there is none.
template <class T>
class [[nodiscard]] Result {
  public:
    Result(T value) : value_(std::move(value)) {}
    Result(Status status) : status_(std::move(status)) {}
    Result(Code code, std::string message) : status_(code, std::move(message)) {}

    bool ok() const { return value_.has_value(); }
    explicit operator bool() const { return ok(); }
    T& value() { return *value_; }
    const T& value() const { return *value_; }
    T& operator*() { return *value_; }
    T* operator->() { return &*value_; }
    const Status& status() const { return status_; }

  private:
    std::optional<T> value_;
    Status status_;
};

}  // namespace tent
