// What operators ask of a disk, and its scrub: every page on it is read and checked, a few at a time.
#include <algorithm>

#include "base/switches.h"
#include "store/store.h"

namespace tent::store {
namespace {

constexpr size_t kScrubAtOnce = 16;  // pages

}  // namespace

std::vector<DiskPage> Disk::list(uint64_t& cursor, size_t most, Nanos now) const {
    std::lock_guard lock(mutex_);
    std::vector<DiskPage> out;
    uint64_t id = std::min<uint64_t>(cursor, index_.slots());
    for (; id < index_.slots() && out.size() < most; ++id) {
        const DiskEntry& e = index_.at(static_cast<uint32_t>(id));
        if (e.used && visible(e, now)) out.push_back(page_of(e));
    }
    cursor = id < index_.slots() ? id : 0;
    return out;
}

std::vector<DiskSpace> Disk::spaces(Nanos now) const {
    std::lock_guard lock(mutex_);
    std::vector<DiskSpace> out(spaces_.size());
    for (size_t i = 0; i < out.size(); ++i) out[i] = {spaces_[i].digest, spaces_[i].generation, 0, 0};
    for (uint32_t id = 0; id < index_.slots(); ++id) {
        const DiskEntry& e = index_.at(id);
        if (!e.used || !visible(e, now)) continue;
        ++out[e.space].pages;
        out[e.space].bytes += e.length;
    }
    std::erase_if(out, [](const DiskSpace& s) { return s.pages == 0; });
    std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.bytes > b.bytes; });
    return out;
}

proto::PageList Store::list_disk(uint64_t cursor, size_t most) const {
    proto::PageList out;
    out.segment = kDiskSegment;
    if (disk_ == nullptr) return out;
    out.next = cursor;
    for (const DiskPage& p : disk_->list(out.next, std::min(most, proto::kMaxListed), now()))
        out.items.push_back({p.digest, p.space, p.generation, 0, p.length, p.check, 0, 0, 0});
    return out;
}

proto::SpaceList Store::disk_spaces() const {
    proto::SpaceList out;
    if (disk_ == nullptr) return out;
    for (const DiskSpace& s : disk_->spaces(now())) {
        if (out.items.size() == proto::kMaxListed) break;  // the largest
        out.items.push_back({s.digest, s.generation, s.pages, s.bytes});
    }
    return out;
}

proto::DiskScrub Store::ask_scrub(proto::ScrubWish wish) {
    std::lock_guard lock(mutex_);
    if (wish != proto::ScrubWish::tell && scrub_.running == 0) {
        scrub_ = {scrub_.round + 1, 0, 0, 0, 0, 0, 0};
        scrub_.running = disk_ != nullptr ? 1 : 0;
        scrub_keeps_ = wish == proto::ScrubWish::keep_bad;
        scrub_cursor_ = 0;
        staging_.notify_all();
    }
    return scrub_;
}

void Store::scrub_disk_some(Nanos patience) {
    uint64_t cursor;
    bool keeps;
    {
        std::lock_guard lock(mutex_);
        if (scrub_.running == 0) return;
        cursor = scrub_cursor_;
        keeps = scrub_keeps_;
    }
    proto::DiskScrub found;
    std::vector<DiskPage> pages = disk_->list(cursor, kScrubAtOnce, now());
    for (size_t at = 0; at < pages.size();) at = check_on_disk(pages, at, keeps, patience, found);
    std::lock_guard lock(mutex_);
    scrub_cursor_ = cursor;
    scrub_.running = cursor != 0 ? 1 : 0;
    scrub_.pages += found.pages;
    scrub_.bytes += found.bytes;
    scrub_.bad += found.bad;
    scrub_.removed += found.removed;
    scrub_.unread += found.unread;
}

// As many of the pages from `at` on as may be read at a time. Returns how far it came.
size_t Store::check_on_disk(std::span<const DiskPage> pages, size_t at, bool keeps, Nanos patience,
                            proto::DiskScrub& found) {
    std::vector<std::shared_ptr<Disk::Read>> reads;
    for (; at < pages.size(); ++at) {
        std::shared_ptr<Disk::Read> read = disk_->begin(pages[at].digest, now());
        if (read != nullptr) {
            reads.push_back(std::move(read));
        } else if (disk_->find(pages[at].digest, now())) {
            break;  // enough for now; one that is not found has gone meanwhile
        }
    }
    if (reads.empty() && at < pages.size()) {
        if (disk_->wait_room(patience)) reads.push_back(disk_->begin(pages[at].digest, now()));
        if (reads.empty() || reads[0] == nullptr) {  // it is stuck, or has no memory for this one
            ++found.pages;
            ++found.unread;
            return at + 1;
        }
        ++at;
    }
    disk_->wait(reads, patience);
    for (const auto& read : reads) {
        ++found.pages;
        bool there = read->done && read->status.ok();
        bool good = true;
        if (there) {
            auto address = reinterpret_cast<uint64_t>(read->bytes);
            PageJob job{read->page.digest, nullptr, &address, &read->page.length, 1, read->page.length, 0};
            copy_pages({&job, 1}, Direction::verify, true, {});
            good = job.check == read->page.check || !protection_on(Protection::check);
            found.bytes += read->page.length;
        }
        found.unread += !there;
        found.bad += !good;
        found.removed += !good && !keeps;
        disk_->end(read, good || keeps);
    }
    return at;
}

}  // namespace tent::store
