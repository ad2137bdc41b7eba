#include "transport/shm/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>
#include <thread>

#include "base/fork_guard.h"

namespace tent::transport::shm {
namespace {

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

bool read_number(const std::string& path, uint64_t& value) {
    std::ifstream f(path);
    std::string word;
    if (!(f >> word) || word == "max") return false;
    char* end = nullptr;
    value = strtoull(word.c_str(), &end, 10);
    return end != word.c_str();
}

// The files of a memory controller: cgroup v2's, and v1's, which some hosts still mount.
struct Controller {
    const char *root, *limit, *used, *idle;
};
constexpr Controller kV2{"/sys/fs/cgroup", "/memory.max", "/memory.current", "inactive_file"};
constexpr Controller kV1{"/sys/fs/cgroup/memory", "/memory.limit_in_bytes", "/memory.usage_in_bytes",
                         "total_inactive_file"};

// Of memory.stat: what the kernel gives up first, so that it does not count as used.
uint64_t reclaimable(const std::string& dir, const char* name) {
    std::ifstream f(dir + "/memory.stat");
    std::string key;
    for (uint64_t value = 0; f >> key >> value;) {
        if (key == name) return value;
    }
    return 0;
}

// Walks from our cgroup to the root: every limit on the way counts.
void cgroup_limits(const Controller& c, std::string path, uint64_t& least, std::string& what) {
    for (; !path.empty(); path = path.substr(0, path.rfind('/'))) {
        std::string dir = c.root + (path == "/" ? "" : path);
        uint64_t limit = 0, used = 0;
        if (read_number(dir + c.limit, limit) && read_number(dir + c.used, used)) {
            used -= std::min(used, reclaimable(dir, c.idle));
            uint64_t room = limit > used ? limit - used : 0;
            if (room < least) {
                least = room;
                what = "the memory limit of cgroup " + path;
            }
        }
        if (path == "/") break;
    }
}

void cgroup_limits(uint64_t& least, std::string& what) {
    std::ifstream f("/proc/self/cgroup");
    for (std::string line; std::getline(f, line);) {
        size_t first = line.find(':'), second = line.find(':', first + 1);
        if (second == std::string::npos) continue;
        std::string controllers(1, ',');
        controllers.append(line, first + 1, second - first - 1).push_back(',');
        std::string path = line.substr(second + 1);
        if (controllers == ",,") {
            cgroup_limits(kV2, path, least, what);
        } else if (controllers.find(",memory,") != std::string::npos) {
            cgroup_limits(kV1, path, least, what);
        }
    }
}

}  // namespace

Mapping::Mapping(Mapping&& o) noexcept : address_(std::exchange(o.address_, nullptr)), bytes_(o.bytes_) {}

Mapping& Mapping::operator=(Mapping&& o) noexcept {
    if (this != &o) {
        reset();
        address_ = std::exchange(o.address_, nullptr);
        bytes_ = o.bytes_;
    }
    return *this;
}

void Mapping::reset() {
    if (address_ != nullptr) munmap(address_, bytes_);
    address_ = nullptr;
}

uint64_t available_memory(std::string& what) {
    uint64_t least = UINT64_MAX;
    std::ifstream f("/proc/meminfo");
    std::string line;
    while (std::getline(f, line)) {
        if (!line.starts_with("MemAvailable:")) continue;
        std::istringstream in(line.substr(13));
        in >> least;
        least *= 1024;
        what = "the host's available memory";
    }
    cgroup_limits(least, what);
    return least;
}

Result<UniqueFd> make_memfd(const char* name, uint64_t bytes) {
    UniqueFd fd(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!fd) return {Code::no_memory, std::string("memfd_create failed: ") + strerror(errno)};
    if (ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0 ||
        fallocate(fd.get(), 0, 0, static_cast<off_t>(bytes)) != 0) {
        return {Code::no_memory, "cannot allocate " + std::to_string(bytes) + " bytes of shared memory: " +
                                     strerror(errno) + ": lower store.capacity or raise the memory limit"};
    }
    if (fcntl(fd.get(), F_ADD_SEALS, kSeals) != 0) {
        return {Code::internal, std::string("cannot seal a memfd: ") + strerror(errno)};
    }
    return fd;
}

Result<Mapping> map_own(const UniqueFd& fd, uint64_t bytes, bool writable) {
    void* p = mmap(nullptr, bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd.get(), 0);
    if (p == MAP_FAILED)
        return {Code::no_memory, std::string("cannot map shared memory: ") + strerror(errno)};
    madvise(p, bytes, MADV_DONTFORK);
    return Mapping(static_cast<uint8_t*>(p), bytes);
}

Result<Mapping> map_foreign(const UniqueFd& fd, uint64_t bytes, bool writable) {
    struct stat st {};
    if (!fd || fstat(fd.get(), &st) != 0 || static_cast<uint64_t>(st.st_size) < bytes) {
        return {Code::protocol, "the peer sent a descriptor that is smaller than it said"};
    }
    int seals = fcntl(fd.get(), F_GET_SEALS);
    if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) {
        return {Code::protocol, "the peer sent a descriptor that is not sealed against shrinking"};
    }
    return map_own(fd, bytes, writable);
}

Result<UniqueFd> read_only(const UniqueFd& fd) {
    UniqueFd ro(open(("/proc/self/fd/" + std::to_string(fd.get())).c_str(), O_RDONLY | O_CLOEXEC));
    if (!ro) return {Code::internal, std::string("cannot reopen a memfd read-only: ") + strerror(errno)};
    return ro;
}

Result<ExtentMemory> allocate_extents(uint64_t bytes, uint64_t extent_bytes) {
    std::string what;
    uint64_t room = available_memory(what);
    if (bytes > room) {
        return {Code::no_memory, std::to_string(bytes >> 20) + " MiB were asked for, but " + what +
                                     " leaves " + std::to_string(room >> 20) +
                                     " MiB: lower store.capacity or raise the limit"};
    }
    void* base = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return {Code::no_memory, std::string("cannot reserve addresses: ") + strerror(errno)};
    ExtentMemory memory;
    memory.range = Mapping(static_cast<uint8_t*>(base), bytes);
    memory.extent_bytes = extent_bytes;
    for (uint64_t at = 0; at < bytes; at += extent_bytes) {
        uint64_t n = std::min(extent_bytes, bytes - at);
        Result<UniqueFd> fd = make_memfd("tent-extent", n);
        if (!fd.ok()) return fd.status();
        uint8_t* where = memory.range.address() + at;
        if (mmap(where, n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd->get(), 0) == MAP_FAILED) {
            return {Code::no_memory, std::string("cannot map shared memory: ") + strerror(errno)};
        }
        madvise(where, n, MADV_DONTFORK);
        madvise(where, n, MADV_HUGEPAGE);
        memory.extents.push_back(std::move(*fd));
    }
    return memory;
}

uint32_t HazardPage::acquire(uint32_t segment) {
    static thread_local uint32_t hint =
        static_cast<uint32_t>(std::hash<std::thread::id>{}(std::this_thread::get_id()));
    for (uint32_t i = hint % kSlots;; i = (i + 1) % kSlots) {
        uint32_t free = 0;
        if (inside[i].compare_exchange_strong(free, segment + 1, std::memory_order_seq_cst)) {
            hint = i;
            return i;
        }
    }
}

bool HazardPage::holds(uint32_t segment) const {
    for (const auto& slot : inside) {
        if (slot.load(std::memory_order_seq_cst) == segment + 1) return true;
    }
    return false;
}

}  // namespace tent::transport::shm
