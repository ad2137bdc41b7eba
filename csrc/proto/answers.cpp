#include "proto/answers.h"

namespace tent::proto {

const Result<Bytes>* Answers::find(uint64_t request) const {
    for (const Answer& a : kept_) {
        if (a.request == request) return &a.answer;
    }
    return nullptr;
}

const Result<Bytes>& Answers::remember(uint64_t request, Result<Bytes> answer) {
    last_ = request;
    size_t bytes = answer.ok() ? answer->size() : answer.status().message().size();
    while (!kept_.empty() && (kept_.size() >= kMost || bytes_ + bytes > kMostBytes)) {
        bytes_ -= kept_.front().bytes;
        kept_.pop_front();
    }
    bytes_ += bytes;
    kept_.push_back({request, std::move(answer), bytes});
    return kept_.back().answer;
}

}  // namespace tent::proto
