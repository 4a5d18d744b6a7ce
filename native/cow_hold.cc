#include "cow_hold.h"

#include <pthread.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <utility>

#include "cow_volume.h"

namespace asof::cow {

namespace {

using Clock = std::chrono::steady_clock;
using Work = std::function<void()>;

void* RunWork(void* work) {
  const std::unique_ptr<Work> owned(static_cast<Work*>(work));
  const ServingDisk here;
  (*owned)();
  return nullptr;
}

}  // namespace

int Hold::Begin(std::vector<std::shared_ptr<Volume>> volumes, unsigned drain_ms, unsigned limit_ms, std::shared_ptr<Hold>* hold) {
  auto self = std::make_shared<Hold>();
  self->writes_.resize(volumes.size());
  self->epochs_.resize(volumes.size());
  const auto limit = Clock::now() + std::chrono::milliseconds(limit_ms);
  auto* work = new Work([self, volumes = std::move(volumes), drain_ms, limit] { self->Run(volumes, drain_ms, limit); });
  pthread_t thread;
  const int refused = pthread_create(&thread, nullptr, RunWork, work);
  if (refused != 0) {
    delete work;
    return refused;
  }
  pthread_detach(thread);
  std::unique_lock lock(self->mu_);
  self->changed_.wait(lock, [&] { return self->state_ != State::kClosing; });
  if (self->error_ != 0) return self->error_;
  *hold = std::move(self);
  return 0;
}

void Hold::Run(const std::vector<std::shared_ptr<Volume>>& volumes, unsigned drain_ms, Clock::time_point limit) {
  // By address, as Volume::Take closes them, so that two cannot wait for each other in a circle.
  std::vector<Volume*> order;
  for (const auto& volume : volumes) order.push_back(volume.get());
  std::sort(order.begin(), order.end());
  const auto deadline = std::min(limit, Clock::now() + std::chrono::milliseconds(drain_ms));
  for (Volume* volume : order) volume->gate().Close();
  int error = 0;
  for (Volume* volume : order) {
    if (error == 0 && !volume->gate().Drain(deadline)) error = ETIMEDOUT;
  }
  // What is in the page cache of the origin is not yet in what a snapshot of the origin would have.
  for (Volume* volume : order) {
    if (error == 0) error = volume->ended() ? ESHUTDOWN : volume->origin().Sync();
  }
  {
    std::unique_lock lock(mu_);
    time_ms_ = std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
    for (size_t i = 0; i < volumes.size(); i++) {
      writes_[i] = volumes[i]->Writes();
      epochs_[i] = volumes[i]->Counters().epoch;
    }
    error_ = error;
    if (error == 0) {
      state_ = State::kHeld;
      changed_.notify_all();
      changed_.wait_until(lock, limit, [this] { return state_ == State::kEnding; });
    }
    // Before the gates open: from here on End says that it came too late.
    if (state_ != State::kEnding) state_ = State::kOver;
    changed_.notify_all();
  }
  for (Volume* volume : order) volume->gate().Open();
}

bool Hold::End() {
  const std::lock_guard lock(mu_);
  if (state_ != State::kHeld) return false;
  state_ = State::kEnding;
  changed_.notify_all();
  return true;
}

}  // namespace asof::cow
