// The way from any thread to the one that runs JavaScript.
//
// A ThreadSafeFunction only wakes that thread up; the tasks are kept here, so that one lock decides whether a task is
// still taken. It keeps Node alive only while somebody in JavaScript waits (Hold).
#pragma once

#include <napi.h>

#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

namespace asof {

class JsThread {
 public:
  // Runs on the JavaScript thread, in a handle scope. It may be dropped, on any thread: it must own no handle.
  using Task = std::function<void(Napi::Env)>;

  // On the JavaScript thread, as all that is not said to be for any. Null where Node refuses.
  static std::shared_ptr<JsThread> Create(Napi::Env env);
  ~JsThread() = default;

  // Any thread. False, and dropped, after Stop.
  bool Post(Task task);

  // Any thread: whether it is the JavaScript one.
  bool Here() const { return std::this_thread::get_id() == thread_; }

  // Runs what has been posted, now.
  void RunPosted(Napi::Env env);

  // Node must not end, for lack of anything to do, between Hold and Release. They are counted.
  void Hold(Napi::Env env);
  void Release(Napi::Env env);

  // Drops what has been posted, for good. `ending` where the environment is being torn down, which itself ends the
  // ThreadSafeFunction.
  void Stop(bool ending);

 private:
  JsThread() = default;
  static void Wake(napi_env env, napi_value callback, void* context, void* data);

  std::thread::id thread_ = std::this_thread::get_id();
  unsigned holds_ = 0;
  // Guards what follows. Held while Node's function is called, which after Stop may be freed at any time.
  std::mutex mutex_;
  std::deque<Task> tasks_;
  napi_threadsafe_function function_ = nullptr;
};

}  // namespace asof
