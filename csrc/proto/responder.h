// An owner's answers to reads: a queue per rail, class first, then fair by peer (deficit round robin by
// bytes). Pure; it holds no memory: the engine keeps what a request means under its id. One per rail; same
// calls, same answers.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "model/types.h"

namespace tent::proto {

struct ReadRequest {
    uint64_t session = 0;     // engine's id of the session
    uint64_t connection = 0;  // where the answer goes
    AttemptId attempt = 0;
    Priority priority = Priority::normal;
    uint64_t bytes = 0;
};

// Bytes of one request to send next: [offset, offset + length).
struct ReadGrant {
    ReadRequest request;
    uint64_t offset = 0, length = 0;
    bool last = false;
};

class Responder {
  public:
    explicit Responder(uint64_t chunk);  // most bytes handed out at a time (one slice)
    ~Responder();
    static constexpr size_t kMaxWaiting = 4096;  // requests of one session
    // False: the session has kMaxWaiting requests waiting (bound on memory): refuse with Code::busy. A
    // request of no bytes is answered by one empty, last grant.
    bool add(const ReadRequest& request);
    // The next piece of work among connections that can take bytes: `ready(connection)`.
    // Order: priority class; within it sessions in turn, by bytes; within a session first come, first served.
    bool next(ReadGrant& grant, bool (*ready)(void* context, uint64_t connection), void* context);
    // Bytes handed out already are the engine's to stop. Unknown ones are ignored.
    void cancel(uint64_t session, AttemptId attempt);  // revoked by the reader
    void drop_connection(uint64_t connection);
    void drop_session(uint64_t session);
    size_t waiting() const;

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace tent::proto
