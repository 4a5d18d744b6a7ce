// The engine's threads. They unpack beside the reader's own thread, read ahead when nothing else waits, and read on
// behalf of JavaScript, whose own thread must not block.
//
// Nobody ever waits for a task that has not begun (ForEach does what no other thread has taken), so tasks may use the
// pool themselves.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace asof {

class Pool {
 public:
  using Task = std::function<void()>;

  // At most `threads` at once, started as they are needed.
  explicit Pool(unsigned threads) : limit_(threads) {}
  ~Pool() { Stop(); }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // False, and dropped, after Stop.
  bool Submit(Task task);

  // Runs when no other task waits. False, and dropped, where too many wait already, and after Stop.
  bool SubmitIdle(Task task);

  // Calls work(0) … work(count - 1), on this thread and on at most `helpers` of the pool's; returns when all have
  // returned.
  void ForEach(size_t count, size_t helpers, const std::function<void(size_t)>& work);

  // Submitted tasks run first, idle ones are dropped. Not to be called by a task.
  void Stop();

 private:
  void Run();
  bool Enqueue(std::deque<Task>* queue, size_t limit, Task task);

  const unsigned limit_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Task> tasks_;
  std::deque<Task> idle_tasks_;
  std::vector<std::thread> threads_;
  unsigned waiting_ = 0;
  bool stopped_ = false;
};

}  // namespace asof
