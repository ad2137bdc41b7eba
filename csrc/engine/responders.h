// What peers wait to read, over all sessions: one responder per rail, so that peers share a rail fairly and a
// better class goes first whoever asks. And what they write: one account per rail, so that many of them keep
// no more under way together than a few would. Loop token held.
#pragma once

#include <map>
#include <unordered_map>

#include "proto/credits.h"
#include "proto/responder.h"
#include "transport/stream.h"

namespace tent::engine {

class OwnerSession;

class Responders {
  public:
    explicit Responders(uint64_t chunk) : chunk_(chunk) {}
    // The number under which requests of this connection come. Session and stream outlive detach().
    uint64_t attach(OwnerSession& session, transport::FrameStream& stream, RailId rail);
    void detach(uint64_t connection);  // and everything that waits on it
    // False: too much of this session waits already.
    bool add(const proto::ReadRequest& request);
    void cancel(uint64_t connection, uint64_t session, AttemptId attempt);
    // So many bytes of a write come over this connection.
    void wrote(uint64_t connection, uint64_t bytes, Nanos now);
    // Hands out all that connections have room for.
    void serve();

  private:
    struct Reader {
        OwnerSession* session;
        transport::FrameStream* stream;
        proto::Responder* responder;
        proto::WriterCredits* credits;
    };
    static bool ready(void* self, uint64_t connection);

    uint64_t chunk_;
    uint64_t next_ = 1;
    std::map<RailId, proto::Responder> rails_;
    std::map<RailId, proto::WriterCredits> credits_;
    std::unordered_map<uint64_t, Reader> readers_;
};

}  // namespace tent::engine
