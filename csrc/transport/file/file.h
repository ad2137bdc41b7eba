// A file of this host that bytes are read from and written to beside everybody else's work: O_DIRECT where
// the file system has it; io_uring by raw system calls where the kernel lets us, otherwise a few threads.
//
// The file is locked for this process for as long as it is open. Thread-safe. Operations that a stuck disk
// never ends do not keep close() for longer than kCloseWait: their thread is then left behind, with all that
// it needs.
#pragma once

#include <memory>
#include <string>

#include "base/block_io.h"
#include "base/clock.h"
#include "base/unique_fd.h"

namespace tent::transport::file {

constexpr Nanos kCloseWait = 5 * kSecond;

enum class Backend : uint8_t { automatic, uring, threads };

// What carries the operations out: a ring or a few threads. Owns a descriptor of its own.
class Runner : public BlockIo {
  public:
    // Waits for what is under way; later operations are `closed`. False: the disk did not let go of some.
    virtual bool close() = 0;
    virtual const char* name() const = 0;
};

std::shared_ptr<Runner> run_by_threads(int fd);
// Null: the kernel has no io_uring, or does not let us.
std::shared_ptr<Runner> run_by_uring(int fd);

class File final : public BlockIo {
  public:
    // Opens the file, or makes an empty one; its length stays as it is. name_in_use: another process has it.
    static Result<std::shared_ptr<File>> open(const std::string& path, Backend backend);
    ~File() override;

    void submit(BlockOp op) override { runner_->submit(std::move(op)); }
    // Submits and waits: for use where nothing else is going on.
    Status wait_for(BlockOp op);
    uint64_t bytes() const;
    // Makes the file so long, with blocks behind all of it where the file system can do that. no_space,
    // io_error.
    Status resize(uint64_t bytes);
    bool direct() const { return direct_; }
    const char* backend() const { return runner_->name(); }
    const std::string& path() const { return path_; }
    // Another process may have the file then, unless the disk did not let go of an operation.
    void close();

  private:
    File(std::string path, UniqueFd fd, bool direct, std::shared_ptr<Runner> runner);

    std::string path_;
    UniqueFd fd_;
    bool direct_;
    std::shared_ptr<Runner> runner_;
};

// What a system call on the file failed with.
Status failed(const std::string& what, int error);
// What an operation came to: `moved` bytes, or an errno below 0.
Status outcome(const BlockOp& op, int64_t moved);

}  // namespace tent::transport::file
