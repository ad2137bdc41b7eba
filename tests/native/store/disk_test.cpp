// The disk tier over a disk that does what a test tells it to.
#include "store/disk.h"

#include <map>
#include <thread>

#include "support.h"

using namespace tent;
using namespace tent::test;

namespace {

constexpr uint64_t kExtent = 1 << 20;
constexpr size_t kPage = 100'000;

// A file in memory. Operations end at once, or wait for go(), or fail.
class FakeFile : public BlockIo {
  public:
    Bytes bytes;
    Status reads, writes;        // what they come to
    uint64_t torn = UINT64_MAX;  // writes from here on are lost, as when the power goes
    bool stalled = false;
    std::vector<BlockOp> waiting;
    size_t tables_written = 0;

    void submit(BlockOp op) override {
        if (stalled) return waiting.push_back(std::move(op));
        carry_out(op);
    }
    void go() {
        stalled = false;
        std::vector<BlockOp> ops = std::move(waiting);
        waiting.clear();
        for (BlockOp& op : ops) submit(std::move(op));
    }

  private:
    void carry_out(BlockOp& op) {
        const Status& s = op.kind == BlockKind::read ? reads : writes;
        bool inside = op.offset + op.bytes <= bytes.size();
        if (!s.ok() || !inside) return op.done(s.ok() ? Status(Code::io_error, "short") : s);
        if (op.kind == BlockKind::read) std::memcpy(op.memory, bytes.data() + op.offset, op.bytes);
        if (op.kind == BlockKind::write && op.offset < torn) {
            std::memcpy(bytes.data() + op.offset, op.memory, std::min<uint64_t>(op.bytes, torn - op.offset));
        }
        op.done({});
    }
};

struct Tier {
    explicit Tier(size_t extents = 8, std::shared_ptr<FakeFile> over = nullptr)
        : file(over == nullptr ? std::make_shared<FakeFile>() : std::move(over)) {
        DiskConfig c;
        c.bytes = disk_extent_at(extents, kExtent);
        c.extent_bytes = kExtent;
        c.path = "the file";
        c.node = "node-a";
        c.id = id_of(77);
        auto made = Disk::open(c, file, file->bytes.size(), [this](uint64_t n) {
            file->bytes.resize(n);
            return Status::good();
        });
        REQUIRE_MESSAGE(made.ok(), made.status().message());
        disk = *made;
    }
    ~Tier() {
        file->go();
        disk->close(0);
    }

    void offer(uint64_t first, uint64_t end, bool read = true, uint64_t generation = 0) {
        for (uint64_t n = first; n < end; ++n) {
            Bytes contents = page(n, kPage);
            DiskOffer o;
            o.page = {id_of(n),   id_of(n + 5000), space,
                      generation, kPage,           page_check(id_of(n), contents.data(), kPage),
                      0};
            o.bytes = contents.data();
            o.read = read;
            disk->offer({&o, 1});
        }
    }
    bool has(uint64_t n) const { return disk->find(id_of(n), 0); }
    // The page's bytes, and that they fit its check.
    bool right(uint64_t n) {
        auto read = disk->begin(id_of(n), 0);
        if (read == nullptr) return false;
        disk->wait({&read, 1}, 10 * kSecond);
        bool good =
            read->done && read->status.ok() && page_check(id_of(n), read->bytes, kPage) == read->page.check;
        disk->end(read, good);
        return good;
    }
    size_t found(uint64_t end) const {
        size_t n = 0;
        for (uint64_t i = 0; i < end; ++i) n += has(i);
        return n;
    }

    std::shared_ptr<FakeFile> file;
    std::shared_ptr<Disk> disk;
    Id128 space = id_of(3'000'000);
};

}  // namespace

TEST_CASE("disk format: golden bytes, both ways") {
    DiskHead head;
    REQUIRE(decode(golden("disk_head"), head) == PageStatus::HIT);
    CHECK(head.extent_bytes == kExtent);
    CHECK(head.extents == 64);
    CHECK(encode(head) == golden("disk_head"));
    DiskTable table;
    REQUIRE(decode(golden("disk_table"), head, 5, table) == PageStatus::HIT);
    REQUIRE(table.slots.size() == 1);
    CHECK(table.slots[0].offset == 8192);
    CHECK(table.epoch == 9);
    CHECK(encode(table, kExtent) == golden("disk_table"));
    CHECK(decode(golden("disk_table"), head, 4, table) == PageStatus::ABSENT);  // another extent's
    DiskHead newer;
    CHECK(decode(golden("disk_head_newer"), newer) == PageStatus::VERSION);
    CHECK(decode(Bytes(4096), newer) == PageStatus::ABSENT);
    CHECK(decode(Bytes(4096, 7), newer) == PageStatus::BAD_RECORD);
}

TEST_CASE("disk format: any changed byte of a table makes it none") {
    DiskHead head;
    REQUIRE(decode(golden("disk_head"), head) == PageStatus::HIT);
    Bytes good = golden("disk_table");
    DiskTable table;
    for (size_t i = 0; i < kDiskHeader + kDiskSlot; ++i) {
        Bytes bad = good;
        bad[i] ^= 0x10;
        CHECK(decode(bad, head, 5, table) == PageStatus::ABSENT);
    }
    Bytes block = golden("disk_head");
    for (size_t i = 0; i < 56; ++i) {
        Bytes bad = block;
        bad[i] ^= 0x10;
        CHECK(decode(bad, head) != PageStatus::HIT);
    }
}

TEST_CASE("disk: pages are found in the buffer and in the file, and after a restart") {
    Tier t;
    t.offer(0, 25);  // two extents and a half
    CHECK(t.found(25) == 25);
    for (uint64_t n = 0; n < 25; ++n) CHECK(t.right(n));
    t.disk->close(10 * kSecond);
    Tier again(8, t.file);
    CHECK(again.found(25) == 0);  // nobody has said that they were not cleared
    CHECK(again.disk->confirm(again.space, 0).size() == 25);
    for (uint64_t n = 0; n < 25; ++n) CHECK(again.right(n));
}

TEST_CASE("disk: the oldest extent goes where the file is full") {
    Tier t(3);
    t.offer(0, 60);
    CHECK(t.disk->stats().evicted > 0);
    CHECK_FALSE(t.has(0));
    CHECK(t.has(59));
    for (uint64_t n = 0; n < 60; ++n) CHECK(t.right(n) == t.has(n));
}

TEST_CASE("disk: a stalled disk delays nobody: pages are dropped, and counted") {
    Tier t;
    t.offer(0, 10);
    t.file->stalled = true;
    t.offer(10, 100);
    CHECK(t.disk->stats().dropped > 0);
    CHECK(t.right(10));  // in a buffer
    t.file->go();
    t.offer(100, 110);
    CHECK(t.has(109));
}

TEST_CASE("disk: pages that nobody read leave a buffer to those that were") {
    Tier t;
    t.file->stalled = true;
    t.offer(0, 100, false);
    size_t unread = t.found(100);
    t.offer(100, 200, true);
    CHECK(t.found(200) > unread);
}

TEST_CASE("disk: whoever gives up a read is free, and nobody else waits for that disk") {
    Tier t;
    t.offer(0, 40);
    REQUIRE(t.right(0));
    t.file->stalled = true;
    auto read = t.disk->begin(id_of(0), 0);
    REQUIRE(read != nullptr);
    t.disk->wait({&read, 1}, kMillisecond);
    CHECK_FALSE(read->done.load());
    t.disk->end(read, true);
    CHECK(t.disk->stuck());
    CHECK(t.disk->begin(id_of(1), 0) == nullptr);
    CHECK(t.disk->stats().stalled == 1);
    t.file->go();
    CHECK_FALSE(t.disk->stuck());
    CHECK(t.right(1));
}

TEST_CASE("disk: errors cost their extent; many cost the tier, once and for all") {
    Tier t(16);
    t.offer(0, 100);
    size_t before = t.found(100);
    t.file->reads = Status(Code::io_error, "a bad block");
    CHECK_FALSE(t.right(0));
    t.file->reads = {};
    CHECK(t.disk->stats().errors == 1);
    CHECK(t.disk->stats().lost == before - t.found(100));
    CHECK(t.found(100) >= before - 10);
    CHECK(t.right(50));
    t.file->writes = Status(Code::io_error, "a bad block");
    t.offer(200, 400);
    CHECK(t.disk->stats().off);
    CHECK(t.found(400) == 0);
    t.file->writes = {};
    t.offer(500, 510);
    CHECK(t.found(510) == 0);
}

TEST_CASE("disk: no room behind the file costs extents, not the tier") {
    Tier t(8);
    t.file->writes = Status(Code::no_space, "full");
    t.offer(0, 40);
    CHECK_FALSE(t.disk->stats().off);
    CHECK(t.disk->stats().no_space > 0);
    t.file->writes = {};
    t.offer(100, 130);
    CHECK(t.has(129));
    CHECK(t.right(129));
}

TEST_CASE("disk: a write torn by a loss of power is no page") {
    Tier t;
    t.offer(0, 10);
    t.file->torn = disk_extent_at(0, kExtent) + 300'000;
    t.offer(10, 20);
    t.disk->close(10 * kSecond);
    t.file->torn = UINT64_MAX;
    Tier again(8, t.file);
    again.disk->confirm(again.space, 0);
    size_t good = 0;
    for (uint64_t n = 0; n < 20; ++n) good += again.right(n);
    CHECK(good < 20);
    CHECK(again.found(20) == good);  // those that were found out are gone
}

TEST_CASE("disk: a table is written only behind its pages") {
    Tier t;
    t.file->stalled = true;
    t.offer(0, 11);  // one extent is full
    for (const BlockOp& op : t.file->waiting) {
        CHECK(op.offset >= disk_extent_at(0, kExtent) + disk_table_bytes(kExtent));
        CHECK(op.kind == BlockKind::write);
    }
    CHECK_FALSE(t.file->waiting.empty());
    t.file->go();
}

TEST_SUITE("protects:generation") {
    TEST_CASE("invariant 1: disk: what was cleared while nobody listened is not found again") {
        Tier t;
        t.offer(0, 10, true, 3);
        t.disk->close(10 * kSecond);
        Tier again(8, t.file);
        REQUIRE(again.disk->unconfirmed().size() == 1);
        CHECK(again.disk->unconfirmed()[0].second == 3);
        CHECK(again.found(10) == 0);
        again.disk->confirm(again.space, 4);
        CHECK(again.found(10) == 0);
    }
}

TEST_CASE("disk: removed pages do not come back") {
    Tier t;
    t.offer(0, 30);
    t.disk->remove(id_of(3));
    t.disk->tend(0);
    t.disk->close(10 * kSecond);
    Tier again(8, t.file);
    again.disk->confirm(again.space, 0);
    CHECK(again.found(30) == 29);
    CHECK_FALSE(again.has(3));
}

TEST_CASE("disk: replicas that the directory knows leave it with their pages") {
    Tier t;
    t.offer(0, 2);
    DiskPage about;
    Bytes record = t.disk->record(id_of(0), 0, &about);
    Record r;
    REQUIRE(decode_record(record, r) == PageStatus::HIT);
    CHECK(r.replicas[0].segment == kDiskSegment);
    t.disk->remove(id_of(0));
    t.disk->remove(id_of(1));  // never shown to anybody
    auto gone = t.disk->take_unpublish(10);
    REQUIRE(gone.size() == 1);
    CHECK(gone[0].second == record);
}

TEST_CASE("disk: reads are bounded, and more come when some have ended") {
    Tier t(64);
    t.offer(0, 500);
    std::vector<std::shared_ptr<Disk::Read>> reads;
    t.file->stalled = true;
    for (uint64_t n = 0; n < 400; ++n) {
        if (auto read = t.disk->begin(id_of(n), 0)) reads.push_back(std::move(read));
    }
    CHECK(reads.size() < 350);  // 32 MiB of 100 kB
    t.file->go();
    for (auto& read : reads) t.disk->end(read, true);
    CHECK(t.disk->wait_room(kSecond));
    CHECK(t.right(399));
}

TEST_CASE("disk: memory for a page on disk is bounded") {
    Tier t(64);
    t.offer(0, 500);
    CHECK(t.disk->stats().memory < 500 * 250 + 64 * 200);
}

// ---- beneath a Store

namespace {

struct Both : Pool {
    Both() : Pool(kExtent, 4) { store->set_disk(tier.disk); }
    PageStatus stage(uint64_t n) {
        Id128 digest = id_of(n);
        PageStatus s{};
        store->stage({&digest, 1}, 10 * kSecond, {&s, 1});
        return s;
    }
    // Puts pages and empties extents where it must.
    void fill(uint64_t pages) {
        for (uint64_t n = 0; n < pages; ++n) {
            while (put(n, page(n, kPage)) == PageStatus::NO_SPACE) REQUIRE(reclaim());
        }
    }
    Tier tier;
};

}  // namespace

TEST_CASE("store: pages go down with their extent, and come up again as they were") {
    Both b;
    b.fill(60);
    Bytes into(kPage);
    REQUIRE(b.get(0, into) == PageStatus::ABSENT);
    CHECK(b.find(0) == PageStatus::HIT);
    REQUIRE(b.reclaim());
    CHECK(b.stage(0) == PageStatus::HIT);
    CHECK(b.get(0, into) == PageStatus::HIT);
    CHECK(into == page(0, kPage));
    CHECK(b.stage(1000) == PageStatus::ABSENT);
}

TEST_CASE("store: a page on disk is present, removed, cleared like any other") {
    Both b;
    b.fill(60);
    CHECK(b.put(0, page(0, kPage, 9)) == PageStatus::PRESENT);
    Id128 digest = id_of(0);
    PageStatus s{};
    b.store->remove({&digest, 1}, {&s, 1});
    CHECK(s == PageStatus::HIT);
    CHECK(b.find(0) == PageStatus::ABSENT);
    b.store->clear(b.space, 1);
    for (uint64_t n = 0; n < 60; ++n) CHECK(b.find(n) != PageStatus::HIT);
}

TEST_SUITE("protects:check") {
    TEST_CASE("invariant 1: store: bytes that rotted on disk do not get into memory") {
        Both b;
        b.fill(60);
        for (size_t i = 64 * 1024; i < b.tier.file->bytes.size(); i += 5000) b.tier.file->bytes[i] ^= 1;
        REQUIRE(b.reclaim());
        PageStatus s = b.stage(0);
        CHECK(s == PageStatus::CHECK_FAILED);
        CHECK(b.find(0) != PageStatus::HIT);
    }
}

TEST_CASE("store: what a peer asks for is pending until it is up, and then stays a while") {
    Both b;
    b.fill(60);
    proto::Staged staged = b.store->ask_stage({id_of(0), id_of(59), id_of(1000)}, 0);
    CHECK(staged.items[0].code == static_cast<uint8_t>(PageStatus::PENDING));
    CHECK(staged.items[1].code == static_cast<uint8_t>(PageStatus::HIT));
    CHECK(staged.items[2].code == static_cast<uint8_t>(PageStatus::ABSENT));
    b.store->ask_stage({id_of(0)}, 0);
    std::vector<Id128> wanted = b.store->take_stage(10);
    REQUIRE(wanted.size() == 1);
    REQUIRE(b.reclaim());
    REQUIRE(b.stage(0) == PageStatus::HIT);
    staged = b.store->ask_stage({id_of(0)}, 0);
    CHECK(staged.items[0].code == static_cast<uint8_t>(PageStatus::HIT));
    CHECK(staged.items[0].check == page_check(id_of(0), page(0, kPage).data(), kPage));
}
