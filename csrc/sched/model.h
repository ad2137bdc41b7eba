// What a rail or a link is believed to do: its rate (windowed maximum of what it delivered while it had work)
// and its base latency (windowed minimum of what is left of an attempt's time without its bytes).
#pragma once

#include <array>
#include <cstdint>

#include "base/clock.h"

namespace tent::sched {

class RateModel {
  public:
    enum class Verdict : uint8_t { nothing, sample, low };

    // `prior` is what is believed until the first sample; `proven`: it is known, not guessed.
    void start(uint64_t prior, bool known);
    // Work begins on something idle: what comes first shows latency and burst, not rate.
    void busy(Nanos now);
    // `bytes` more arrived. `more`: there is work left. `latency`: the base latency on the way.
    // Verdict `low`: a sample under 70 % of the rate that was not believed yet; the caller may believe_low().
    Verdict deliver(uint64_t bytes, Nanos now, bool more, Nanos latency);
    // The second low sample in a row, and the caller has nobody else to blame: forget the better past.
    bool believe_low();
    // A slice older than predicted: the rate was no more than this meanwhile. Samples lift it again.
    void bound(uint64_t rate, Nanos now);
    void idle() { open_ = false; }
    // Nobody looked for a while: what came meanwhile is found all at once, and is no rate. The sample under
    // way goes on until that is over.
    void stalled(Nanos now) { hold_ = now + kSettle; }

    bool proven() const { return proven_; }
    uint64_t measured() const { return rate_; }
    uint64_t last_sample() const { return last_; }
    uint64_t burst() const { return burst_; }
    // What to count on: without news for a second and more, what was lost is tried again by doublings.
    uint64_t rate(Nanos now) const;

    static constexpr uint64_t kSkip = 256 << 10;    // of a busy period: latency and burst
    static constexpr uint64_t kEnough = 512 << 10;  // bytes of a sample: several times the usual burst
    static constexpr Nanos kSpan = kMillisecond;    // length of a sample
    static constexpr uint64_t kTelling = 128
                                         << 10;  // an attempt smaller than this says nothing about the rate
    static constexpr Nanos kSettle = 2 * kMillisecond;  // what a stall of ours held up is read in so long

  private:
    friend struct Checkpoint;
    Verdict take(uint64_t sample, Nanos now);
    Verdict weak(Nanos now, Nanos latency);
    Verdict slow(uint64_t sample, Nanos now);
    Verdict first_guess(uint64_t least, Nanos now);
    Verdict guess_by_tail(Nanos now);
    uint64_t tail(Nanos now) const;
    bool in_a_clump(Nanos now) const;

    std::array<uint64_t, 8> window_{};
    uint32_t filled_ = 0, at_ = 0, low_streak_ = 0;
    uint64_t rate_ = 1, peak_ = 1, last_ = 0, burst_ = 0, first_ = 1;
    bool known_ = false, proven_ = false;
    Nanos last_sample_at_ = 0;
    // The busy period under way, and the sample within it.
    Nanos busy_since_ = 0, opened_ = 0;
    uint64_t busy_bytes_ = 0, bytes_ = 0;
    uint32_t pieces_ = 0;
    bool open_ = false, sampled_ = false;
    // Where the period stood when about half of its bytes had come, and a candidate for later.
    struct Mark {
        uint64_t bytes = 0;
        Nanos at = 0;
    };
    Mark half_, later_;
    bool guessed_ = false;  // lowered before the first sample
    Nanos hold_ = 0;        // no sample ends before
};

class LatencyModel {
  public:
    void start(Nanos prior) { prior_ = prior; }
    void sample(Nanos value);
    Nanos get() const { return filled_ == 0 ? prior_ : best_; }

  private:
    friend struct Checkpoint;
    std::array<Nanos, 16> window_{};
    uint32_t filled_ = 0, at_ = 0;
    Nanos prior_ = 0, best_ = 0;
};

}  // namespace tent::sched
