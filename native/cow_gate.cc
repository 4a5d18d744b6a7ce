#include "cow_gate.h"

namespace asof::cow {
namespace {

std::atomic<unsigned> next_thread{0};
thread_local const unsigned kThread = next_thread.fetch_add(1, std::memory_order_relaxed) % Gate::kShards;

}  // namespace

Gate::Shard* Gate::Enter() {
  Shard* shard = &shards_[kThread];
  for (;;) {
    shard->inside.fetch_add(1);
    if (!held_.load()) {
      if (!shut_.load(std::memory_order_relaxed)) return shard;
      Leave(shard);
      return nullptr;
    }
    Leave(shard);
    std::unique_lock lock(mu_);
    opened_.wait(lock, [this] { return !held_.load(); });
  }
}

void Gate::Leave(Shard* shard) {
  shard->inside.fetch_sub(1);
  if (!held_.load()) return;
  // The lock keeps the notice from falling between the holder's look at the counts and its wait.
  const std::lock_guard lock(mu_);
  drained_.notify_all();
}

void Gate::Close() {
  holder_.lock();
  held_ = true;
}

bool Gate::Empty() const {
  // A shard that was 0 stays so: whoever enters now sees the flag and takes itself back.
  for (const Shard& shard : shards_) {
    if (shard.inside.load() != 0) return false;
  }
  return true;
}

bool Gate::Drain(std::chrono::steady_clock::time_point deadline) {
  for (int spin = 0; spin < 200; spin++) {
    if (Empty()) return true;
  }
  std::unique_lock lock(mu_);
  return drained_.wait_until(lock, deadline, [this] { return Empty(); });
}

void Gate::Open() {
  {
    const std::lock_guard lock(mu_);
    held_ = false;
  }
  opened_.notify_all();
  holder_.unlock();
}

}  // namespace asof::cow
