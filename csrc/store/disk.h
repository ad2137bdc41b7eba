// The pages of a node that lie on its disk: a log of extents in one file (disk_format.h). Pages that leave
// memory are offered; they gather in a buffer, which is written when it is full. Reads bring pages into
// buffers of ours, never into a caller's memory, so that whoever no longer waits for a slow disk may go.
//
// Thread-safe, and nothing blocks on the disk but open(), wait() and close(). The Store calls with its mutex
// held; nothing here calls the Store. Faults of the disk are the disk's: the extent they struck is taken out
// and counted, and after DiskConfig::max_errors of them there are no pages here any more.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/block_io.h"
#include "base/clock.h"
#include "store/disk_format.h"
#include "store/disk_index.h"
#include "store/record.h"

namespace tent::store {

struct DiskConfig {
    uint64_t bytes = 0;         // of the file
    uint64_t extent_bytes = 0;  // of a new file; one that is there keeps its own
    std::string path;           // for messages
    std::string node;           // for records
    Id128 incarnation{};
    Id128 id{};  // of a new file
    size_t buffers = 4;
    uint64_t read_bytes = 32ull << 20;  // of pages being read at a time, at least one page
    size_t max_errors = 8;
};

struct DiskPage {
    Id128 digest{}, version{}, space{};
    uint64_t generation = 0, length = 0, check = 0;
    Nanos expires = 0;  // 0: never
};

// What there is of one namespace.
struct DiskSpace {
    Id128 digest{};
    uint64_t generation = 0, pages = 0, bytes = 0;
};

struct DiskOffer {
    DiskPage page;
    const uint8_t* bytes = nullptr;
    bool read = false;  // one that was read; others are taken only while the disk keeps up
};

struct DiskStats {
    uint64_t capacity = 0, used = 0, pages = 0, memory = 0;
    uint64_t written = 0, written_bytes = 0, read = 0, read_bytes = 0;
    uint64_t dropped = 0;  // offered and not taken: the disk was behind
    uint64_t too_large = 0, evicted = 0, check_failed = 0, errors = 0, no_space = 0, lost = 0, stalled = 0;
    uint64_t rebuilt = 0, bad_extents = 0;
    uint64_t writing = 0;  // buffers that are being written
    bool off = false;
};

// Memory whose address and size are multiples of a block.
class Blocks {
  public:
    explicit Blocks(size_t bytes);  // null on failure
    ~Blocks();
    Blocks(Blocks&& other) noexcept : at_(std::exchange(other.at_, nullptr)), bytes_(other.bytes_) {}
    Blocks& operator=(Blocks&&) = delete;
    uint8_t* at() const { return at_; }
    size_t bytes() const { return bytes_; }

  private:
    uint8_t* at_ = nullptr;
    size_t bytes_ = 0;
};

class Disk : public std::enable_shared_from_this<Disk> {
  public:
    // A page on its way from the disk. Hand it to end().
    struct Read {
        DiskPage page;
        const uint8_t* bytes = nullptr;
        std::atomic<bool> done{false};  // then `status` stays as it is
        Status status;

      private:
        friend class Disk;
        std::unique_ptr<Blocks> memory;
        uint32_t extent = 0;
        size_t buffer = SIZE_MAX;  // it lies in this buffer
        bool abandoned = false;
    };

    // Reads what the file holds; a new one is begun where it is empty. version_mismatch, invalid_argument (it
    // is not ours): the file is as it was. io_error, no_space. `resize` makes the file so long.
    static Result<std::shared_ptr<Disk>> open(const DiskConfig& config, std::shared_ptr<BlockIo> io,
                                              uint64_t file_bytes,
                                              const std::function<Status(uint64_t)>& resize);
    // Writes what is in the buffers, for up to `patience`. Nothing is taken from then on.
    void close(Nanos patience);

    // ---- pages come. Copies those that are taken; most wanted first.
    void offer(std::span<const DiskOffer> pages);
    // Until something would be taken, or for so long.
    bool wait_buffer(Nanos patience);

    // ---- pages are found
    bool find(const Id128& digest, Nanos now, DiskPage* out = nullptr) const;
    // The record of a page that is found; the directory may lead here from now on.
    Bytes record(const Id128& digest, Nanos now, DiskPage* out);
    std::vector<Id128> digests(Nanos now) const;
    // Up to `most` of them, from `cursor` (0: the first) on, which moves; it is 0 after the last.
    std::vector<DiskPage> list(uint64_t& cursor, size_t most, Nanos now) const;
    std::vector<DiskSpace> spaces(Nanos now) const;

    // ---- pages go
    void remove(const Id128& digest);
    // Raises the namespace's generation and drops what is older.
    size_t clear(const Id128& space, uint64_t generation);
    // Replicas to be taken out of the directory: digest and record.
    std::vector<std::pair<Id128, Bytes>> take_unpublish(size_t most);

    // ---- after a restart: pages of namespaces that may have been cleared meanwhile are not found until the
    // directory was heard
    std::vector<std::pair<Id128, uint64_t>> unconfirmed() const;  // with the generation as far as known
    // Returns the namespace's pages.
    std::vector<Id128> confirm(const Id128& space, uint64_t generation);

    // ---- reading. Null: no such page, or for now too much is being read, or the disk is stuck.
    std::shared_ptr<Read> begin(const Id128& digest, Nanos now);
    // Until all are done, or for so long.
    void wait(std::span<const std::shared_ptr<Read>> reads, Nanos patience);
    // Until more may be read, or for so long. False: not now.
    bool wait_room(Nanos patience);
    // `good`: its bytes fit its check.
    void end(const std::shared_ptr<Read>& read, bool good);
    // A read has been given up and the disk has not answered it yet.
    bool stuck() const;

    // What is not urgent: tables of extents that lost pages are written again.
    void tend(Nanos now);
    DiskStats stats() const;

  private:
    enum class State : uint8_t { free, filling, writing, sealed, bad };
    enum class Phase : uint8_t { idle, pages, sync, table };
    struct Extent {
        State state = State::free;
        bool dirty = false;  // its table names pages that are gone
        uint32_t epoch = 0;
        uint32_t users = 0;  // operations under way
        uint64_t written = 0;
        size_t buffer = SIZE_MAX;
        uint64_t bytes = 0;  // of pages
    };
    struct Buffer {
        std::unique_ptr<Blocks> memory;
        Phase phase = Phase::idle;
        uint32_t extent = kNoId;  // kNoId: it is free
        uint32_t slots = 0;
        size_t users = 0;  // copies into and reads out of it
        size_t under_way = 0;
        uint64_t fill = 0, sent = 0;
        bool sealed = false;
        Status worst;
    };
    struct Space {
        Id128 digest{};
        uint64_t generation = 0;
        bool confirmed = true;
    };
    using Lock = std::unique_lock<std::mutex>;

    Disk(const DiskConfig& config, std::shared_ptr<BlockIo> io, const DiskHead& head);
    static Status read_head(BlockIo& io, uint64_t file_bytes, const std::string& path, DiskHead& head);
    Status rebuild();
    void adopt(const DiskTable& table);
    uint32_t space_of(const Id128& digest);
    bool visible(const DiskEntry& e, Nanos now) const;
    DiskPage page_of(const DiskEntry& e) const;
    Bytes record_of(const DiskEntry& e) const;
    void drop(uint32_t id);
    void drop_extent(uint32_t extent);
    void failed(uint32_t extent, const Status& why);
    void turn_off(const Status& why);

    bool take(const DiskOffer& offer, Lock& lock);
    bool next_buffer(bool wanted);
    uint32_t next_extent();
    void seal();
    void go_on(size_t buffer);
    void post(size_t buffer, BlockKind kind, uint64_t offset, uint8_t* memory, size_t bytes);
    void on_written(size_t buffer, const Status& status);
    void finish(size_t buffer);
    void release(size_t buffer);
    Bytes table_of(uint32_t extent) const;
    void rewrite_table(uint32_t extent);
    void on_read(const std::shared_ptr<Read>& read, const Status& status);
    std::unique_ptr<Blocks> blocks(size_t bytes);
    void give_back(std::unique_ptr<Blocks> memory);
    // Submits what was posted, without the lock: an operation may end at once.
    void send(Lock& lock);
    uint64_t at(uint32_t extent) const { return disk_extent_at(extent, head_.extent_bytes); }

    DiskConfig config_;
    std::shared_ptr<BlockIo> io_;
    DiskHead head_;
    uint64_t table_bytes_;
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    DiskIndex index_;
    std::vector<Extent> extents_;
    std::vector<Buffer> buffers_;
    size_t filling_ = SIZE_MAX;
    std::vector<Space> spaces_;
    std::map<Id128, uint32_t> space_numbers_;
    std::vector<std::pair<Id128, Bytes>> unpublish_;
    std::vector<BlockOp> to_send_;
    std::vector<std::unique_ptr<Blocks>> spare_;
    uint64_t reading_ = 0;  // bytes
    size_t stuck_ = 0;
    uint64_t writes_ = 0;  // extents written
    uint32_t expired_to_ = 0;
    bool expiring_ = false, closed_ = false;
    DiskStats counts_;
};

}  // namespace tent::store
