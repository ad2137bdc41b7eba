// The sprayer's containers. None of them allocates once it has grown to the size its load needs, and none has
// an order that depends on a hash or an address.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "model/types.h"

namespace tent::sched {

// 64-bit id -> slot, open addressing. Never iterated: look-ups only.
class IdTable {
  public:
    IdTable() : cells_(64) {}

    uint32_t find(uint64_t id) const {
        for (size_t i = home(id);; i = next(i)) {
            if (cells_[i].slot == kNoId) return kNoId;
            if (cells_[i].id == id) return cells_[i].slot;
        }
    }
    // `id` must not be there yet.
    void insert(uint64_t id, uint32_t slot) {
        if (2 * ++count_ > cells_.size()) grow();
        place(id, slot);
    }
    void erase(uint64_t id) {
        size_t i = home(id);
        for (; cells_[i].id != id || cells_[i].slot == kNoId; i = next(i)) {
            if (cells_[i].slot == kNoId) return;
        }
        --count_;
        // Close the gap, so that no look-up stops short of what it displaced.
        for (size_t j = next(i); cells_[j].slot != kNoId; j = next(j)) {
            size_t want = home(cells_[j].id);
            bool stays = i <= j ? (i < want && want <= j) : (i < want || want <= j);
            if (stays) continue;
            cells_[i] = cells_[j];
            i = j;
        }
        cells_[i].slot = kNoId;
    }
    size_t size() const { return count_; }

  private:
    struct Cell {
        uint64_t id = 0;
        uint32_t slot = kNoId;
    };
    size_t home(uint64_t id) const {
        return static_cast<size_t>((id * 0x9e3779b97f4a7c15u) >> 20) & (cells_.size() - 1);
    }
    size_t next(size_t i) const { return (i + 1) & (cells_.size() - 1); }
    void place(uint64_t id, uint32_t slot) {
        size_t i = home(id);
        while (cells_[i].slot != kNoId) i = next(i);
        cells_[i] = {id, slot};
    }
    void grow() {
        std::vector<Cell> old(cells_.size() * 2);
        old.swap(cells_);
        for (const Cell& c : old) {
            if (c.slot != kNoId) place(c.id, c.slot);
        }
    }
    std::vector<Cell> cells_;
    size_t count_ = 0;
};

// At most one timer per slot; ties go to the lower slot.
class Timers {
  public:
    Nanos earliest() const { return heap_.empty() ? kNever : heap_.front().when; }
    uint32_t earliest_slot() const { return heap_.empty() ? kNoId : heap_.front().slot; }
    Nanos at(uint32_t slot) const {
        return slot < position_.size() && position_[slot] != kNoId ? heap_[position_[slot]].when : kNever;
    }
    // kNever stops it.
    void set(uint32_t slot, Nanos when) {
        if (slot >= position_.size()) position_.resize(slot + 1, kNoId);
        uint32_t i = position_[slot];
        if (when == kNever) {
            if (i != kNoId) remove(i);
            return;
        }
        if (i == kNoId) {
            i = static_cast<uint32_t>(heap_.size());
            heap_.push_back({when, slot});
            position_[slot] = i;
        }
        heap_[i].when = when;
        settle(i);
    }

  private:
    friend struct Checkpoint;
    struct Entry {
        Nanos when;
        uint32_t slot;
        bool operator<(const Entry& o) const { return when != o.when ? when < o.when : slot < o.slot; }
    };
    void exchange(uint32_t a, uint32_t b) {
        std::swap(heap_[a], heap_[b]);
        position_[heap_[a].slot] = a;
        position_[heap_[b].slot] = b;
    }
    void settle(uint32_t i) {
        while (i > 0 && heap_[i] < heap_[(i - 1) / 2]) {
            exchange(i, (i - 1) / 2);
            i = (i - 1) / 2;
        }
        for (;;) {
            size_t child = 2 * static_cast<size_t>(i) + 1;
            if (child >= heap_.size()) return;
            if (child + 1 < heap_.size() && heap_[child + 1] < heap_[child]) ++child;
            if (!(heap_[child] < heap_[i])) return;
            exchange(i, static_cast<uint32_t>(child));
            i = static_cast<uint32_t>(child);
        }
    }
    void remove(uint32_t i) {
        auto last = static_cast<uint32_t>(heap_.size() - 1);
        if (i != last) exchange(i, last);
        position_[heap_.back().slot] = kNoId;
        heap_.pop_back();
        if (i != last) settle(i);
    }
    std::vector<Entry> heap_;
    std::vector<uint32_t> position_;
};

// A queue in a ring that doubles when it is full.
template <class T>
class Ring {
  public:
    Ring() : items_(64) {}
    bool empty() const { return count_ == 0; }
    void push(const T& item) {
        if (count_ == items_.size()) grow();
        items_[(head_ + count_++) & (items_.size() - 1)] = item;
    }
    T pop() {
        T item = items_[head_];
        head_ = (head_ + 1) & (items_.size() - 1);
        --count_;
        return item;
    }
    size_t size() const { return count_; }
    const T& at(size_t i) const { return items_[(head_ + i) & (items_.size() - 1)]; }

  private:
    void grow() {
        std::vector<T> bigger(items_.size() * 2);
        for (size_t i = 0; i < count_; ++i) bigger[i] = items_[(head_ + i) & (items_.size() - 1)];
        items_.swap(bigger);
        head_ = 0;
    }
    std::vector<T> items_;
    size_t head_ = 0, count_ = 0;
};

// Slots that are used again; the one freed last first, so that they stay in cache.
template <class T>
class Pool {
  public:
    uint32_t take() {
        if (free_.empty()) {
            items_.emplace_back();
            return static_cast<uint32_t>(items_.size() - 1);
        }
        uint32_t slot = free_.back();
        free_.pop_back();
        return slot;
    }
    void give(uint32_t slot) { free_.push_back(slot); }
    T& operator[](uint32_t slot) { return items_[slot]; }
    const T& operator[](uint32_t slot) const { return items_[slot]; }
    size_t live() const { return items_.size() - free_.size(); }

  private:
    friend struct Checkpoint;
    std::vector<T> items_;
    std::vector<uint32_t> free_;
};

}  // namespace tent::sched
