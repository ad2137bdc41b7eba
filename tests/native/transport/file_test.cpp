// Real files, both ways to use them.
#include "transport/file/file.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

using namespace tent;
using namespace tent::transport::file;

namespace {

struct Folder {
    Folder() {
        char name[] = "/tmp/tent-file-XXXXXX";
        REQUIRE(mkdtemp(name) != nullptr);
        path = name;
    }
    ~Folder() {
        unlink((path + "/f").c_str());
        rmdir(path.c_str());
    }
    std::string path;
};

struct Room {
    explicit Room(size_t n) : bytes(n) {
        at = static_cast<uint8_t*>(
            mmap(nullptr, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    }
    ~Room() { munmap(at, bytes); }
    uint8_t* at;
    size_t bytes;
};

std::vector<Backend> backends() {
    Folder folder;
    bool ring = File::open(folder.path + "/f", Backend::uring).ok();
    return ring ? std::vector{Backend::uring, Backend::threads} : std::vector{Backend::threads};
}

Status one(File& file, BlockKind kind, uint64_t offset, Room& room) {
    return file.wait_for({kind, offset, room.at, room.bytes, {}});
}

}  // namespace

TEST_CASE("file: what was written is read") {
    for (Backend backend : backends()) {
        Folder folder;
        auto file = *File::open(folder.path + "/f", backend);
        REQUIRE(file->resize(1 << 20).ok());
        Room out(64 << 10), in(64 << 10);
        for (size_t i = 0; i < out.bytes; ++i) out.at[i] = static_cast<uint8_t>(i * 7 + i / 256);
        CHECK(one(*file, BlockKind::write, 128 << 10, out).ok());
        CHECK(file->wait_for({BlockKind::sync, 0, nullptr, 0, {}}).ok());
        CHECK(one(*file, BlockKind::read, 128 << 10, in).ok());
        CHECK(std::memcmp(in.at, out.at, in.bytes) == 0);
    }
}

TEST_CASE("file: more operations than there is room for in the kernel's ring all end, once") {
    for (Backend backend : backends()) {
        Folder folder;
        auto file = *File::open(folder.path + "/f", backend);
        REQUIRE(file->resize(4 << 20).ok());
        constexpr size_t kOps = 500;
        Room room(kOps * kBlock);
        std::atomic<size_t> ended{0}, good{0};
        for (size_t i = 0; i < kOps; ++i) {
            file->submit({i % 2 == 0 ? BlockKind::write : BlockKind::read, i * kBlock, room.at + i * kBlock,
                          kBlock, [&](const Status& s) {
                              good += s.ok();
                              ++ended;
                          }});
        }
        file->close();
        CHECK(ended == kOps);
        CHECK(good == kOps);
        Room late(kBlock);
        CHECK(one(*file, BlockKind::read, 0, late).code() == Code::closed);
    }
}

TEST_CASE("file: beyond its end there is nothing, and that is an error") {
    for (Backend backend : backends()) {
        Folder folder;
        auto file = *File::open(folder.path + "/f", backend);
        REQUIRE(file->resize(kBlock).ok());
        Room in(2 * kBlock);
        Status s = one(*file, BlockKind::read, 0, in);
        CHECK(s.code() == Code::io_error);
        CHECK(s.message().find("4096 of 8192") != std::string::npos);
        CHECK(one(*file, BlockKind::read, 1 << 20, in).code() == Code::io_error);
    }
}

TEST_CASE("file: the kernel's errors keep their kind") {
    // Real ones: memory that is not there cannot be read, and that device is always full.
    for (bool ring : {true, false}) {
        int mem = open("/proc/self/mem", O_RDONLY | O_CLOEXEC),
            full = open("/dev/full", O_WRONLY | O_CLOEXEC);
        REQUIRE(mem >= 0);
        REQUIRE(full >= 0);
        auto bad = ring ? run_by_uring(mem) : run_by_threads(mem);
        auto no_room = ring ? run_by_uring(full) : run_by_threads(full);
        close(mem);
        close(full);
        if (bad == nullptr || no_room == nullptr) continue;  // no io_uring here
        Room room(kBlock);
        Code read = Code::ok, write = Code::ok;
        bad->submit({BlockKind::read, 0, room.at, kBlock, [&](const Status& s) { read = s.code(); }});
        no_room->submit({BlockKind::write, 0, room.at, kBlock, [&](const Status& s) { write = s.code(); }});
        bad->close();
        no_room->close();
        CHECK(read == Code::io_error);
        CHECK(write == Code::no_space);
    }
}

TEST_CASE("file: one process at a time") {
    Folder folder;
    auto file = File::open(folder.path + "/f", Backend::threads);
    REQUIRE(file.ok());
    auto second = File::open(folder.path + "/f", Backend::threads);
    CHECK(second.status().code() == Code::name_in_use);
    CHECK(second.status().message().find(folder.path) != std::string::npos);
    (*file).reset();
    CHECK(File::open(folder.path + "/f", Backend::threads).ok());
}

TEST_CASE("file: more room than the disk has is said so, and the file is as it was") {
    Folder folder;
    auto file = *File::open(folder.path + "/f", Backend::threads);
    REQUIRE(file->resize(kBlock).ok());
    CHECK(file->resize(1ull << 50).code() == Code::no_space);
    CHECK(file->bytes() == kBlock);
}

TEST_CASE("file: a folder that is not there, a file that is none") {
    CHECK(File::open("/nowhere/at/all", Backend::threads).status().code() == Code::io_error);
    CHECK_FALSE(File::open("/dev/full", Backend::threads).ok());
}
