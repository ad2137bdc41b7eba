// One end of a reliable connection, from its making to the moment when nothing of it can touch memory.
#pragma once

#include <memory>
#include <mutex>
#include <span>

#include "proto/verbs_messages.h"
#include "transport/rdma/device.h"

namespace tent::transport::rdma {

struct Options {
    int queue_depth = 256;  // send requests of one queue pair
    int timeout = 14;       // 4.096 us << timeout is when the adapter sends again
    int retry_count = 3;    // so often; then it gives up: a backstop, the sprayer knows long before
    int mtu = 0;            // bytes; 0: what the port has
    int traffic_class = 0, service_level = 0, pkey_index = 0;
};

class QueuePair {
  public:
    // With a handler: it posts and is told of completions. Without: it serves what its peer posts.
    static Result<std::unique_ptr<QueuePair>> create(const Port& port, const Options& options,
                                                     CompletionHandler* handler);
    ~QueuePair();
    proto::QueuePairEnd end() const;
    uint32_t depth() const { return depth_; }
    uint32_t most_elements() const { return elements_; }
    uint32_t most_inline() const { return inline_; }
    Port& port() { return port_; }

    // Up to ready-to-receive, and where it posts ready-to-send. May wait for the neighbour: any one thread.
    Status connect(const proto::QueuePairEnd& peer);
    // Nothing of it touches memory any more, from here (posted requests) or from its peer. Waits for a
    // connect() on another thread. Completions that came before can be polled first: fail(), poll(), end().
    void fail();
    void finish();

    int post(abi::SendRequest* first, abi::SendRequest** bad);
    int poll(std::span<abi::Completion> out);
    void arm();

  private:
    QueuePair(const Port& port, const Options& options) : port_(port), options_(options) {}
    Status state_change(abi::QpAttributes& a, int mask, const char* what);

    Port port_;
    Options options_;
    abi::CompletionQueue* cq_ = nullptr;
    abi::QueuePair* qp_ = nullptr;
    uint32_t depth_ = 0, elements_ = 1, inline_ = 0, psn_ = 0;
    bool posts_ = false, failed_ = false;
    std::mutex mutex_;  // connect() against its end
};

// What a completion that is not good says about: this process's own requests, the peer's memory, or the way.
enum class Fault : uint8_t { link, access, local };
Fault classify(int status);
const char* status_name(int status);

}  // namespace tent::transport::rdma
