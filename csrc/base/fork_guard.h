// After fork() the child's engines are dead: it shares sockets and mappings with a parent that goes on. The
// guard closes every descriptor of the engine in the child (so that a parent's death is seen by its peers)
// and answers forked().
#pragma once

#include "base/status.h"

namespace tent {

// Called once per process before the first thread starts; idempotent.
void install_fork_guard();
// Bumped in every child: whoever remembers the value of its birth can tell.
unsigned fork_generation();
void guard_fd(int fd);
void unguard_fd(int fd);
// Closes `fd` unless a fork has already closed it in this process.
void close_guarded(int fd);

}  // namespace tent
