#include "defects.h"

#include <algorithm>

namespace asof {
namespace {

constexpr size_t kMaxEntries = 4096;

}  // namespace

void Defects::Add(uint64_t start, uint64_t end, const std::string& why) {
  std::lock_guard lock(mutex_);
  while (start < end) {
    auto next = entries_.upper_bound(start);
    if (next != entries_.begin() && std::prev(next)->second.end > start) {
      start = std::prev(next)->second.end;
      continue;
    }
    uint64_t stop = next == entries_.end() ? end : std::min(end, next->first);
    AddNew(start, stop, why);
    start = stop;
  }
}

// Nothing of [start, end) is in the list.
void Defects::AddNew(uint64_t start, uint64_t end, const std::string& why) {
  auto next = entries_.lower_bound(start);
  if (next != entries_.end() && next->first == end && next->second.why == why) {
    end = next->second.end;
    next = entries_.erase(next);
  }
  if (next != entries_.begin()) {
    Entry& before = std::prev(next)->second;
    if (before.end == start && before.why == why) {
      before.end = end;
      return;
    }
  }
  if (entries_.size() >= kMaxEntries) {
    more_start_ = std::min(more_start_, start);
    more_end_ = std::max(more_end_, end);
    return;
  }
  entries_.emplace_hint(next, start, Entry{end, why});
}

std::vector<Defect> Defects::List() const {
  std::lock_guard lock(mutex_);
  std::vector<Defect> list;
  list.reserve(entries_.size() + 1);
  for (const auto& [start, entry] : entries_) list.push_back(Defect{start, entry.end, entry.why});
  if (more_start_ < more_end_) {
    list.push_back(Defect{more_start_, more_end_, "and more: the list is full, further defects lie in this range"});
  }
  return list;
}

}  // namespace asof
