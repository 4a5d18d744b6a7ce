// Which blocks of a disk have been written through an overlay: a bit each, which is set and never cleared.
//
// Pages of bits come into being with the first block that is written in them. A reader takes no lock: a bit is set when the
// block's bytes are in the layer, and seen together with them.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <vector>

namespace asof::overlay {

constexpr uint64_t kBlock = 4096;
constexpr size_t kPageWords = 504;
constexpr uint64_t kPageBlocks = kPageWords * 64;

class Map {
 public:
  struct Page {
    std::array<std::atomic<uint64_t>, kPageWords> words{};
    std::atomic<bool> dirty{false};
    uint64_t first = 0;  // the flush by which it came into use; 0 for none. The flusher's alone, as what follows.
  };

  explicit Map(uint64_t blocks);
  ~Map();
  Map(const Map&) = delete;
  Map& operator=(const Map&) = delete;

  // False where there was no memory for the table; then nothing else may be called.
  bool valid() const { return pages_ != nullptr; }
  uint64_t blocks() const { return blocks_; }
  uint64_t pages() const { return count_; }
  uint64_t written() const { return written_.load(); }  // blocks

  bool Get(uint64_t block) const;
  // Where the run of blocks ends that are as `block` is, at most `end`; *written says how they are.
  uint64_t RunEnd(uint64_t block, uint64_t end, bool* written) const;
  // Whether all of [first, end) have been written.
  bool All(uint64_t first, uint64_t end) const;

  // [first, end) are written: 0, or ENOMEM with some of them set or none. Whoever sets a block holds its lock.
  int Set(uint64_t first, uint64_t end);

  // The pages that gained bits since the last call, each once. A bit that is set after the caller has copied a page makes
  // it dirty again.
  std::vector<uint64_t> TakeDirty();
  void MakeDirty(uint64_t page);
  Page* Find(uint64_t page) const { return pages_[page].load(std::memory_order_acquire); }
  Page* Make(uint64_t page);  // null without memory
  // As it was read from the file; before anybody else knows the map.
  void Load(Page* page, uint64_t number, const uint8_t* bits);

 private:
  uint64_t Scan(uint64_t block, uint64_t end, bool written) const;

  const uint64_t blocks_;
  const uint64_t count_;
  std::atomic<Page*>* pages_;  // by calloc: what is never touched costs nothing
  std::atomic<uint64_t> written_{0};
  std::mutex mu_;  // guards dirty_
  std::vector<uint64_t> dirty_;
};

}  // namespace asof::overlay
