// The engines under attack: what they must not touch or show lies around what they expose, an honest peer
// goes on being served, and nothing is left over when the attackers are gone.
#pragma once

#include <thread>

#include "engine/engine.h"
#include "program.h"
#include "store/lending.h"
#include "store/store.h"

namespace tent::fuzz {

class Target {
  public:
    explicit Target(Shared& shared);
    ~Target();

    // One honest transfer each way through the engine under attack.
    void serve_honestly();
    // Dials the impostor, and uses what it says it has.
    void visit_impostor(size_t which);
    // Nothing outside of what is exposed was written to.
    void check_guards();
    void upkeep();  // what the Python face does for an engine: takes what has piled up
    struct Held {
        size_t descriptors = 0, threads = 0, bytes = 0;
    };
    // Waits until every attacker's session is forgotten, and for what must be back at `before` (if given).
    Held settle(const Held* before);

  private:
    std::shared_ptr<engine::Segment> expose(size_t at, const char* name, Rights rights);
    void offer();
    void transfer(engine::Engine& from, const std::shared_ptr<engine::Peer>& peer, Op op, uint32_t segment,
                  uint8_t* local, uint64_t bytes, Nanos deadline, bool must);

    Shared& shared_;
    std::vector<uint8_t> area_, mine_, theirs_, offered_;
    std::unique_ptr<engine::Engine> owner_, honest_, visitor_;
    std::shared_ptr<engine::Segment> reserved_, pool_;
    std::shared_ptr<store::Store> store_;
    std::shared_ptr<engine::Peer> peer_;
    uint64_t rounds_ = 0;
};

}  // namespace tent::fuzz
