// Unpacked blocks, shared by all disks and threads of an engine, within a budget of bytes; the one that was used
// longest ago goes first (by shard). One thread unpacks a block while others that want it wait; no lock is held then.
//
// A block that does not unpack is not remembered: who waited for it learns why, who comes later tries again.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "codec.h"

namespace asof {

// All that says what the bytes of a block are: two runs of a hostile image may name one place in two ways.
struct BlockKey {
  uint64_t offset;
  uint32_t file;
  uint32_t packed_length;
  uint32_t unpacked_length;
  Codec codec;

  bool operator==(const BlockKey&) const = default;
};

struct BlockHash {
  size_t operator()(const BlockKey& key) const {
    uint64_t h = (key.offset ^ (uint64_t{key.file} << 40)) * 0x9E3779B97F4A7C15u;
    return static_cast<size_t>(h ^ (h >> 29));
  }
};

using BlockPtr = std::shared_ptr<const uint8_t[]>;

class BlockCache {
 public:
  // Fills `into`, which has the key's unpacked length, or says why not.
  using Load = std::function<bool(uint8_t* into, std::string* why)>;

  explicit BlockCache(size_t limit) : limit_(limit) {}

  // The block's bytes; null, and *why, where it does not unpack.
  BlockPtr Get(const BlockKey& key, const Load& load, std::string* why);

  // Likewise where it is there or being unpacked; *known says whether that is so.
  BlockPtr Find(const BlockKey& key, bool* known, std::string* why);

  bool Has(const BlockKey& key);

  // A block was unpacked past the cache.
  void CountUnpacked() { unpacked_.fetch_add(1, std::memory_order_relaxed); }

  size_t bytes() const { return bytes_.load(std::memory_order_relaxed); }
  size_t limit() const { return limit_; }
  uint64_t unpacked() const { return unpacked_.load(std::memory_order_relaxed); }
  uint64_t hits() const { return hits_.load(std::memory_order_relaxed); }

 private:
  enum State : uint32_t { kUnpacking, kReady, kDamaged };
  struct Slot {
    explicit Slot(const BlockKey& k) : key(k) {}
    const BlockKey key;
    BlockPtr block;   // written before the state leaves kUnpacking, never after
    std::string why;  // likewise
    std::atomic<uint32_t> state{kUnpacking};
    std::list<Slot*>::iterator place;  // in the shard's order; guarded by its mutex, valid once ready
  };
  using SlotPtr = std::shared_ptr<Slot>;
  struct Shard {
    std::mutex mutex;
    std::unordered_map<BlockKey, SlotPtr, BlockHash> slots;
    std::list<Slot*> order;  // ready slots, the last used first
  };
  static constexpr size_t kShards = 16;
  static constexpr size_t kSlotBytes = 256;  // what a slot takes beside its block, about

  size_t ShardOf(const BlockKey& key) const { return BlockHash()(key) % kShards; }
  // The slot; *claimed where the caller must fill it. With `claim` false, null where there is none.
  SlotPtr Lookup(const BlockKey& key, bool claim, bool* claimed);
  BlockPtr Await(Slot* slot, std::string* why);
  void Fill(const SlotPtr& slot, const Load& load);
  bool Reserve(size_t bytes, size_t shard);
  bool EvictOne(size_t shard);

  const size_t limit_;
  std::atomic<size_t> bytes_{0};
  std::atomic<uint64_t> unpacked_{0};
  std::atomic<uint64_t> hits_{0};
  Shard shards_[kShards];
};

}  // namespace asof
