#include "engine/responders.h"

#include "engine/owner_session.h"

namespace tent::engine {

uint64_t Responders::attach(OwnerSession& session, transport::FrameStream& stream, RailId rail) {
    proto::Responder& responder = rails_.try_emplace(rail, chunk_).first->second;
    readers_.emplace(next_, Reader{&session, &stream, &responder, &credits_[rail]});
    return next_++;
}

void Responders::detach(uint64_t connection) {
    auto it = readers_.find(connection);
    if (it == readers_.end()) return;
    it->second.responder->drop_connection(connection);
    it->second.credits->drop(connection);
    readers_.erase(it);
}

bool Responders::add(const proto::ReadRequest& request) {
    auto it = readers_.find(request.connection);
    return it != readers_.end() && it->second.responder->add(request);
}

void Responders::cancel(uint64_t connection, uint64_t session, AttemptId attempt) {
    auto it = readers_.find(connection);
    if (it != readers_.end()) it->second.responder->cancel(session, attempt);
}

void Responders::wrote(uint64_t connection, uint64_t bytes, Nanos now) {
    auto it = readers_.find(connection);
    if (it == readers_.end() || !it->second.credits->received(connection, bytes, now)) return;
    for (const proto::WriterCredit& c : it->second.credits->shares()) {
        auto writer = readers_.find(c.connection);
        if (writer == readers_.end()) continue;
        writer->second.session->give_credit(writer->second.stream->peer().link, c.window);
    }
}

bool Responders::ready(void* self, uint64_t connection) {
    const Reader& reader = static_cast<Responders*>(self)->readers_.at(connection);
    return !reader.stream->closed() && reader.stream->has_room();
}

void Responders::serve() {
    proto::ReadGrant grant;
    for (auto& [rail, responder] : rails_) {
        while (responder.next(grant, &Responders::ready, this)) {
            readers_.at(grant.request.connection).session->send_part(grant);
        }
    }
}

}  // namespace tent::engine
