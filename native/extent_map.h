// Where the bytes of a disk live, as far as JavaScript has told: regions that never overlap, forgotten when the maps
// of all disks together pass their limit, the one that was looked up longest ago first.
//
// A region that has been forgotten is still right (a disk never changes): who holds its pointer may go on.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <vector>

#include "region.h"

namespace asof {

using RegionPtr = std::shared_ptr<const Region>;

class MapBudget;

class ExtentMap {
 public:
  explicit ExtentMap(MapBudget* budget);
  ~ExtentMap();
  ExtentMap(const ExtentMap&) = delete;
  ExtentMap& operator=(const ExtentMap&) = delete;

  // The region that holds `offset`, or null.
  RegionPtr Find(uint64_t offset) const;

  // Where the first known region behind `offset` begins; `end` where there is none before it.
  uint64_t KnownFrom(uint64_t offset, uint64_t end) const;

  // Adds what is new in `region`; of what overlaps, either will do. The budget then forgets what is too much.
  void Insert(const RegionPtr& region);

  void Clear();

 private:
  friend class MapBudget;
  struct Entry {
    RegionPtr region;
    uint64_t end;  // of the part that it answers for; the key is the beginning
    size_t bytes;
  };
  struct Candidate {
    uint64_t used;
    size_t bytes;
    ExtentMap* map;
    uint64_t start;
  };

  void Add(uint64_t start, Entry entry);
  std::map<uint64_t, Entry>::iterator Remove(std::map<uint64_t, Entry>::iterator at);
  void List(std::vector<Candidate>* candidates) const;
  void Forget(uint64_t start);

  MapBudget* const budget_;
  mutable std::shared_mutex mutex_;
  std::map<uint64_t, Entry> entries_;
};

// The bytes of all maps of an engine. Lock order: the budget's mutex, then a map's.
class MapBudget {
 public:
  explicit MapBudget(size_t limit) : limit_(limit) {}

  size_t used() const { return used_.load(std::memory_order_relaxed); }
  size_t limit() const { return limit_; }

 private:
  friend class ExtentMap;
  void Shrink();

  const size_t limit_;
  std::atomic<size_t> used_{0};
  std::atomic<uint64_t> clock_{1};
  std::mutex mutex_;
  std::vector<ExtentMap*> maps_;
};

}  // namespace asof
