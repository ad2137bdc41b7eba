// An owner that lends room to a writer, a reader that has looked a page up, and the directory between them:
// may the reader be handed bytes that are not the page's, without its check to save it, or a writer's bytes
// land in room that is somebody else's? Over the real extents; the rest is a small model. Writer and owner
// crash, stop and go on; the commit, the end of the session and the news of the writer's exit come late,
// twice or never.
#include <doctest/doctest.h>

#include <optional>

#include "explore.h"
#include "store/extents.h"
#include "store/record.h"

using namespace tent;
using namespace tent::store;
using namespace tent::test;

namespace {

enum class Hole : uint8_t {
    none,
    session_end_is_proof,    // a closed connection proves the writer gone
    epoch_after_first_byte,  // raised once the room is filled again, not before
    compares_before_only,    // the reader does not look again after its copy
    commits_by_loan_alone,   // a commit is taken for whatever the extent is now
};

struct Record {  // of the directory
    int version = 0;
    uint32_t epoch = 0;
    uint64_t incarnation = 0;
};

class Pages {
  public:
    explicit Pages(Hole hole) : hole_(hole), memory_(2 * kExtent), epochs_(new std::atomic<uint32_t>[2]) {
        boot();
    }

    std::vector<std::string> moves() {
        std::vector<std::string> out;
        each([&](const std::string& name, auto&&) { out.push_back(name); });
        return out;
    }
    void take(size_t wanted) {
        size_t i = 0;
        std::function<void()> chosen;
        each([&](const std::string&, std::function<void()> act) {
            if (i++ == wanted) chosen = std::move(act);
        });
        chosen();
    }
    std::string violation() const { return violation_; }
    std::string state() const {
        std::string s;
        auto put = [&s](uint64_t v) { s += std::to_string(v) + ','; };
        const Extent& e = extents_->at(0);
        put(static_cast<uint64_t>(e.state));
        put(e.loan);
        put(extents_->epoch(0));
        put(incarnation_);
        for (int v : bytes_) put(static_cast<uint64_t>(v));
        put(static_cast<uint64_t>(page_));
        put(static_cast<uint64_t>(filled_));
        put(static_cast<uint64_t>(raise_later_));
        put(record_.has_value() ? 1 + static_cast<uint64_t>(record_->version) * 100 + record_->epoch * 10 +
                                      record_->incarnation
                                : 0);
        put(static_cast<uint64_t>(writer_at_) * 8 + writer_alive_ * 4 + session_ * 2 + commits_);
        put(loan_epoch_);
        put(loan_);
        put(static_cast<uint64_t>(reader_at_));
        if (reader_at_ > 0) {
            put(static_cast<uint64_t>(looked_up_.version) * 100 + looked_up_.epoch * 10 +
                looked_up_.incarnation);
            put(static_cast<uint64_t>(got_[0]) * 10 + static_cast<uint64_t>(got_[1]));
        }
        return s;
    }

  private:
    using Act = std::function<void()>;
    using Each = std::function<void(const std::string&, Act)>;
    static constexpr uint64_t kExtent = 4096;

    void boot() {
        epochs_[0] = epochs_[1] = 1;
        extents_ = std::make_unique<Extents>(memory_.data(), memory_.size(), kExtent, epochs_.get());
        bytes_[0] = bytes_[1] = 0;
        page_ = filled_ = 0;
    }
    static Id128 id_of(uint64_t n) {
        Id128 id{};
        id[0] = static_cast<uint8_t>(n);
        return id;
    }

    void each(const Each& may) {
        ExtentState state = extents_->at(0).state;
        owner(may, state);
        writer(may);
        reader(may);
    }

    void owner(const Each& may, ExtentState state) {
        if (state == ExtentState::free && loan_ == 0)
            may("the owner lends", [this] {
                extents_->lend({id_of(1), id_of(2)}, ++loan_);
                loan_epoch_ = extents_->epoch(0);
                session_ = true;
            });
        // Its own pages, in room that is free; in two halves.
        if (state == ExtentState::free && filled_ == 0 && loan_ != 0)
            may("the owner puts half a page of its own", [this] { own_half(0); });
        if (filled_ == 1)
            may("the owner puts the other half, and publishes", [this] {
                own_half(1);
                publish(2);
            });
        if (session_)
            may("the session ends", [this] {
                session_ = false;
                if (extents_->at(0).state != ExtentState::lent || extents_->at(0).loan != loan_) return;
                if (hole_ == Hole::session_end_is_proof) {
                    extents_->seal(0);
                } else {
                    extents_->quarantine(0);
                }
            });
        if (!session_ && !writer_alive_ && state == ExtentState::quarantined)
            may("the owner sees that the writer is gone", [this] { extents_->seal(0); });
        if (commits_)
            may("the commit arrives", [this] {
                commits_ = false;
                const Extent& e = extents_->at(0);
                bool theirs =
                    e.state == ExtentState::lent && e.loan == loan_ && loan_epoch_ == extents_->epoch(0);
                if (!theirs && hole_ != Hole::commits_by_loan_alone) return;
                publish(1);
                extents_->seal(0);
            });
        if (state == ExtentState::sealed && filled_ != 1)
            may("the owner reclaims it", [this] {
                page_ = filled_ = 0;  // the record may stay in the directory: a hint
                if (hole_ == Hole::epoch_after_first_byte) {
                    uint32_t epoch = extents_->epoch(0);
                    extents_->recycle(0);
                    extents_->set_epoch(0, epoch);
                    raise_later_ = true;
                } else {
                    extents_->recycle(0);
                }
            });
        if (incarnation_ == 1)
            may("the owner dies and comes back", [this] {
                ++incarnation_;
                session_ = commits_ = false;
                writer_alive_ = false;  // its mapping is of memory that is no more
                writer_at_ = 0;
                boot();
            });
    }

    void own_half(int half) {
        bytes_[half] = 2;
        if (half == 0) {
            filled_ = 1;
        } else {
            filled_ = 2;
            page_ = 2;
            if (raise_later_) extents_->set_epoch(0, extents_->epoch(0) + 1);
            raise_later_ = false;
            extents_->seal(0);
        }
    }
    void publish(int version) {
        page_ = version;
        record_ = Record{version, extents_->epoch(0), incarnation_};
        if (version == 1 && (bytes_[0] != 1 || bytes_[1] != 1))
            violation_ = "a page became visible that is not whole";
    }

    void writer(const Each& may) {
        if (!writer_alive_) return;
        if (loan_ == 1 && writer_at_ < 2 && incarnation_ == 1)
            may(writer_at_ == 0 ? "the writer copies half its page" : "the writer copies the other half",
                [this] {
                    // A thread of another process: nothing can be asked of it in the middle of a copy.
                    const Extent& e = extents_->at(0);
                    bool kept = (e.state == ExtentState::lent && e.loan == loan_) ||
                                e.state == ExtentState::quarantined;
                    if (!kept) violation_ = "a writer's bytes landed in room that is not lent to it";
                    bytes_[writer_at_++] = 1;
                    commits_ = writer_at_ == 2 && session_;
                });
        if (loan_ == 1) may("the writer's process ends", [this] { writer_alive_ = false; });
    }

    void reader(const Each& may) {
        if (reader_at_ == 0 && record_)
            may("the reader looks the page up", [this] { looked_up_ = *record_, reader_at_ = 1; });
        if (reader_at_ == 1)
            may("the reader compares, and copies half of it", [this] {
                if (!same()) return void(reader_at_ = 4);  // a miss
                got_[0] = bytes_[0];
                reader_at_ = 2;
            });
        if (reader_at_ == 2)
            may("the reader copies the other half", [this] { got_[1] = bytes_[1], reader_at_ = 3; });
        if (reader_at_ == 3)
            may("the reader compares again, and answers", [this] {
                reader_at_ = 4;
                if (hole_ != Hole::compares_before_only && !same()) return;
                if (got_[0] != looked_up_.version || got_[1] != looked_up_.version)
                    violation_ = "a reader was handed bytes of another page";
            });
    }
    bool same() const {
        return same_incarnation(id_of(looked_up_.incarnation), id_of(incarnation_)) &&
               looked_up_.epoch == extents_->epoch(0);
    }

    Hole hole_;
    std::vector<uint8_t> memory_;
    std::unique_ptr<std::atomic<uint32_t>[]> epochs_;
    std::unique_ptr<Extents> extents_;
    uint64_t incarnation_ = 1;
    int bytes_[2] = {0, 0};  // whose bytes lie in the two halves of the room
    int page_ = 0, filled_ = 0;
    bool raise_later_ = false;
    std::optional<Record> record_;
    uint64_t loan_ = 0;
    uint32_t loan_epoch_ = 0;
    bool session_ = false, writer_alive_ = true, commits_ = false;
    int writer_at_ = 0;
    int reader_at_ = 0;
    Record looked_up_;
    int got_[2] = {0, 0};
    std::string violation_;
};

Explored run(Hole hole, int depth = 16) {
    return explore<Pages>([hole] { return Pages(hole); }, depth);
}

void found(Hole hole) {
    Explored e = run(hole);
    CHECK_MESSAGE(!e.violation.empty(), "not found in " << e.states << " states");
    MESSAGE(e.text());
}

}  // namespace

TEST_SUITE("protects:epoch") {
    TEST_CASE("invariant 1: no order of lending, reuse and reading hands out bytes of another page") {
        Explored e = run(Hole::none);
        CHECK_MESSAGE(e.violation.empty(), e.text());
        CHECK(e.states > 300);
    }
}

TEST_SUITE("protects:incarnation") {
    TEST_CASE("invariant 5: no order of events reads a restarted owner's memory by an old record") {
        Explored e = run(Hole::none);
        CHECK_MESSAGE(e.violation.empty(), e.text());
    }
}

TEST_CASE("hole: a closed session proves that its writer is gone") {
    found(Hole::session_end_is_proof);
}
TEST_CASE("hole: the epoch is raised after the first byte changed") {
    found(Hole::epoch_after_first_byte);
}
TEST_CASE("hole: a reader that compares the epoch before its copy only") {
    found(Hole::compares_before_only);
}
TEST_CASE("hole: a commit is taken for what the extent is now") {
    found(Hole::commits_by_loan_alone);
}
