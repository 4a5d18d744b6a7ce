#include "read_ahead.h"

#include <algorithm>

namespace asof {
namespace {

// The kernel has several requests of one reader under way, and workers take them in any order.
constexpr uint64_t kSlack = uint64_t{4} << 20;
// Before that a reader is not believed to be sequential.
constexpr uint64_t kProof = uint64_t{256} << 10;

}  // namespace

SequentialReader::Span SequentialReader::Note(uint64_t offset, uint64_t length) {
  std::lock_guard lock(mutex_);
  uint64_t end = offset + length;
  bool near = streak_ > 0 && offset <= next_ + kSlack && end + kSlack >= next_ && (offset == next_ || streak_ >= kProof);
  if (!near) {
    next_ = ahead_ = end;
    streak_ = length;
    return {0, 0};
  }
  streak_ += length;
  next_ = std::max(next_, end);
  if (streak_ < kProof) return {0, 0};
  uint64_t from = std::max(ahead_, next_);
  uint64_t to = next_ + std::min(window_, streak_);
  // In steps of half a window, so that there is something to share among the threads.
  if (from >= to || to - from < (to - next_) / 2) return {0, 0};
  ahead_ = to;
  return {from, to};
}

void SequentialReader::Ahead(uint64_t to) {
  std::lock_guard lock(mutex_);
  ahead_ = std::min(ahead_, to);
}

}  // namespace asof
