#include "cow_io.h"

#include <sys/prctl.h>

#include <cerrno>
#include <chrono>
#include <thread>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#define PR_GET_IO_FLUSHER 58
#endif

namespace asof::cow {

int GroupSync::Commit(const std::function<uint64_t()>& covering, const std::function<void(uint64_t)>& covered) {
  std::unique_lock lock(mu_);
  const uint64_t mine = ++tickets_;
  while (synced_ < mine) {
    if (failed_ != 0) return failed_;
    if (running_) {
      ended_.wait(lock);
      continue;
    }
    running_ = true;
    const uint64_t upto = tickets_;
    lock.unlock();
    const uint64_t what = covering ? covering() : 0;
    const int err = file_->Sync();
    if (err == 0 && covered) covered(what);
    lock.lock();
    running_ = false;
    syncs_++;
    if (err == 0) {
      synced_ = upto;
    } else {
      failed_ = err;
    }
    ended_.notify_all();
  }
  return 0;
}

uint64_t GroupSync::Syncs() const {
  const std::lock_guard lock(mu_);
  return syncs_;
}

// One piece of work. `ended` and `abandoned` are guarded by State::mu; exactly one of the two sides sees the other's flag
// first, so that either the caller gets the result or `late` does.
struct TimedRunner::Work {
  std::function<int()> run;
  std::function<void(int)> late;
  std::condition_variable done;
  bool ended = false;
  bool abandoned = false;
  int result = 0;
};

struct TimedRunner::State {
  std::mutex mu;
  std::condition_variable more;
  std::deque<std::shared_ptr<Work>> queue;
  unsigned idle = 0;
  unsigned hung = 0;
  unsigned under_way = 0;  // queued or running, `late` too
  bool shut = false;
  std::condition_variable quiet;  // under_way became 0
  bool stopped = false;

  void Ended() {
    if (--under_way == 0) quiet.notify_all();
  }

  static void Serve(std::shared_ptr<State> self) {
    ServeDiskOnThisThread("asof-store");
    std::unique_lock lock(self->mu);
    for (;;) {
      self->idle++;
      self->more.wait(lock, [&] { return self->stopped || !self->queue.empty(); });
      self->idle--;
      if (self->queue.empty()) return;
      const std::shared_ptr<Work> work = std::move(self->queue.front());
      self->queue.pop_front();
      lock.unlock();
      const int result = work->run();
      lock.lock();
      work->result = result;
      work->ended = true;
      if (work->abandoned) {
        self->hung--;
        lock.unlock();
        work->late(result);
        lock.lock();
      } else {
        work->done.notify_one();
      }
      self->Ended();
    }
  }
};

TimedRunner::TimedRunner(unsigned timeout_ms) : timeout_ms_(timeout_ms), state_(std::make_shared<State>()) {}

TimedRunner::~TimedRunner() {
  const std::lock_guard lock(state_->mu);
  state_->stopped = true;
  state_->more.notify_all();
}

bool TimedRunner::Hung() const {
  const std::lock_guard lock(state_->mu);
  return state_->hung > 0;
}

void TimedRunner::Shut() {
  const std::lock_guard lock(state_->mu);
  state_->shut = true;
}

bool TimedRunner::IsShut() const {
  const std::lock_guard lock(state_->mu);
  return state_->shut;
}

bool TimedRunner::Settle(unsigned ms) {
  std::unique_lock lock(state_->mu);
  return state_->quiet.wait_for(lock, std::chrono::milliseconds(ms), [&] { return state_->under_way == 0; });
}

// False after Shut.
bool TimedRunner::RunHere(const std::function<int()>& work, int* result) {
  {
    const std::lock_guard lock(state_->mu);
    if (state_->shut) return false;
    state_->under_way++;
  }
  *result = work();
  const std::lock_guard lock(state_->mu);
  state_->Ended();
  return true;
}

void TimedRunner::Push(const std::shared_ptr<Work>& work) {
  state_->under_way++;
  state_->queue.push_back(work);
  if (state_->idle < state_->queue.size()) std::thread(State::Serve, state_).detach();
  state_->more.notify_one();
}

void TimedRunner::Detach(std::function<int()> work) {
  if (timeout_ms_ == 0) {
    int result = 0;
    RunHere(work, &result);
    return;
  }
  auto item = std::make_shared<Work>();
  item->run = std::move(work);
  const std::lock_guard lock(state_->mu);
  if (!state_->shut) Push(item);
}

TimedRunner::Outcome TimedRunner::Run(std::function<int()> work, std::function<void(int)> late, int* result) {
  if (timeout_ms_ == 0) {
    *result = ESHUTDOWN;
    return RunHere(work, result) ? Outcome::kEnded : Outcome::kRefused;
  }
  *result = ETIMEDOUT;
  auto item = std::make_shared<Work>();
  item->run = std::move(work);
  item->late = std::move(late);
  std::unique_lock lock(state_->mu);
  if (state_->shut) {
    *result = ESHUTDOWN;
    return Outcome::kRefused;
  }
  if (state_->hung > 0) return Outcome::kRefused;
  Push(item);
  if (item->done.wait_for(lock, std::chrono::milliseconds(timeout_ms_), [&] { return item->ended; })) {
    *result = item->result;
    return Outcome::kEnded;
  }
  item->abandoned = true;
  state_->hung++;
  return Outcome::kAbandoned;
}

void ServeDiskOnThisThread(const char* name) {
  prctl(PR_SET_NAME, name, 0, 0, 0);
  prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
}

ServingDisk::ServingDisk() : before_(prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0) != 0) {
  if (!before_) prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
}

ServingDisk::~ServingDisk() {
  if (!before_) prctl(PR_SET_IO_FLUSHER, 0, 0, 0, 0);
}

}  // namespace asof::cow
