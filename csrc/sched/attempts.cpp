// Attempts: posted, revoked, ended; each outcome is counted once on its link and once in its flow.
#include "base/status.h"
#include "base/switches.h"
#include "sched/core.h"

namespace tent::sched {

void Core::post(uint32_t slot, const Choice& choice, Action& action) {
    Flow& f = flow_pool_[slot];
    Link& l = links_[choice.link];
    Span span = next_span(f);
    uint64_t limit = std::min(span.end, span.begin + choice.want);
    uint64_t end = limit;
    if (f.spec.shape != nullptr) {
        end = f.spec.shape->cut(span.begin, limit - span.begin);
        if (end <= span.begin) end = limit;  // a shape that cannot be: cut where we like
        end = std::min(end, span.end);
    }
    take_span(f, slot, end);
    if (settings_.policy != Policy::water) take_share(f, choice.link, end - span.begin);

    uint32_t i = attempt_pool_.take();
    Attempt& a = attempt_pool_[i];
    a = Attempt{};
    a.id = next_attempt_++;
    a.flow = slot;
    a.link = choice.link;
    a.priority = f.priority();
    a.begin = span.begin;
    a.end = end;
    a.posted_at = now_;
    a.predicted = add_time(now_, choice.finish);
    a.alone = l.first == kNoId;
    attempt_slots_.insert(a.id, i);
    a.link_previous = l.last;
    (l.last == kNoId ? l.first : attempt_pool_[l.last].link_next) = i;
    l.last = i;
    a.flow_next = f.first;
    if (f.first != kNoId) attempt_pool_[f.first].flow_previous = i;
    f.first = i;
    ++f.attempts;
    f.in_flight += a.bytes();
    f.last_served = now_;

    if (a.alone) {
        l.path.busy(now_);
        l.marked_at = 0;
        l.quiet_since = now_;
        l.quiet_lag = lag_;
    }
    if (l.counted) {
        each_rail(l, [&](Rail& r) {
            if (r.load.all() == 0) {
                r.model.busy(now_);
                r.last_delivery = now_;
            }
        });
    }
    load_add(l, a.priority, a.bytes());
    l.posted.add(a.bytes());
    l.outstanding.add(a.bytes());
    arm(choice.link);
    action = {.kind = Action::Kind::post,
              .flow = f.id,
              .attempt = a.id,
              .link = a.link,
              .begin = a.begin,
              .end = a.end,
              .predicted = a.predicted,
              .limit = limit};
}

void Core::revoke(uint32_t i) {
    Attempt& a = attempt_pool_[i];
    if (a.revoking) return;
    a.revoking = true;
    emit({.kind = Action::Kind::revoke,
          .flow = flow_pool_[a.flow].id,
          .attempt = a.id,
          .link = a.link,
          .begin = a.begin,
          .end = a.end});
}

// Takes an attempt out of every list; its slot is free afterwards.
void Core::forget(uint32_t i) {
    Attempt& a = attempt_pool_[i];
    Link& l = links_[a.link];
    Flow& f = flow_pool_[a.flow];
    (a.link_previous == kNoId ? l.first : attempt_pool_[a.link_previous].link_next) = a.link_next;
    (a.link_next == kNoId ? l.last : attempt_pool_[a.link_next].link_previous) = a.link_previous;
    (a.flow_previous == kNoId ? f.first : attempt_pool_[a.flow_previous].flow_next) = a.flow_next;
    if (a.flow_next != kNoId) attempt_pool_[a.flow_next].flow_previous = a.flow_previous;
    --f.attempts;
    f.in_flight -= a.bytes();
    load_less(l, a.priority, a.left(), true);
    --l.outstanding.attempts;
    l.outstanding.bytes -= a.bytes();
    attempt_slots_.erase(a.id);
    attempt_pool_.give(i);
}

void Core::attempt_progress(AttemptId id, uint64_t bytes) {
    uint32_t i = attempt_slots_.find(id);
    if (i == kNoId) return;
    Attempt& a = attempt_pool_[i];
    // The last byte is the outcome's to report.
    bytes = std::min(bytes, a.bytes() - 1);
    if (bytes <= a.progress) return;
    uint64_t news = bytes - a.progress;
    a.progress = bytes;
    Link& l = links_[a.link];
    l.shows_progress = true;
    load_less(l, a.priority, news, false);
    delivered(a.link, news, true);
    sign_of_life(a.link);
}

void Core::attempt_ended(AttemptId id, Outcome outcome, uint16_t reason) {
    uint32_t i = attempt_slots_.find(id);
    if (i == kNoId) return;
    Attempt a = attempt_pool_[i];
    forget(i);
    Link& l = links_[a.link];
    Flow& f = flow_pool_[a.flow];
    dirty_ = true;
    if (outcome == Outcome::done) {
        if (settings_.policy == Policy::paper) average_rate(l, a);
        (f.ending ? l.superseded : l.used).add(a.bytes());
        delivered(a.link, a.left(), l.first != kNoId);
        // What its bytes do not explain is latency; only an attempt that waited behind nothing can tell.
        if (a.alone) {
            set_rate(l, link_rate(l));
            l.latency.sample(now_ - a.posted_at - l.pace.time(a.bytes()));
            set_pipe(l);
        }
        reissue_credit_ = std::min(reissue_credit_ + a.bytes() / 10, 16 * settings_.slice_max);
        hedge_credit_ = std::min(hedge_credit_ + mul_div(a.bytes(), settings_.hedge_ppm, 1'000'000),
                                 4 * settings_.slice_max);
        sign_of_life(a.link);
        prove(l, a.link);
        if (!f.ending) {
            f.done += a.bytes();
            drop_backlog(peers_[f.peer], f.priority(), a.bytes());
            if (f.done == f.spec.bytes) {
                ++completed_;
                emit({.kind = Action::Kind::flow_done, .flow = f.id});
                end_flow(a.flow);
                return;
            }
        }
    } else {
        if (protection_on(Protection::account))
            (outcome == Outcome::revoked ? l.revoked : l.failed).add(a.bytes());
        if (l.first == kNoId) {
            l.path.idle();
            l.quiet_since = now_;
        }
        if (!f.ending && outcome != Outcome::refused) {
            l.reissued += a.bytes();
            give_back(f, a.flow, {a.begin, a.end});
        }
        // Errors of an attempt that was given up say nothing that the revoke's cause did not.
        if (outcome == Outcome::link_error && !a.revoking) go_down(a.link);
        // Whatever took it from its link: the fault itself, or the revoke that was faster.
        if (outcome != Outcome::refused && !f.ending && !protection_on(Protection::reroute)) {
            fail_flow(a.flow, static_cast<uint16_t>(Code::link_failed));
            return;
        }
        if (outcome == Outcome::refused && !f.ending) {
            fail_flow(a.flow, reason != 0 ? reason : static_cast<uint16_t>(Code::internal));
            return;
        }
    }
    release_if_over(a.flow);
}

}  // namespace tent::sched
