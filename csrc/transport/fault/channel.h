// A channel that misbehaves by a plan: it stands before a real one, passes its calls on and its reports back,
// and loses, delays, spoils or refuses some of them. What it promises stays true to the contract of
// transport.h: each attempt gets its end once fenced, except that a `duplicate` tells it twice.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "transport/fault/faults.h"

namespace tent::transport::fault {

class FaultChannel final : public Shell {
  public:
    FaultChannel(Faults& faults, FaultLink link, Sink& sink);
    ~FaultChannel() override;
    void wrap(std::unique_ptr<LinkChannel> inner) override;
    void wrap(Channel& inner) override;
    void tick();

    // LinkChannel
    Status dial() override;
    bool up() const override;
    Nanos dialled_at() const override { return dialled_at_; }
    void flush() override;
    bool send_frame(const proto::Header& header, ByteView body) override;
    void report_progress() override { inner_->report_progress(); }
    const Capabilities& capabilities() const override { return inner_->capabilities(); }
    Status post(const Attempt& attempt) override;
    void revoke(AttemptId attempt) override;
    void fenced(AttemptId attempt) override;
    bool touches(const uint8_t* address, uint64_t length) const override;
    void close(const Status& why) override;
    bool quiet() const override { return pending_.empty() && inner_->quiet(); }

    // Sink of the inner channel
    void channel_up(Channel* channel) override;
    void attempt_ended(AttemptId attempt, End end, Status status, uint32_t piece) override;
    void attempt_progress(AttemptId attempt, uint64_t bytes) override;
    void channel_down(Channel* channel, const Status& why) override;

  private:
    enum class Place : uint8_t {
        lost,   // never posted: nobody will say anything of it
        held,   // waits here until a stall ends
        inner,  // posted
        ended,  // its end waits here to be told, or never is
    };
    struct Pending {
        Place place = Place::inner;
        Op op = Op::read;
        Priority priority = Priority::normal;
        uint64_t bytes = 0, number = 0;
        std::vector<proto::Piece> remote;
        std::vector<LocalPiece> local;
        std::vector<uint8_t> spoilt;  // what a write sends instead of its source
        Nanos posted_at = 0, due = 0;
        End end = End::done;
        Status status;
        uint32_t piece = 0;
        bool by_link = false;  // given up because the link broke
    };
    using Iterator = std::map<AttemptId, Pending>::iterator;

    // The first fault of this kind that is on and strikes the link's `number`th attempt; -1: none.
    int fault(FaultKind kind, uint64_t number) const;
    uint64_t next_number() const { return faults_.posted(link_) + 1; }
    int swallowed(bool outgoing) const;
    bool struck(int by);
    int broken_by() const;
    Status broken() const;
    Status hand_over(AttemptId id, Pending& p);
    void spoil(Pending& p, int by);
    void tell(Iterator it);
    void tell_due();
    void break_link();
    void end_all(const Status& why);
    Nanos next_change_of_any() const;

    Faults& faults_;
    FaultLink link_;
    std::vector<size_t> mine_;  // faults that hit this link
    std::vector<FaultSide> sides_;
    Sink& sink_;
    std::unique_ptr<LinkChannel> owned_;
    Channel* inner_ = nullptr;
    bool closed_ = false, is_broken_ = false;
    Nanos dialled_at_ = 0;
    Nanos last_end_ = 0, free_at_ = 0;  // for `slow`: when the inner link and the slowed one were last done
    std::map<AttemptId, Pending> pending_;
};

}  // namespace tent::transport::fault
