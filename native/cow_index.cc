#include "cow_index.h"

namespace asof::cow {

Index::Index(uint64_t chunks) : heads_(chunks), segments_(new std::atomic<Entry*>[kSegments]()) {}

Index::~Index() {
  for (uint32_t i = 0; i < kSegments; i++) delete[] segments_[i].load();
}

Index::Entry* Index::Make(uint32_t slot) {
  std::atomic<Entry*>& place = segments_[slot / kSegment];
  Entry* segment = place.load(std::memory_order_acquire);
  if (!segment) {
    auto* fresh = new Entry[kSegment];
    if (place.compare_exchange_strong(segment, fresh, std::memory_order_acq_rel)) {
      segment = fresh;
    } else {
      delete[] fresh;
    }
  }
  uint32_t end = end_.load();
  while (end <= slot && !end_.compare_exchange_weak(end, slot + 1)) {
  }
  return segment + slot % kSegment;
}

bool Index::Insert(uint64_t chunk, uint32_t from, uint32_t to, uint32_t slot) {
  Entry* entry = Make(slot);
  const std::lock_guard lock(LockOf(chunk));
  // While running, the new copy is always the newest; at the start they come in any order.
  uint32_t before = 0;
  uint32_t at = heads_.Get(chunk);
  while (at != 0 && At(at - 1)->to.load(std::memory_order_relaxed) >= to) {
    if (At(at - 1)->to.load(std::memory_order_relaxed) == to) return false;
    before = at;
    at = At(at - 1)->next.load(std::memory_order_relaxed);
  }
  entry->chunk.store(static_cast<uint32_t>(chunk), std::memory_order_relaxed);
  entry->from.store(from, std::memory_order_relaxed);
  entry->next.store(at, std::memory_order_relaxed);
  entry->to.store(to, std::memory_order_release);
  if (before == 0) {
    heads_.Set(chunk, slot + 1);
  } else {
    At(before - 1)->next.store(slot + 1, std::memory_order_relaxed);
  }
  count_.fetch_add(1, std::memory_order_relaxed);
  return true;
}

uint32_t Index::Find(uint64_t chunk, uint32_t epoch, uint32_t* from) const {
  const std::lock_guard lock(LockOf(chunk));
  uint32_t found = kNone;
  for (uint32_t at = heads_.Get(chunk); at != 0;) {
    const Entry* entry = At(at - 1);
    if (entry->to.load(std::memory_order_relaxed) < epoch) break;
    const uint32_t since = entry->from.load(std::memory_order_relaxed);
    found = since <= epoch ? at - 1 : kNone;
    if (from) *from = since;
    at = entry->next.load(std::memory_order_relaxed);
  }
  return found;
}

bool Index::RemoveLocked(uint64_t chunk, uint32_t slot) {
  uint32_t before = 0;
  uint32_t at = heads_.Get(chunk);
  while (at != 0 && at != slot + 1) {
    before = at;
    at = At(at - 1)->next.load(std::memory_order_relaxed);
  }
  if (at == 0) return false;
  Entry* entry = At(slot);
  const uint32_t next = entry->next.load(std::memory_order_relaxed);
  if (before == 0) {
    heads_.Set(chunk, next);
  } else {
    At(before - 1)->next.store(next, std::memory_order_relaxed);
  }
  entry->to.store(0, std::memory_order_release);
  count_.fetch_sub(1, std::memory_order_relaxed);
  return true;
}

bool Index::Remove(uint64_t chunk, uint32_t slot) {
  const std::lock_guard lock(LockOf(chunk));
  return RemoveLocked(chunk, slot);
}

std::vector<uint32_t> Index::Sweep(uint32_t low, uint32_t high,
                                   const std::function<bool(uint64_t, uint32_t, uint32_t)>& free) {
  std::vector<uint32_t> freed;
  const uint32_t end = end_.load();
  for (uint32_t slot = 0; slot < end; slot++) {
    Entry* entry = At(slot);
    if (!entry) {
      slot += kSegment - 1;
      continue;
    }
    uint32_t to = entry->to.load(std::memory_order_acquire);
    if (to < low || to == 0 || entry->from.load(std::memory_order_relaxed) > high) continue;
    const uint64_t chunk = entry->chunk.load(std::memory_order_relaxed);
    const std::lock_guard lock(LockOf(chunk));
    // A slot may have been freed and taken by another chunk meanwhile: then that writer looks after it itself.
    to = entry->to.load(std::memory_order_relaxed);
    if (to == 0 || entry->chunk.load(std::memory_order_relaxed) != chunk) continue;
    if (free(chunk, entry->from.load(std::memory_order_relaxed), to) && RemoveLocked(chunk, slot)) freed.push_back(slot);
  }
  return freed;
}

void Index::SweepChunks(uint64_t first, uint64_t end, uint32_t low, uint32_t high,
                        const std::function<bool(uint64_t, uint32_t, uint32_t)>& free, std::vector<uint32_t>* freed) {
  for (uint64_t chunk = first; chunk < end; chunk++) {
    if (!heads_.At(chunk / ChunkMap::kPage)) {
      chunk = (chunk / ChunkMap::kPage + 1) * ChunkMap::kPage - 1;
      continue;
    }
    if (heads_.Get(chunk) == 0) continue;
    const std::lock_guard lock(LockOf(chunk));
    for (uint32_t at = heads_.Get(chunk); at != 0;) {
      const uint32_t slot = at - 1;
      const Entry* entry = At(slot);
      const uint32_t from = entry->from.load(std::memory_order_relaxed), to = entry->to.load(std::memory_order_relaxed);
      at = entry->next.load(std::memory_order_relaxed);
      if (to < low) break;
      if (from <= high && free(chunk, from, to) && RemoveLocked(chunk, slot)) freed->push_back(slot);
    }
  }
}

void Index::Each(const std::function<void(uint64_t, uint32_t, uint32_t, uint32_t)>& visit) const {
  const uint32_t end = end_.load();
  for (uint32_t slot = 0; slot < end; slot++) {
    const Entry* entry = At(slot);
    if (!entry) {
      slot += kSegment - 1;
      continue;
    }
    const uint32_t to = entry->to.load(std::memory_order_acquire);
    if (to != 0) visit(entry->chunk.load(), entry->from.load(), to, slot);
  }
}

}  // namespace asof::cow
