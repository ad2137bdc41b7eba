#include "transport/file/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <mutex>

namespace tent::transport::file {

Status failed(const std::string& what, int error) {
    Code code = error == ENOSPC || error == EDQUOT || error == EFBIG  ? Code::no_space
                : error == EACCES || error == EPERM || error == EROFS ? Code::permission_denied
                                                                      : Code::io_error;
    return {code, what + ": " + std::strerror(error)};
}

Status outcome(const BlockOp& op, int64_t moved) {
    const char* what = op.kind == BlockKind::read    ? "reading"
                       : op.kind == BlockKind::write ? "writing"
                                                     : "flushing";
    std::string where = std::string(what) + " at " + std::to_string(op.offset);
    if (moved < 0) return failed(where, static_cast<int>(-moved));
    if (op.kind == BlockKind::sync || static_cast<uint64_t>(moved) == op.bytes) return Status::good();
    return {Code::io_error, where + ": " + std::to_string(moved) + " of " + std::to_string(op.bytes) +
                                " bytes; the file is shorter than it was"};
}

Result<std::shared_ptr<File>> File::open(const std::string& path, Backend backend) {
    constexpr int kFlags = O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW;
    bool direct = true;
    UniqueFd fd(::open(path.c_str(), kFlags | O_DIRECT, 0600));
    if (!fd && errno == EINVAL) {  // this file system has no O_DIRECT
        direct = false;
        fd = UniqueFd(::open(path.c_str(), kFlags, 0600));
    }
    if (!fd) return failed("opening " + path, errno);
    struct stat about {};
    if (fstat(fd.get(), &about) != 0 || !S_ISREG(about.st_mode)) {
        return Status(Code::invalid_argument, path + " is no regular file");
    }
    if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
        return Status(Code::name_in_use,
                      path + " is in use by another process: give each process a folder of its own");
    }
    std::shared_ptr<Runner> runner;
    if (backend != Backend::threads) runner = run_by_uring(fd.get());
    if (runner == nullptr && backend == Backend::uring) {
        return Status(Code::unsupported, "this kernel has no io_uring, or does not let this process use it");
    }
    if (runner == nullptr) runner = run_by_threads(fd.get());
    return std::shared_ptr<File>(new File(path, std::move(fd), direct, std::move(runner)));
}

File::File(std::string path, UniqueFd fd, bool direct, std::shared_ptr<Runner> runner)
    : path_(std::move(path)), fd_(std::move(fd)), direct_(direct), runner_(std::move(runner)) {}

File::~File() {
    close();
}

void File::close() {
    if (runner_->close()) flock(fd_.get(), LOCK_UN);
}

Status File::wait_for(BlockOp op) {
    struct Waiter {
        std::mutex mutex;
        std::condition_variable ended;
        bool done = false;
        Status status;
    };
    auto waiter = std::make_shared<Waiter>();
    op.done = [waiter](const Status& s) {
        std::lock_guard lock(waiter->mutex);
        waiter->status = s;
        waiter->done = true;
        waiter->ended.notify_all();
    };
    submit(std::move(op));
    std::unique_lock lock(waiter->mutex);
    waiter->ended.wait(lock, [&] { return waiter->done; });
    return waiter->status;
}

uint64_t File::bytes() const {
    struct stat about {};
    return fstat(fd_.get(), &about) == 0 ? static_cast<uint64_t>(about.st_size) : 0;
}

Status File::resize(uint64_t bytes) {
    uint64_t before = this->bytes();
    if (bytes < before && ftruncate(fd_.get(), static_cast<off_t>(bytes)) != 0)
        return failed("shortening " + path_, errno);
    if (bytes <= before) return Status::good();
    int result;
    do {
        result = fallocate(fd_.get(), 0, 0, static_cast<off_t>(bytes));
    } while (result != 0 && errno == EINTR);
    if (result == 0) return Status::good();
    int error = errno;
    if (error == EOPNOTSUPP || error == ENOSYS) {  // then a full disk shows when blocks are written
        if (ftruncate(fd_.get(), static_cast<off_t>(bytes)) == 0) return Status::good();
        error = errno;
    }
    (void)!ftruncate(fd_.get(), static_cast<off_t>(before));  // give back what a full disk had left
    return failed("making " + path_ + " " + std::to_string(bytes) + " bytes long", error);
}

}  // namespace tent::transport::file
