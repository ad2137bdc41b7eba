// Beginning a file, and finding what an earlier process left in one.
#include <algorithm>
#include <chrono>

#include "base/switches.h"
#include "store/disk.h"

namespace tent::store {
namespace {

constexpr size_t kAtOnce = 16;
constexpr auto kPatience = std::chrono::seconds(60);

// Operations that are waited for. The disk may keep the memory for longer than anybody waits.
struct Waiting {
    explicit Waiting(size_t bytes) : memory(bytes) {}
    Blocks memory;
    std::mutex mutex;
    std::condition_variable ended;
    bool done = false;
    Status status;
};

std::shared_ptr<Waiting> start(BlockIo& io, BlockKind kind, uint64_t offset, size_t bytes,
                               ByteView contents) {
    auto w = std::make_shared<Waiting>(std::max(bytes, kBlock));
    if (w->memory.at() == nullptr) {
        w->done = true;
        w->status = {Code::no_memory, "no memory to read the file's tables into"};
        return w;
    }
    std::copy(contents.begin(), contents.end(), w->memory.at());
    io.submit({kind, offset, w->memory.at(), bytes, [w](const Status& s) {
                   std::lock_guard lock(w->mutex);
                   w->status = s;
                   w->done = true;
                   w->ended.notify_all();
               }});
    return w;
}

Status await(Waiting& w) {
    std::unique_lock lock(w.mutex);
    if (!w.ended.wait_for(lock, kPatience, [&] { return w.done; }))
        return {Code::io_error, "the disk does not answer"};
    return w.status;
}

Status write_head(BlockIo& io, const DiskHead& head) {
    Bytes block = encode(head);
    if (Status s = await(*start(io, BlockKind::write, 0, kBlock, block)); !s.ok()) return s;
    return await(*start(io, BlockKind::sync, 0, 0, {}));
}

}  // namespace

Status Disk::read_head(BlockIo& io, uint64_t file_bytes, const std::string& path, DiskHead& head) {
    if (file_bytes == 0) return Status::good();
    PageStatus found = PageStatus::BAD_RECORD;
    if (file_bytes >= kBlock) {
        auto w = start(io, BlockKind::read, 0, kBlock, {});
        if (Status s = await(*w); !s.ok()) return s;
        found = decode(ByteView(w->memory.at(), kBlock), head);
    }
    if (found == PageStatus::VERSION) {
        return {Code::version_mismatch, path +
                                            " was written by a newer TENT; it is left as it is. Update this "
                                            "one, or name another folder"};
    }
    if (found == PageStatus::BAD_RECORD) {
        return {Code::invalid_argument, path +
                                            " is no page file of TENT, or its head is damaged; it is left as "
                                            "it is. Remove it, or name another folder"};
    }
    return Status::good();
}

Result<std::shared_ptr<Disk>> Disk::open(const DiskConfig& config, std::shared_ptr<BlockIo> io,
                                         uint64_t file_bytes, const std::function<Status(uint64_t)>& resize) {
    DiskHead head;
    if (Status s = read_head(*io, file_bytes, config.path, head); !s.ok()) return s;
    DiskHead wanted = head;
    if (head.extent_bytes == 0) {
        wanted.file = config.id;
        wanted.extent_bytes = config.extent_bytes;
    }
    wanted.extents = (config.bytes - std::min(config.bytes, uint64_t{kBlock})) / wanted.extent_bytes;
    if (wanted.extents < 2) {
        return Status(Code::invalid_argument, config.path +
                                                  ": the capacity has room for less than two extents of " +
                                                  std::to_string(wanted.extent_bytes) + " bytes");
    }
    if (Status s = resize(disk_extent_at(wanted.extents, wanted.extent_bytes)); !s.ok()) return s;
    if (wanted.extents != head.extents || head.extent_bytes == 0) {
        if (Status s = write_head(*io, wanted); !s.ok()) return s;
    }
    std::shared_ptr<Disk> disk(new Disk(config, std::move(io), wanted));
    if (Status s = disk->rebuild(); !s.ok()) return s;
    return disk;
}

// Extents that cannot be read are taken out; that is no reason not to start.
Status Disk::rebuild() {
    std::vector<DiskTable> tables;
    for (uint32_t first = 0; first < extents_.size(); first += kAtOnce) {
        uint32_t end = static_cast<uint32_t>(std::min<size_t>(extents_.size(), first + kAtOnce));
        std::vector<std::shared_ptr<Waiting>> reads;
        for (uint32_t i = first; i < end; ++i)
            reads.push_back(start(*io_, BlockKind::read, at(i), table_bytes_, {}));
        for (uint32_t i = first; i < end; ++i) {
            Waiting& w = *reads[i - first];
            DiskTable table;
            if (Status s = await(w); !s.ok()) {
                if (!w.done) return s;
                failed(i, s);
            } else if (decode(ByteView(w.memory.at(), table_bytes_), head_, i, table) == PageStatus::HIT) {
                tables.push_back(std::move(table));
            }
        }
    }
    std::sort(tables.begin(), tables.end(),
              [](const DiskTable& a, const DiskTable& b) { return a.written < b.written; });
    for (const DiskTable& table : tables) adopt(table);
    for (uint32_t id = 0; id < index_.slots(); ++id) {
        const DiskEntry& e = index_.at(id);
        if (e.used && e.generation < spaces_[e.space].generation && protection_on(Protection::generation))
            drop(id);
    }
    counts_.rebuilt = index_.size();
    return Status::good();
}

void Disk::adopt(const DiskTable& table) {
    Extent& extent = extents_[table.extent];
    extent.state = State::sealed;
    extent.epoch = table.epoch;
    extent.written = table.written;
    writes_ = std::max(writes_, table.written);
    for (const DiskSlot& s : table.slots) {
        uint32_t space = space_of(s.space);
        if (space == kNoId) continue;
        spaces_[space].confirmed = false;
        spaces_[space].generation = std::max(spaces_[space].generation, s.generation);
        if (uint32_t older = index_.find(s.digest); older != kNoPage) drop(older);
        DiskEntry e;
        e.digest = s.digest;
        e.version = s.version;
        e.check = s.check;
        e.generation = s.generation;
        e.offset = static_cast<uint32_t>(s.offset);
        e.length = static_cast<uint32_t>(s.length);
        e.extent = table.extent;
        e.space = space;
        if (index_.insert(e) != kNoPage) extent.bytes += e.length;
    }
}

}  // namespace tent::store
