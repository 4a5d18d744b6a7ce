// A set of chunk numbers as runs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>

namespace asof::cow {

class Ranges {
 public:
  void Add(uint64_t start, uint64_t end) {
    if (start >= end) return;
    auto it = runs_.upper_bound(start);
    if (it != runs_.begin() && std::prev(it)->second >= start) --it;
    while (it != runs_.end() && it->first <= end) {
      start = std::min(start, it->first);
      end = std::max(end, it->second);
      it = runs_.erase(it);
    }
    runs_.emplace(start, end);
  }

  // Any of [start, end).
  bool Overlaps(uint64_t start, uint64_t end) const {
    const auto it = runs_.lower_bound(end);
    return it != runs_.begin() && std::prev(it)->second > start;
  }
  bool Has(uint64_t chunk) const { return Overlaps(chunk, chunk + 1); }
  bool Empty() const { return runs_.empty(); }
  const std::map<uint64_t, uint64_t>& Runs() const { return runs_; }

 private:
  std::map<uint64_t, uint64_t> runs_;  // start → end
};

}  // namespace asof::cow
