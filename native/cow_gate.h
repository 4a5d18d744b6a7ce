// The gate before a live device. Writes enter and leave; a snapshot holds the gate, waits until all who are inside have
// left, switches, and lets go. To hold several volumes at one moment: Close all, Drain all, switch all, Open all.
//
// What may race: a writer adds itself, then looks at the flag; the holder sets the flag, then looks at the counts. All
// four are sequentially consistent, so that at least one of the two sees the other: a writer that saw no flag is
// counted, and one that saw it takes itself back and waits. So after Drain nobody is inside until Open.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace asof::cow {

class Gate {
 public:
  static constexpr unsigned kShards = 16;

  // One a thread, as long as there are not more threads than shards: a writer shares no cache line with another. The
  // counters of activity lie beside it for the same reason.
  struct alignas(64) Shard {
    std::atomic<int64_t> inside{0};
    std::atomic<uint64_t> writes{0};
    std::atomic<uint64_t> bytes{0};
  };

  // Waits while the gate is held. nullptr once it has been shut for good.
  Shard* Enter();
  void Leave(Shard* shard);

  // Takes the gate for a hold; one hold at a time, others wait for it here.
  void Close();
  // Waits until nobody is inside: false when the deadline passed first (the gate stays closed).
  bool Drain(std::chrono::steady_clock::time_point deadline);
  void Open();
  // Nobody enters again. Where it is not closed, some who entered just before may be inside still.
  void Shut() { shut_ = true; }

  const std::array<Shard, kShards>& Shards() const { return shards_; }

 private:
  bool Empty() const;

  std::array<Shard, kShards> shards_;
  std::atomic<bool> held_{false};
  std::atomic<bool> shut_{false};
  std::mutex holder_;
  std::mutex mu_;                    // for the waits alone; the state is in the atomics
  std::condition_variable opened_;   // held_ became false
  std::condition_variable drained_;  // a shard may have become 0
};

}  // namespace asof::cow
