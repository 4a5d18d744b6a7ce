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
  uint64_t next = next_->load(std::memory_order_relaxed);
  uint64_t end = offset + length;
  bool exact = offset == next;
  bool near = streak_ >= kProof && offset <= next + kSlack && end + kSlack >= next;
  if (!exact && !near) {
    next_->store(end, std::memory_order_relaxed);
    ahead_ = end;
    streak_ = length;
    return {0, 0};
  }
  streak_ += length;
  next = std::max(next, end);
  next_->store(next, std::memory_order_relaxed);
  if (streak_ < kProof) return {0, 0};
  uint64_t from = std::max(ahead_, next);
  uint64_t to = next + std::min(window_, streak_);
  // In steps of half a window, so that there is something to share among the threads.
  if (from >= to || to - from < (to - next) / 2) return {0, 0};
  ahead_ = to;
  return {from, to};
}

void SequentialReader::CameTo(uint64_t to) {
  std::lock_guard lock(mutex_);
  ahead_ = std::min(ahead_, to);
}

}  // namespace asof
