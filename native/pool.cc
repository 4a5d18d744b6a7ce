#include "pool.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <memory>

namespace asof {
namespace {

constexpr size_t kIdleLimit = 1024;

// Signals are for the thread that runs JavaScript: a new thread begins with the mask of the one that starts it.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

}  // namespace

bool Pool::Submit(Task task) { return Enqueue(&tasks_, SIZE_MAX, std::move(task)); }

bool Pool::SubmitIdle(Task task) { return Enqueue(&idle_tasks_, kIdleLimit, std::move(task)); }

bool Pool::Enqueue(std::deque<Task>* queue, size_t limit, Task task) {
  std::lock_guard lock(mutex_);
  if (stopped_ || queue->size() >= limit) return false;
  queue->push_back(std::move(task));
  if (waiting_ < tasks_.size() + idle_tasks_.size() && threads_.size() < limit_) {
    SignalsBlocked blocked;
    threads_.emplace_back([this] { Run(); });
    pthread_setname_np(threads_.back().native_handle(), "asof-engine");
  }
  wake_.notify_one();
  return true;
}

void Pool::Run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    auto* queue = !tasks_.empty() ? &tasks_ : &idle_tasks_;
    if (queue->empty()) {
      if (stopped_) return;
      ++waiting_;
      wake_.wait(lock);
      --waiting_;
      continue;
    }
    Task task = std::move(queue->front());
    queue->pop_front();
    lock.unlock();
    task();
    task = nullptr;
    lock.lock();
  }
}

void Pool::ForEach(size_t count, size_t helpers, const std::function<void(size_t)>& work) {
  // A helper may come when all is done and the caller is gone: it then only touches this, never `work`.
  struct Batch {
    std::atomic<size_t> next{0};
    std::atomic<size_t> left;
    size_t count;
    const std::function<void(size_t)>* work;
    void Help() {
      for (size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) {
        (*work)(i);
        if (left.fetch_sub(1, std::memory_order_acq_rel) == 1) left.notify_all();
      }
    }
  };
  helpers = std::min({helpers, static_cast<size_t>(limit_), count > 0 ? count - 1 : 0});
  auto batch = std::make_shared<Batch>();
  batch->left = count;
  batch->count = count;
  batch->work = &work;
  for (size_t i = 0; i < helpers; ++i) Submit([batch] { batch->Help(); });
  batch->Help();
  for (size_t left; (left = batch->left.load(std::memory_order_acquire)) != 0;) batch->left.wait(left);
}

void Pool::Stop() {
  std::vector<std::thread> threads;
  std::deque<Task> dropped;
  {
    std::lock_guard lock(mutex_);
    stopped_ = true;
    dropped.swap(idle_tasks_);
    threads.swap(threads_);
  }
  wake_.notify_all();
  for (auto& thread : threads) thread.join();
}

}  // namespace asof
