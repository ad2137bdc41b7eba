// The sprayer's whole state as bytes, so that a recording can be replayed from the middle. Every field is
// named in checkpoint.cpp by structured bindings: a struct that gains a field does not compile until it is
// named there too. Containers that are only looked up in (tables of ids, heaps of timers) are built again.
#pragma once

#include "base/bytes.h"
#include "base/status.h"
#include "sched/sprayer.h"

namespace tent::sched {

class Core;

// Raise it whenever the state, or what the sprayer does with it, changes: a recording replays only through
// the code that made it.
constexpr uint16_t kCheckpointVersion = 7;

struct Checkpoint {
    static void outline(const Core& core, Outline& out);
    static bool save(const Core& core, Bytes& out, size_t most);
    // `core` is new. Hostile bytes are refused: indices, list links, times and sums are all checked.
    static Status load(Core& core, ByteView in, const SliceShape& shape);

  private:
    template <class A>
    static void visit(A& a, Core& core);
    template <class A, class T>
    static void pool(A& a, T& pool);
    template <class A, class T>
    static void timers(A& a, T& timers, size_t slots);
    template <class A, class T>
    static void rate_model(A& a, T& model);
    template <class A, class T>
    static void latency_model(A& a, T& model);
    template <class A, class T>
    static void rail(A& a, T& rail);
    template <class A, class T>
    static void link(A& a, T& link);
    template <class A, class T>
    static void peer(A& a, T& peer);
    // checkpoint_sound.cpp: everything that the sprayer takes for granted of its own state.
    static bool sound(const Core& core);
    static bool sound_links(const Core& core);
    static bool sound_free(const Core& core);
    static bool sound_flows(const Core& core);
    static bool sound_attempts(const Core& core);
    static bool sound_peers(const Core& core);
    static void rebuild(Core& core);
};

}  // namespace tent::sched
