#include "base/random.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/random.h>
#include <unistd.h>

namespace tent {
namespace {

bool read_urandom(uint8_t* out, size_t size) {
    int fd = ::open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    while (size > 0) {
        ssize_t n = ::read(fd, out, size);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        out += n;
        size -= static_cast<size_t>(n);
    }
    ::close(fd);
    return size == 0;
}

}  // namespace

bool random_bytes(void* out, size_t size) {
    auto* p = static_cast<uint8_t*>(out);
    while (size > 0) {
        ssize_t n = ::getrandom(p, size, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return read_urandom(p, size);  // ENOSYS, or a seccomp filter
        p += n;
        size -= static_cast<size_t>(n);
    }
    return true;
}

bool random_id(Id128& out) {
    do {
        if (!random_bytes(out.data(), out.size())) return false;
    } while (out == Id128{});
    return true;
}

}  // namespace tent
