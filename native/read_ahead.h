// Tells a sequential reader, and how far to unpack before it.
#pragma once

#include <cstdint>
#include <mutex>

#include "disk.h"

namespace asof {

class SequentialReader final : public Reader {
 public:
  // `window` is the most to be ahead, bytes.
  explicit SequentialReader(uint64_t window) : window_(window) {}

  struct Span {
    uint64_t from;
    uint64_t to;
  };

  // A read of [offset, offset + length) begins. What is now to be read ahead; an empty span where nothing is.
  Span Note(uint64_t offset, uint64_t length);

  // Reading ahead of the span from `from` came as far as `to`.
  void Ahead(uint64_t to);

 private:
  const uint64_t window_;
  std::mutex mutex_;
  uint64_t next_ = 0;    // where a sequential reader would go on
  uint64_t streak_ = 0;  // bytes read in sequence
  uint64_t ahead_ = 0;   // up to here it has been read ahead
};

}  // namespace asof
