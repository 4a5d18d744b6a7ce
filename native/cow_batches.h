// The memory of copies: so many buffers and no more, however many write and however slow the store is. One is made, and
// touched, when the volume opens, so that a first write can be preserved where there is no memory left to be had; whoever
// finds all of them in use waits for one. That wait ends: a holder of a buffer waits for the store's file alone.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "cow_format.h"

namespace asof::cow {

// Bytes that one copy takes up at once, where a chunk is not longer.
constexpr uint64_t kBatchBytes = 1 << 20;

// `data` holds the chunks one behind the other.
struct CopyBatch {
  std::unique_ptr<uint8_t[]> data;
  std::unique_ptr<uint8_t[]> headers;
};

class BatchPool : public std::enable_shared_from_this<BatchPool> {
 public:
  static constexpr size_t kMost = 64;
  static constexpr size_t kKept = 16;

  explicit BatchPool(uint32_t chunk_size)
      : chunk_size_(chunk_size), chunks_(kBatchBytes > chunk_size ? kBatchBytes / chunk_size : 1) {
    idle_.push_back(Make());
  }

  // Comes back by itself, also long after a time-out. nullptr where none is free.
  std::shared_ptr<CopyBatch> TryTake() {
    const std::lock_guard lock(mu_);
    return TakeLocked();
  }
  // nullptr when `ms` passed before one was free; 0 is for ever.
  std::shared_ptr<CopyBatch> Take(unsigned ms) {
    std::unique_lock lock(mu_);
    const auto free = [this] { return !idle_.empty() || made_ < kMost; };
    if (ms == 0) {
      returned_.wait(lock, free);
    } else if (!returned_.wait_for(lock, std::chrono::milliseconds(ms), free)) {
      return nullptr;
    }
    return TakeLocked();
  }

 private:
  std::unique_ptr<CopyBatch> Make() {
    made_++;
    auto batch = std::make_unique<CopyBatch>();
    batch->data.reset(new uint8_t[chunks_ * chunk_size_]());
    batch->headers.reset(new uint8_t[chunks_ * kHeader]());
    return batch;
  }
  std::shared_ptr<CopyBatch> TakeLocked() {
    if (idle_.empty() && made_ == kMost) return nullptr;
    std::unique_ptr<CopyBatch> batch;
    if (idle_.empty()) {
      batch = Make();
    } else {
      batch = std::move(idle_.back());
      idle_.pop_back();
    }
    return {batch.release(), [self = shared_from_this()](CopyBatch* used) { self->Return(std::unique_ptr<CopyBatch>(used)); }};
  }
  void Return(std::unique_ptr<CopyBatch> batch) {
    {
      const std::lock_guard lock(mu_);
      if (idle_.size() < kKept) {
        idle_.push_back(std::move(batch));
      } else {
        made_--;
      }
    }
    returned_.notify_one();
  }

  const uint32_t chunk_size_;
  const size_t chunks_;
  std::mutex mu_;
  std::condition_variable returned_;
  std::vector<std::unique_ptr<CopyBatch>> idle_;
  size_t made_ = 0;
};

}  // namespace asof::cow
