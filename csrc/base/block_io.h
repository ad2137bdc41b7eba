// Reads and writes of one file, block by block: what the store's disk tier asks of the file transport. Knows
// nothing of pages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "base/status.h"

namespace tent {

constexpr size_t kBlock = 4096;  // offsets, lengths and memory are multiples of it

enum class BlockKind : uint8_t { read, write, sync };

struct BlockOp {
    BlockKind kind = BlockKind::read;
    uint64_t offset = 0;
    uint8_t* memory = nullptr;  // the implementation's until `done` was called
    size_t bytes = 0;
    // Called once, on a thread of the implementation: it must not block. ok, io_error (also what the file is
    // too short for), no_space or closed.
    std::function<void(const Status&)> done;
};

class BlockIo {
  public:
    BlockIo() = default;
    BlockIo(const BlockIo&) = delete;
    BlockIo& operator=(const BlockIo&) = delete;
    virtual ~BlockIo() = default;
    // Never blocks, however slow the disk is; in any order. Any thread.
    virtual void submit(BlockOp op) = 0;
};

}  // namespace tent
