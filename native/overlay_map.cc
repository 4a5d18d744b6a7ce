#include "overlay_map.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <new>

namespace asof::overlay {

static_assert(std::atomic<Map::Page*>::is_always_lock_free && sizeof(std::atomic<Map::Page*>) == sizeof(void*));

// Zeroed memory is a table of null pointers.
Map::Map(uint64_t blocks)
    : blocks_(blocks),
      count_((blocks + kPageBlocks - 1) / kPageBlocks),
      pages_(static_cast<std::atomic<Page*>*>(calloc(std::max<uint64_t>(count_, 1), sizeof(std::atomic<Page*>)))) {}

Map::~Map() {
  for (uint64_t i = 0; pages_ && i < count_; i++) delete pages_[i].load();
  free(pages_);
}

Map::Page* Map::Make(uint64_t number) {
  Page* page = Find(number);
  if (page) return page;
  auto* fresh = new (std::nothrow) Page;
  if (!fresh) return nullptr;
  if (pages_[number].compare_exchange_strong(page, fresh, std::memory_order_acq_rel)) return fresh;
  delete fresh;
  return page;
}

bool Map::Get(uint64_t block) const {
  const Page* page = Find(block / kPageBlocks);
  const uint64_t bit = block % kPageBlocks;
  return page && (page->words[bit / 64].load(std::memory_order_acquire) >> (bit % 64)) & 1;
}

uint64_t Map::RunEnd(uint64_t block, uint64_t end, bool* written) const {
  for (;;) {
    *written = Get(block);
    const uint64_t stop = Scan(block, end, *written);
    if (stop > block || block >= end) return stop;  // else it has been written meanwhile
  }
}

uint64_t Map::Scan(uint64_t block, uint64_t end, bool written) const {
  for (uint64_t at = block; at < end;) {
    const uint64_t number = at / kPageBlocks;
    const uint64_t base = number * kPageBlocks;
    const Page* page = Find(number);
    if (!page) {
      if (written) return at;
      at = base + kPageBlocks;
      continue;
    }
    for (; at < end && at < base + kPageBlocks; at = base + ((at - base) / 64 + 1) * 64) {
      const uint64_t word = page->words[(at - base) / 64].load(std::memory_order_acquire);
      const uint64_t other = (written ? ~word : word) & (~uint64_t{0} << ((at - base) % 64));
      if (other) return std::min(end, base + (at - base) / 64 * 64 + static_cast<uint64_t>(std::countr_zero(other)));
    }
  }
  return end;
}

bool Map::All(uint64_t first, uint64_t end) const {
  bool written;
  return RunEnd(first, end, &written) == end && written;
}

int Map::Set(uint64_t first, uint64_t end) {
  for (uint64_t at = first; at < end;) {
    const uint64_t number = at / kPageBlocks;
    const uint64_t base = number * kPageBlocks;
    const uint64_t stop = std::min(end, base + kPageBlocks);
    Page* page = Make(number);
    if (!page) return ENOMEM;
    bool gained = false;
    while (at < stop) {
      const uint64_t low = (at - base) % 64;
      const uint64_t n = std::min(64 - low, stop - at);
      const uint64_t mask = (n == 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1) << low;
      // Sequentially consistent, and so is `dirty`: see TakeDirty.
      const uint64_t before = page->words[(at - base) / 64].fetch_or(mask);
      const int fresh = std::popcount(mask & ~before);
      if (fresh) written_ += static_cast<uint64_t>(fresh), gained = true;
      at += n;
    }
    if (gained) MakeDirty(number);
  }
  return 0;
}

void Map::MakeDirty(uint64_t number) {
  if (Find(number)->dirty.exchange(true)) return;
  const std::lock_guard lock(mu_);
  dirty_.push_back(number);
}

// The mark goes before the caller copies the bits: one that is set too late to be copied finds no mark, and makes a new one.
std::vector<uint64_t> Map::TakeDirty() {
  std::vector<uint64_t> taken;
  {
    const std::lock_guard lock(mu_);
    taken.swap(dirty_);
  }
  for (const uint64_t number : taken) Find(number)->dirty = false;
  return taken;
}

void Map::Load(Page* page, uint64_t number, const uint8_t* bits) {
  for (size_t i = 0; i < kPageWords; i++) {
    uint64_t word;
    memcpy(&word, bits + i * 8, 8);
    // A bit beyond the end would count as written.
    const uint64_t start = number * kPageBlocks + i * 64;
    if (start >= blocks_) word = 0;
    else if (blocks_ - start < 64) word &= (uint64_t{1} << (blocks_ - start)) - 1;
    page->words[i] = word;
    written_ += static_cast<uint64_t>(std::popcount(word));
  }
}

}  // namespace asof::overlay
