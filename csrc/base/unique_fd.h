// A file descriptor with one owner. Every descriptor of the engine lives in one of these: the fork guard
// knows them all, so that a forked child closes its copies and cannot keep a dead parent's sockets open.
#pragma once

#include <utility>

namespace tent {

class UniqueFd {
  public:
    UniqueFd() = default;
    explicit UniqueFd(int fd);
    ~UniqueFd() { reset(); }
    UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    UniqueFd& operator=(UniqueFd&& other) noexcept {
        if (this != &other) {
            reset();
            fd_ = std::exchange(other.fd_, -1);
        }
        return *this;
    }
    UniqueFd(const UniqueFd&) = delete;
    UniqueFd& operator=(const UniqueFd&) = delete;

    int get() const { return fd_; }
    explicit operator bool() const { return fd_ >= 0; }
    void reset();

  private:
    int fd_ = -1;
};

}  // namespace tent
