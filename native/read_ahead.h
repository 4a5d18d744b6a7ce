// Tells a sequential reader, and how far to unpack before it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>

#include "disk.h"

namespace asof {

class SequentialReader final : public Reader {
 public:
  // Where the reader would go on; what lies before it need not be read ahead any more.
  using Position = std::shared_ptr<std::atomic<uint64_t>>;

  struct Span {
    uint64_t from;
    uint64_t to;
  };

  // `window` is the most to be ahead, bytes.
  explicit SequentialReader(uint64_t window) : window_(window) {}

  // A read of [offset, offset + length) begins. What is now to be read ahead; an empty span where nothing is.
  Span Note(uint64_t offset, uint64_t length);

  // Reading ahead came as far as `to`: the rest will be asked for again.
  void CameTo(uint64_t to);

  const Position& position() const { return next_; }

 private:
  const uint64_t window_;
  std::mutex mutex_;
  const Position next_ = std::make_shared<std::atomic<uint64_t>>(0);  // written under the mutex
  uint64_t streak_ = 0;  // bytes read in sequence
  uint64_t ahead_ = 0;   // up to here it has been read ahead
};

}  // namespace asof
