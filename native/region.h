// A region: the runs around some offset of a disk, as src/block/region.ts compiles them. Immutable once decoded.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "codec.h"

namespace asof {

enum class Kind : uint8_t { kZero, kData, kPacked, kBad };  // the order of ROW_KINDS in src/block/region.ts
constexpr unsigned kKinds = 4;

// No block is larger packed or unpacked: bounds what one read of a hostile image can allocate.
constexpr uint64_t kMaxBlock = uint64_t{64} << 20;

// One run. It ends where the next one begins.
struct Row {
  uint64_t start : 56;  // in the disk, bytes
  uint64_t kind : 4;
  uint64_t codec : 4;
  uint64_t offset;  // in the file, bytes
  uint32_t file;
  uint32_t packed_length;  // or, of a bad run, the index of its reason
  uint32_t unpacked_length;
  uint32_t skip;
};
static_assert(sizeof(Row) == 32);

struct Region {
  uint64_t start = 0;
  uint64_t end = 0;
  std::vector<Row> rows;
  std::vector<std::string> reasons;
  // When it was last looked up, by the map's clock: the oldest is forgotten first.
  mutable std::atomic<uint64_t> used{0};

  // The index of the row that holds `offset`, which lies in the region.
  size_t RowAt(uint64_t offset) const;
  uint64_t RowEnd(size_t row) const { return row + 1 < rows.size() ? rows[row + 1].start : end; }
  // Memory that it takes, bytes.
  size_t Bytes() const;
};

// An answer as it comes from JavaScript, not yet believed.
struct RawRegion {
  double start = 0;
  const double* numbers = nullptr;  // ROW of src/block/region.ts a run
  size_t count = 0;
  std::vector<std::string> reasons;
};

// The region, or null and *why: every number is checked, and the region must hold `asked` and end within `size`.
// `files` is how many there are.
std::shared_ptr<const Region> DecodeRegion(RawRegion answer, uint64_t asked, uint64_t size, uint32_t files,
                                           std::string* why);

}  // namespace asof
