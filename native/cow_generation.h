// One 32-bit number for each chunk, in pages that exist once something in them was set: the generation map (the epoch of
// a chunk's last first write, 0 for never) and the heads of the index of preserved copies. Where nothing was set it
// costs the page table alone: 8 bytes for 1,024 chunks.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace asof::cow {

class ChunkMap {
 public:
  static constexpr size_t kPage = 1024;
  using Page = std::atomic<uint32_t>[kPage];

  explicit ChunkMap(uint64_t chunks) : pages_((chunks + kPage - 1) / kPage), table_(new std::atomic<Page*>[pages_]()) {}
  ~ChunkMap() { Clear(); }
  ChunkMap(const ChunkMap&) = delete;
  ChunkMap& operator=(const ChunkMap&) = delete;

  uint32_t Get(uint64_t chunk) const {
    const Page* page = table_[chunk / kPage].load(std::memory_order_acquire);
    return page ? (*page)[chunk % kPage].load(std::memory_order_acquire) : 0;
  }

  void Set(uint64_t chunk, uint32_t value) { (*Touch(chunk / kPage))[chunk % kPage].store(value, std::memory_order_release); }

  // All zero again. Nobody else may be using it.
  void Clear() {
    for (size_t i = 0; i < pages_; i++) delete[] reinterpret_cast<std::atomic<uint32_t>*>(table_[i].exchange(nullptr));
  }

  size_t Pages() const { return pages_; }
  const Page* At(size_t page) const { return table_[page].load(std::memory_order_acquire); }

 private:
  // Two threads may make the page at once: one exchange wins, the other frees its own, still all zero, and takes it.
  Page* Touch(size_t index) {
    Page* page = table_[index].load(std::memory_order_acquire);
    if (page) return page;
    auto* fresh = reinterpret_cast<Page*>(new std::atomic<uint32_t>[kPage]());
    if (table_[index].compare_exchange_strong(page, fresh, std::memory_order_acq_rel)) return fresh;
    delete[] reinterpret_cast<std::atomic<uint32_t>*>(fresh);
    return page;
  }

  const size_t pages_;
  const std::unique_ptr<std::atomic<Page*>[]> table_;
};

}  // namespace asof::cow
