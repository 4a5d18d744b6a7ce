// A hold of several live devices for whoever takes a snapshot outside of this layer (lvcreate, btrfs): their gates are
// closed, drained, and what was written is synced; they open when that is asked for, or by themselves at a deadline.
//
// The gates are closed and opened by one thread, which waits in between: a mutex is its locker's. It is a thread of its own,
// since the pool's are needed meanwhile. What may race: the end is asked for while the deadline passes. Both look under
// `mu_`, so that End tells whether nobody had entered when it was called.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace asof::cow {

class Volume;

class Hold {
 public:
  // Waits until all are held (0), or none is: ETIMEDOUT where writes under way did not end in time, or another errno.
  // After `limit_ms` it is over in any case. Each volume once.
  static int Begin(std::vector<std::shared_ptr<Volume>> volumes, unsigned drain_ms, unsigned limit_ms, std::shared_ptr<Hold>* hold);
  // Opens the gates. Whether they were closed until now; false where the deadline came first, and at a second call.
  bool End();

  // Of each volume, when nobody was inside.
  const std::vector<uint64_t>& writes() const { return writes_; }
  const std::vector<uint32_t>& epochs() const { return epochs_; }
  int64_t time_ms() const { return time_ms_; }

 private:
  enum class State { kClosing, kHeld, kEnding, kOver };
  void Run(const std::vector<std::shared_ptr<Volume>>& volumes, unsigned drain_ms, std::chrono::steady_clock::time_point limit);

  std::mutex mu_;
  std::condition_variable changed_;
  State state_ = State::kClosing;
  int error_ = 0;
  std::vector<uint64_t> writes_;
  std::vector<uint32_t> epochs_;
  int64_t time_ms_ = 0;
};

}  // namespace asof::cow
