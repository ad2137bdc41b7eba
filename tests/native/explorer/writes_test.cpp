// A writer, an owner and a network between them: may bytes of a write land after the writer was told that the
// write is over? Over the real attempt table and both ends of the real lease; the rest is a small model. The
// network delays, reorders between connections and loses; the owner is stopped and goes on.
#include <doctest/doctest.h>

#include "explore.h"
#include "proto/attempts.h"
#include "proto/lease.h"

using namespace tent;
using namespace tent::proto;
using namespace tent::test;

namespace {

constexpr Nanos kTick = kSecond, kLease = 3 * kSecond;
constexpr AttemptId kFirst = 7, kSecondTry = 8;

// A rule of the design, broken.
enum class Hole : uint8_t {
    none,
    revokes_what_it_has_seen,    // a revoke of an attempt that has not arrived yet is forgotten
    echo_renews_from_arrival,    // ... and not from the token's issue
    clock_stands_while_stopped,  // CLOCK_MONOTONIC on a host that sleeps
    fails_without_waiting,       // the writer reports failure before the lease has run out
    checks_first_receive_only,   // the rest of a frame lands unasked
    released_when_sent,          // the revoke is believed when it is sent, not when it is answered
};

struct Message {
    enum Kind : uint8_t { write, revoke, revoked, token, echo } kind;
    uint64_t number;  // attempt or token
    int left = 0;     // receives that a write still takes
};

class Writes {
  public:
    explicit Writes(Hole hole) : hole_(hole) {}

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
    std::string state() {
        std::string s;
        auto put = [&s](uint64_t v) { s += std::to_string(v) + ','; };
        for (const auto* queue : {&data_, &control_, &back_, &socket_}) {
            for (const Message& m : *queue)
                put(m.kind * 1000 + m.number * 10 + static_cast<uint64_t>(m.left));
            s += '|';
        }
        put(static_cast<uint64_t>(now_ / kTick));
        put(static_cast<uint64_t>(owner_now() / kTick));
        put(static_cast<uint64_t>(owner_.expires() / kTick));
        put(owner_.valid(owner_now()));
        put(table_.floor());
        put(table_.admits(kFirst));
        put(table_.admits(kSecondTry));
        put(static_cast<uint64_t>(writer_.fenced_at() / kTick));
        put(stopped_ + 2 * posted_ + 4 * given_up_ + 8 * released_ + 16 * control_lost_ + 32 * retried_);
        put(landing_);
        put(tokens_);
        return s;
    }

  private:
    using Act = std::function<void()>;
    using Each = std::function<void(const std::string&, Act)>;
    Nanos owner_now() const { return now_ - (hole_ == Hole::clock_stands_while_stopped ? slept_ : 0); }

    void each(const Each& may) {
        // The writer.
        if (!posted_) may("the writer posts a write", [this] { post(kFirst), posted_ = true; });
        if (posted_ && !given_up_)
            may("the writer gives it up", [this] {
                given_up_ = true;
                if (!control_lost_) control_.push_back({Message::revoke, kFirst});
                if (hole_ == Hole::released_when_sent) released_ = true;
            });
        if (given_up_ && !released_ && may_fail())
            may("the writer reports failure", [this] { released_ = true; });
        if (released_ && !retried_ && !control_lost_)
            may("the writer writes again", [this] { post(kSecondTry), retried_ = true; });
        if (!back_.empty())
            may("the writer hears the owner", [this] {
                Message m = back_.front();
                back_.erase(back_.begin());
                if (m.kind == Message::revoked) released_ = true;
                if (m.kind == Message::token) {
                    writer_.received(m.number, now_);
                    if (!control_lost_) control_.push_back({Message::echo, m.number});
                }
            });
        // The network.
        if (!data_.empty()) may("bytes of the write arrive", [this] { arrive(data_); });
        if (!control_.empty()) may("a control frame arrives", [this] { arrive(control_); });
        if (!control_lost_)
            may("the control connection is lost", [this] {
                control_lost_ = true;
                // What is under way may be lost, too, and may have left already: both are explored.
                back_.clear();
            });
        if (control_lost_ && !control_.empty())
            may("what it still held is lost", [this] { control_.clear(); });
        // The owner.
        if (!stopped_) {
            if (tokens_ < 1) may("the owner issues a token", [this] { issue(); });
            for (size_t i = 0; i < socket_.size(); ++i) {
                bool first = true;  // of its connection
                for (size_t k = 0; k < i; ++k) first = first && is_data(socket_[k]) != is_data(socket_[i]);
                if (first) may("the owner takes " + name_of(socket_[i]), [this, i] { handle(i); });
            }
            may("the owner is stopped", [this] { stopped_ = true; });
        } else {
            may("the owner goes on", [this] { stopped_ = false; });
        }
        if (now_ < 5 * kTick)
            may("time passes", [this] {
                now_ += kTick;
                if (stopped_) slept_ += kTick;
            });
    }

    static bool is_data(const Message& m) { return m.kind == Message::write; }
    static std::string name_of(const Message& m) {
        static constexpr const char* kNames[] = {"bytes of a write", "a revoke", "", "", "an echo"};
        return kNames[m.kind];
    }
    void post(AttemptId attempt) { data_.push_back({Message::write, attempt, 2}); }
    bool may_fail() const { return hole_ == Hole::fails_without_waiting || now_ >= writer_.fenced_at(); }
    void arrive(std::vector<Message>& from) {
        socket_.push_back(from.front());
        from.erase(from.begin());
    }
    void issue() {
        ++tokens_;
        uint64_t token = owner_.issue(owner_now());
        if (!control_lost_) back_.push_back({Message::token, token});
    }
    void handle(size_t i) {
        Message& m = socket_[i];
        switch (m.kind) {
            case Message::write:
                return receive(i);
            case Message::revoke:
                if (hole_ != Hole::revokes_what_it_has_seen || landing_ == m.number) table_.revoke(m.number);
                if (!control_lost_) back_.push_back({Message::revoked, m.number});
                break;
            case Message::echo:
                owner_.echoed(m.number, owner_now());
                // The hole: as if the token had been issued when its echo came.
                if (hole_ == Hole::echo_renews_from_arrival && owner_.valid(owner_now()))
                    owner_.echoed(owner_.issue(owner_now()), owner_now());
                break;
            default:
                break;
        }
        socket_.erase(socket_.begin() + static_cast<std::ptrdiff_t>(i));
    }
    // One receive of a frame that takes two: checked before each.
    void receive(size_t i) {
        Message& m = socket_[i];
        bool unasked = hole_ == Hole::checks_first_receive_only && landing_ == m.number;
        if (unasked || (owner_.valid(owner_now()) && table_.admits(m.number))) {
            landing_ = m.number;
            if (m.number == kFirst && released_) violation_ = "bytes of a released write landed";
        }
        if (--m.left == 0) {
            landing_ = 0;
            socket_.erase(socket_.begin() + static_cast<std::ptrdiff_t>(i));
        }
    }

    Hole hole_;
    Nanos now_ = 0, slept_ = 0;
    AttemptTable table_;
    OwnerLease owner_{kLease, 0};
    WriterLease writer_{kLease, 0};
    std::vector<Message> data_, control_, back_;  // under way: towards the owner twice, and back
    std::vector<Message> socket_;                 // in the owner's kernel
    bool stopped_ = false, posted_ = false, given_up_ = false, released_ = false, control_lost_ = false;
    bool retried_ = false;
    AttemptId landing_ = 0;
    int tokens_ = 0;
    std::string violation_;
};

Explored run(Hole hole, int depth = 14) {
    return explore<Writes>([hole] { return Writes(hole); }, depth);
}

void found(Hole hole) {
    Explored e = run(hole);
    CHECK_MESSAGE(!e.violation.empty(), "not found in " << e.states << " states");
    MESSAGE(e.text());
}

}  // namespace

TEST_SUITE("protects:fence") {
    TEST_CASE("invariant 2: no order of events lets a revoked write land") {
        Explored e = run(Hole::none);
        CHECK_MESSAGE(e.violation.empty(), e.text());
        CHECK(e.states > 1000);
    }
}

TEST_SUITE("protects:lease") {
    TEST_CASE("invariant 2: no order of events lets a write land that the writer gave up by its lease") {
        Explored e = run(Hole::none);
        CHECK_MESSAGE(e.violation.empty(), e.text());
    }
}

TEST_CASE("hole: a revoke that covers only what was seen") {
    found(Hole::revokes_what_it_has_seen);
}
TEST_CASE("hole: an echo that renews from its arrival") {
    found(Hole::echo_renews_from_arrival);
}
TEST_CASE("hole: a lease by a clock that stands still while the owner sleeps") {
    found(Hole::clock_stands_while_stopped);
}
TEST_CASE("hole: failure reported before the lease has run out") {
    found(Hole::fails_without_waiting);
}
TEST_CASE("hole: attempt and lease checked before the first receive only") {
    found(Hole::checks_first_receive_only);
}
TEST_CASE("hole: released when the revoke was sent") {
    found(Hole::released_when_sent);
}
