#include "sched/model.h"

#include <algorithm>

#include "sched/math.h"

namespace tent::sched {

namespace {
// Below this part of the belief a sample is a slow-down, not noise.
constexpr bool is_low(uint64_t sample, uint64_t rate) {
    return sample < mul_div(rate, 7, 10);
}
// Shorter than this, the jitter of a loop is larger than what is measured.
constexpr Nanos kWeakSpan = 2 * kMillisecond;
// What has not made a sample in so long is too slow for one: that is news of its own.
constexpr Nanos kLongSpan = 10 * kMillisecond;
// Fewer bytes than this say nothing about any rate.
constexpr uint64_t kWorth = 16 << 10;
// Of a period's second half: fewer say nothing of its rate.
constexpr uint64_t kTail = 32 << 10;
// Nothing is faster; what seems so was not measured but answered at once.
constexpr uint64_t kFastest = 1'000'000'000'000;
}  // namespace

void RateModel::start(uint64_t prior, bool known) {
    *this = RateModel{};
    rate_ = peak_ = first_ = std::max<uint64_t>(prior, 1);
    known_ = proven_ = known;
}

void RateModel::busy(Nanos now) {
    busy_since_ = now;
    busy_bytes_ = bytes_ = 0;
    pieces_ = 0;
    open_ = sampled_ = false;
    half_ = later_ = {};
}

RateModel::Verdict RateModel::deliver(uint64_t bytes, Nanos now, bool more, Nanos latency) {
    Verdict verdict = Verdict::nothing;
    busy_bytes_ += bytes;
    if (busy_bytes_ >= 2 * later_.bytes) {
        half_ = later_;
        later_ = {busy_bytes_, now};
    }
    if (!proven_) verdict = guess_by_tail(now);
    if (!open_) {
        if (busy_bytes_ >= kSkip) {
            open_ = true;
            opened_ = now;
            bytes_ = 0;
            pieces_ = 0;
        }
    } else {
        bytes_ += bytes;
        ++pieces_;
        bool enough = pieces_ >= 2 && bytes_ >= kEnough && now > opened_ && now >= hold_;
        if (enough && (now - opened_ >= kSpan || (!more && !sampled_))) {
            verdict = take(rate_of(bytes_, now - opened_), now);
            sampled_ = true;
            opened_ = now;
            bytes_ = 0;
            pieces_ = 0;
        } else if (now - opened_ >= kLongSpan && pieces_ >= 2 && proven_ &&
                   is_low(rate_of(bytes_, now - opened_), rate_)) {
            verdict = slow(rate_of(bytes_, now - opened_), now);
        }
    }
    if (!more) {
        if (!sampled_ && (verdict == Verdict::nothing || !proven_)) verdict = weak(now, latency);
        open_ = false;
    }
    return verdict;
}

RateModel::Verdict RateModel::take(uint64_t sample, Nanos now) {
    sample = std::min(sample, kFastest);
    last_ = sample;
    last_sample_at_ = now;
    // How far the period's beginning ran ahead of the rate that it settled at.
    uint64_t line = bytes_in(now - busy_since_, sample);
    burst_ = busy_bytes_ > line ? busy_bytes_ - line : 0;
    if (!proven_ || known_) {  // measured for the first time
        known_ = false;
        proven_ = true;
        filled_ = at_ = 0;
        window_.fill(0);
        rate_ = peak_ = sample;
        window_[0] = sample;
        filled_ = at_ = 1;
        return Verdict::sample;
    }
    window_[at_] = sample;
    at_ = (at_ + 1) % static_cast<uint32_t>(window_.size());
    filled_ = std::min<uint32_t>(filled_ + 1, static_cast<uint32_t>(window_.size()));
    bool low = is_low(sample, rate_);
    low_streak_ = low ? low_streak_ + 1 : 0;
    rate_ = *std::max_element(window_.begin(), window_.end());
    peak_ = std::max(peak_, rate_);
    return low ? Verdict::low : Verdict::sample;
}

// A busy period too short for a sample still says that the rate was no less than this (latency and all), and,
// if it took long, that it was slow.
RateModel::Verdict RateModel::weak(Nanos now, Nanos latency) {
    uint64_t least = rate_of(busy_bytes_, now - busy_since_);
    if (!proven_) return first_guess(least, now);
    // By its second half: the first one came with the burst.
    if (uint64_t rest = tail(now); busy_bytes_ >= kEnough && rest > rate_ && now >= hold_)
        return take(rest, now);
    Nanos span = now - busy_since_ - latency;
    if (span < kWeakSpan || busy_bytes_ < kTelling) return Verdict::nothing;
    uint64_t sample = rate_of(busy_bytes_, span);
    // Late is not slow: where the period's second half came as fast as ever, what took the time was on the
    // way.
    if (!is_low(sample, rate_) || in_a_clump(now)) {
        low_streak_ = 0;
        return Verdict::nothing;
    }
    return slow(sample, now);
}

bool RateModel::in_a_clump(Nanos now) const {
    uint64_t rest = busy_bytes_ - half_.bytes;
    return half_.bytes != 0 && rest >= kTail && !is_low(rate_of(rest, now - half_.at), rate_);
}

RateModel::Verdict RateModel::slow(uint64_t sample, Nanos now) {
    last_ = sample;
    last_sample_at_ = now;
    ++low_streak_;
    opened_ = now;
    bytes_ = 0;
    pieces_ = 0;
    return Verdict::low;
}

// The rate of the period's later bytes, at most three quarters of them; 0: too short to tell.
uint64_t RateModel::tail(Nanos now) const {
    if (half_.bytes == 0 || busy_bytes_ - half_.bytes < kTail || now - half_.at < kSpan) return 0;
    return rate_of(busy_bytes_ - half_.bytes, now - half_.at);
}

// Before the first sample: what has come so far of the period under way, without its first burst, says more
// than the guess that everybody starts with. It may rise again, up to that guess.
RateModel::Verdict RateModel::guess_by_tail(Nanos now) {
    uint64_t seen = tail(now);
    if (seen == 0 || (seen >= mul_div(rate_, 9, 10) && !(guessed_ && seen > rate_))) return Verdict::nothing;
    rate_ = std::clamp<uint64_t>(seen, 1, first_);  // not its peak: a guess is tried again after a while
    guessed_ = true;
    last_sample_at_ = now;
    return Verdict::sample;
}

// Of a rail that was never measured even a single small slice says more than the guess that everybody starts
// with: a slow rail that is believed to be fast is never used, for its slowness then counts as latency.
RateModel::Verdict RateModel::first_guess(uint64_t least, Nanos now) {
    constexpr uint64_t kHope = 4;  // latency was part of the time
    if (guessed_) return Verdict::nothing;
    if (busy_bytes_ >= kEnough && now > busy_since_ && least > rate_) return take(least, now);
    uint64_t most = mul_div(least, kHope, 1);
    if (busy_bytes_ < kWorth || now - busy_since_ < kWeakSpan || most >= rate_) return Verdict::nothing;
    rate_ = std::max<uint64_t>(most, 1);
    last_sample_at_ = now;
    return Verdict::sample;
}

bool RateModel::believe_low() {
    if (low_streak_ < 2) return false;
    window_.fill(0);
    window_[0] = rate_ = std::max<uint64_t>(last_, 1);
    filled_ = at_ = 1;
    low_streak_ = 0;
    return true;
}

void RateModel::bound(uint64_t rate, Nanos now) {
    rate = std::max(rate, rate_ / 4);  // one silence is no measurement
    if (rate >= rate_) return;
    window_.fill(0);
    window_[0] = rate_ = std::max<uint64_t>(rate, 1);
    filled_ = at_ = 1;
    low_streak_ = 0;
    last_sample_at_ = now;
}

uint64_t RateModel::rate(Nanos now) const {
    if (rate_ >= peak_) return rate_;
    Nanos quiet = now - last_sample_at_;
    if (quiet < kSecond) return rate_;
    auto doublings = static_cast<unsigned>(std::min<Nanos>(quiet / kSecond, 20));
    return std::min(peak_, std::max(rate_, mul_div(rate_, uint64_t{1} << doublings, 1)));
}

void LatencyModel::sample(Nanos value) {
    window_[at_] = std::max<Nanos>(value, 0);
    at_ = (at_ + 1) % static_cast<uint32_t>(window_.size());
    filled_ = std::min<uint32_t>(filled_ + 1, static_cast<uint32_t>(window_.size()));
    best_ = *std::min_element(window_.begin(), window_.begin() + filled_);
}

}  // namespace tent::sched
