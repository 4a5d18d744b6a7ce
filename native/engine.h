// The extent engine: what all disks of a process share. It knows nothing of JavaScript; engine_object.h does.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "block_cache.h"
#include "extent_map.h"
#include "file_table.h"
#include "pool.h"

namespace asof {

struct Engine {
  Engine(size_t cache_bytes, size_t map_bytes, unsigned threads)
      : maps(map_bytes), cache(cache_bytes), helpers(threads), pool(std::max(threads, 1u)) {}

  FileTable files;
  MapBudget maps;
  BlockCache cache;
  const unsigned helpers;  // threads that unpack beside the reader's own
  std::atomic<uint64_t> resolved{0};
  Pool pool;  // last: its threads end before what they use
};

}  // namespace asof
