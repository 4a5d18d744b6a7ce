// Two things around the store's and the tracker's I/O: one fdatasync for many waiters, and a time-out for a disk that
// hangs.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>

#include "cow_file.h"

namespace asof::cow {

// Group commit. Whoever comes while a sync runs waits for the next one, which one of them runs for all.
//
// What may race: a write that ends while a sync runs may or may not be covered by it; its ticket is newer than what the
// sync began with, so that its writer takes part in the next. After a failed sync the kernel may have dropped the pages
// and forgotten: nothing written since the last good one can be vouched for, so the failure stays.
class GroupSync {
 public:
  explicit GroupSync(File* file) : file_(file) {}

  // Everything that the caller wrote before is on stable storage when it returns 0. `covering` is called when a sync
  // begins, `covered` with what it returned when that sync succeeded.
  int Commit(const std::function<uint64_t()>& covering = {}, const std::function<void(uint64_t)>& covered = {});

  uint64_t Syncs() const;

 private:
  File* const file_;
  mutable std::mutex mu_;
  std::condition_variable ended_;
  uint64_t tickets_ = 0;
  uint64_t synced_ = 0;  // tickets up to this one
  uint64_t syncs_ = 0;
  bool running_ = false;
  int failed_ = 0;
};

// Runs work on threads of its own where there is a time-out, so that the caller can go on without a disk that hangs.
// Threads are made when none is idle; what hangs keeps its thread, and what it needs, until it ends.
class TimedRunner {
 public:
  // 0: no time-out, work runs on the caller's thread.
  explicit TimedRunner(unsigned timeout_ms);
  ~TimedRunner();
  TimedRunner(const TimedRunner&) = delete;
  TimedRunner& operator=(const TimedRunner&) = delete;

  enum class Outcome { kEnded, kAbandoned, kRefused };

  // kEnded: *result is what `work` returned. kAbandoned: the time is over; `work` still runs, must own all that it
  // touches, and `late` will get what it returns. kRefused: something hangs already, so that `work` was not begun.
  // *result is ETIMEDOUT for both of those (ESHUTDOWN after Shut).
  Outcome Run(std::function<int()> work, std::function<void(int)> late, int* result);

  // Work that nobody waits for, and that may take long: on a thread of its own where there is a time-out.
  void Detach(std::function<int()> work);

  bool Hung() const;

  // Nothing is begun any more: Run refuses with ESHUTDOWN, Detach forgets. What is under way goes on.
  void Shut();
  bool IsShut() const;
  // Waits until nothing is under way, not even what somebody gave up waiting for. False when `ms` passed first.
  bool Settle(unsigned ms);

 private:
  struct State;
  struct Work;
  void Push(const std::shared_ptr<Work>& work);  // under the state's lock
  bool RunHere(const std::function<int()>& work, int* result);
  const unsigned timeout_ms_;
  const std::shared_ptr<State> state_;  // shared with the threads, which may outlive this
};

// What keeps the layer clear of memory reclaim. A file system on a loop device over the live file writes its dirty pages
// through us when memory is short, so that whoever such a write waits for must never wait for memory that only such a write
// can free. Therefore:
// - each thread that a write can wait for is marked (PR_SET_IO_FLUSHER): its allocations, in the kernel too, wait for no
//   writeback and no file system, and its own writes are not throttled for dirty pages of others. Marked are the threads of
//   TimedRunner and the janitor for good, libuv's for as long as they work for a volume (they may hold a gate, the journal or
//   a group's sync), and the mount's workers by the mount.
// - what a first write needs is bounded: BatchPool, one buffer of which is there from the start.
// - JavaScript is on no write's path: it may wait for memory as long as it likes.
// What remains is memory that is gone altogether: then the kernel kills, us or another, and the store says what was whole.
// Without CAP_SYS_RESOURCE the mark is refused, and the guarantee with it; such a process cannot mount for others either.
void ServeDiskOnThisThread(const char* name);

// The same for a while.
class ServingDisk {
 public:
  ServingDisk();
  ~ServingDisk();
  ServingDisk(const ServingDisk&) = delete;
  ServingDisk& operator=(const ServingDisk&) = delete;

 private:
  const bool before_;
};

}  // namespace asof::cow
