// Which slots hold preserved copies of which chunks: a chain for each chunk, newest first, in 16 bytes a slot.
//
// Each chain is guarded by one of 64 locks, chosen by the chunk. An entry's fields are written under it; Sweep reads them
// without, to pass by quickly, and looks again under the lock before it frees.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "cow_generation.h"

namespace asof::cow {

class Index {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  explicit Index(uint64_t chunks);
  ~Index();

  // `slot` holds `chunk` as it was from epoch `from` to epoch `to`. False where the same copy is there already.
  bool Insert(uint64_t chunk, uint32_t from, uint32_t to, uint32_t slot);

  // The slot that serves a snapshot of `epoch`, or kNone; *from is since when its content stood.
  uint32_t Find(uint64_t chunk, uint32_t epoch, uint32_t* from = nullptr) const;

  // Takes out every copy for which `free` says so. Copies that serve no epoch from `low` to `high` are passed by.
  std::vector<uint32_t> Sweep(uint32_t low, uint32_t high,
                              const std::function<bool(uint64_t chunk, uint32_t from, uint32_t to)>& free);

  // The same of chunks from `first` up to `end` alone, at the cost of those.
  void SweepChunks(uint64_t first, uint64_t end, uint32_t low, uint32_t high,
                   const std::function<bool(uint64_t chunk, uint32_t from, uint32_t to)>& free, std::vector<uint32_t>* freed);

  // Takes `slot` of `chunk` out; false where it is gone already.
  bool Remove(uint64_t chunk, uint32_t slot);

  // Every copy, in no order, for the start: chunk, to.
  void Each(const std::function<void(uint64_t chunk, uint32_t from, uint32_t to, uint32_t slot)>& visit) const;

  uint64_t Count() const { return count_.load(std::memory_order_relaxed); }

 private:
  struct Entry {
    std::atomic<uint32_t> chunk{0};
    std::atomic<uint32_t> from{0};
    std::atomic<uint32_t> to{0};  // 0: not in use
    std::atomic<uint32_t> next{0};  // slot + 1
  };
  static constexpr uint32_t kSegment = 16384;
  static constexpr uint32_t kSegments = 65536;

  Entry* At(uint32_t slot) const {
    Entry* segment = segments_[slot / kSegment].load(std::memory_order_acquire);
    return segment ? segment + slot % kSegment : nullptr;
  }
  Entry* Make(uint32_t slot);
  bool RemoveLocked(uint64_t chunk, uint32_t slot);
  std::mutex& LockOf(uint64_t chunk) const { return locks_[chunk % locks_.size()]; }

  ChunkMap heads_;  // slot + 1 of the newest copy
  const std::unique_ptr<std::atomic<Entry*>[]> segments_;
  mutable std::array<std::mutex, 64> locks_;
  std::atomic<uint32_t> end_{0};  // slots seen: all entries lie below
  std::atomic<uint64_t> count_{0};
};

}  // namespace asof::cow
