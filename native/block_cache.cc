#include "block_cache.h"

namespace asof {

BlockPtr BlockCache::Get(const BlockKey& key, const Load& load, std::string* why) {
  bool claimed = false;
  SlotPtr slot = Lookup(key, true, &claimed);
  if (claimed) {
    Fill(slot, load);
  } else {
    hits_.fetch_add(1, std::memory_order_relaxed);
  }
  return Await(slot.get(), why);
}

BlockPtr BlockCache::Find(const BlockKey& key, bool* known, std::string* why) {
  bool claimed = false;
  SlotPtr slot = Lookup(key, false, &claimed);
  *known = slot != nullptr;
  if (!slot) return nullptr;
  hits_.fetch_add(1, std::memory_order_relaxed);
  return Await(slot.get(), why);
}

bool BlockCache::Has(const BlockKey& key) {
  Shard& shard = shards_[ShardOf(key)];
  std::lock_guard lock(shard.mutex);
  return shard.slots.contains(key);
}

BlockCache::SlotPtr BlockCache::Lookup(const BlockKey& key, bool claim, bool* claimed) {
  Shard& shard = shards_[ShardOf(key)];
  std::lock_guard lock(shard.mutex);
  auto found = shard.slots.find(key);
  if (found != shard.slots.end()) {
    Slot* slot = found->second.get();
    if (slot->state.load(std::memory_order_relaxed) == kReady) {
      shard.order.splice(shard.order.begin(), shard.order, slot->place);
    }
    return found->second;
  }
  if (!claim) return nullptr;
  *claimed = true;
  return shard.slots.emplace(key, std::make_shared<Slot>(key)).first->second;
}

BlockPtr BlockCache::Await(Slot* slot, std::string* why) {
  uint32_t state;
  while ((state = slot->state.load(std::memory_order_acquire)) == kUnpacking) slot->state.wait(kUnpacking);
  if (state == kDamaged) *why = slot->why;
  return slot->block;
}

void BlockCache::Fill(const SlotPtr& slot, const Load& load) {
  const BlockKey& key = slot->key;
  auto block = std::make_shared_for_overwrite<uint8_t[]>(key.unpacked_length);
  bool sound = load(block.get(), &slot->why);
  CountUnpacked();
  size_t index = ShardOf(key);
  bool keep = sound && Reserve(key.unpacked_length + kSlotBytes, index);
  if (sound) slot->block = std::move(block);
  {
    Shard& shard = shards_[index];
    std::lock_guard lock(shard.mutex);
    if (keep) {
      slot->place = shard.order.insert(shard.order.begin(), slot.get());
    } else {
      shard.slots.erase(key);
    }
    slot->state.store(sound ? kReady : kDamaged, std::memory_order_release);
  }
  slot->state.notify_all();
}

// Takes the bytes before they are held, so that the limit is never passed. No shard's lock is held by the caller.
bool BlockCache::Reserve(size_t bytes, size_t shard) {
  if (bytes > limit_) return false;
  size_t now = bytes_.load(std::memory_order_relaxed);
  for (;;) {
    if (now + bytes <= limit_) {
      if (bytes_.compare_exchange_weak(now, now + bytes, std::memory_order_relaxed)) return true;
    } else {
      if (!EvictOne(shard)) return false;
      now = bytes_.load(std::memory_order_relaxed);
    }
  }
}

bool BlockCache::EvictOne(size_t first) {
  for (size_t i = 0; i < kShards; ++i) {
    Shard& shard = shards_[(first + i) % kShards];
    SlotPtr last;  // freed outside the lock
    std::lock_guard lock(shard.mutex);
    if (shard.order.empty()) continue;
    auto found = shard.slots.find(shard.order.back()->key);
    last = std::move(found->second);
    shard.slots.erase(found);
    shard.order.pop_back();
    bytes_.fetch_sub(last->key.unpacked_length + kSlotBytes, std::memory_order_relaxed);
    return true;
  }
  return false;
}

}  // namespace asof
