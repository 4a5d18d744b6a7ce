#include "extent_map.h"

#include <algorithm>

namespace asof {

ExtentMap::ExtentMap(MapBudget* budget) : budget_(budget) {
  std::lock_guard lock(budget_->mutex_);
  budget_->maps_.push_back(this);
}

ExtentMap::~ExtentMap() {
  {
    std::lock_guard lock(budget_->mutex_);
    std::erase(budget_->maps_, this);
  }
  Clear();
}

RegionPtr ExtentMap::Find(uint64_t offset) const {
  std::shared_lock lock(mutex_);
  auto after = entries_.upper_bound(offset);
  if (after == entries_.begin()) return nullptr;
  const Entry& entry = std::prev(after)->second;
  if (offset >= entry.end) return nullptr;
  // Written by many readers at once: only when it says something new.
  uint64_t now = budget_->clock_.load(std::memory_order_relaxed);
  if (entry.region->used.load(std::memory_order_relaxed) != now) {
    entry.region->used.store(now, std::memory_order_relaxed);
  }
  return entry.region;
}

uint64_t ExtentMap::KnownFrom(uint64_t offset, uint64_t end) const {
  std::shared_lock lock(mutex_);
  auto after = entries_.upper_bound(offset);
  return after == entries_.end() ? end : std::min(end, after->first);
}

void ExtentMap::Insert(const RegionPtr& region) {
  {
    std::unique_lock lock(mutex_);
    region->used.store(budget_->clock_.fetch_add(1, std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    auto at = entries_.upper_bound(region->start);
    if (at != entries_.begin()) {
      Entry& before = std::prev(at)->second;
      if (before.end >= region->end) return;
      if (std::prev(at)->first == region->start) {
        Remove(std::prev(at));
      } else {
        before.end = std::min(before.end, region->start);
      }
    }
    while (at != entries_.end() && at->second.end <= region->end) at = Remove(at);
    if (at != entries_.end() && at->first < region->end) {
      Entry behind = at->second;
      Remove(at);
      Add(region->end, std::move(behind));
    }
    Add(region->start, Entry{region, region->end, region->Bytes()});
  }
  if (budget_->used() > budget_->limit()) budget_->Shrink();
}

void ExtentMap::Clear() {
  std::unique_lock lock(mutex_);
  for (auto at = entries_.begin(); at != entries_.end();) at = Remove(at);
}

void ExtentMap::Add(uint64_t start, Entry entry) {
  budget_->used_.fetch_add(entry.bytes, std::memory_order_relaxed);
  entries_.emplace(start, std::move(entry));
}

std::map<uint64_t, ExtentMap::Entry>::iterator ExtentMap::Remove(std::map<uint64_t, Entry>::iterator at) {
  budget_->used_.fetch_sub(at->second.bytes, std::memory_order_relaxed);
  return entries_.erase(at);
}

void ExtentMap::List(std::vector<Candidate>* candidates) const {
  std::shared_lock lock(mutex_);
  for (const auto& [start, entry] : entries_) {
    candidates->push_back(Candidate{entry.region->used.load(std::memory_order_relaxed), entry.bytes,
                                    const_cast<ExtentMap*>(this), start});
  }
}

void ExtentMap::Forget(uint64_t start) {
  std::unique_lock lock(mutex_);
  if (auto at = entries_.find(start); at != entries_.end()) Remove(at);
}

// Forgets an eighth more than it must, so that a walk over all regions is rare.
void MapBudget::Shrink() {
  std::lock_guard lock(mutex_);
  std::vector<ExtentMap::Candidate> candidates;
  for (const auto* map : maps_) map->List(&candidates);
  std::sort(candidates.begin(), candidates.end(), [](const auto& a, const auto& b) { return a.used < b.used; });
  size_t keep = limit_ - limit_ / 8;
  for (size_t i = 0; i < candidates.size(); ++i) {
    // The newest is what somebody waits for: it goes only where it alone is too much.
    if (used() <= (i + 1 == candidates.size() ? limit_ : keep)) break;
    candidates[i].map->Forget(candidates[i].start);
  }
}

}  // namespace asof
