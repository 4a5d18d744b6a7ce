#include "js_thread.h"

#include <utility>

namespace asof {

std::shared_ptr<JsThread> JsThread::Create(Napi::Env env) {
  std::shared_ptr<JsThread> self(new JsThread);
  // Node owns one reference, until it has finished with the function.
  auto* context = new std::shared_ptr<JsThread>(self);
  auto finalize = [](napi_env, void* data, void*) { delete static_cast<std::shared_ptr<JsThread>*>(data); };
  napi_value name = Napi::String::New(env, "asof");
  napi_status status = napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, context, finalize, context,
                                                       Wake, &self->function_);
  if (status != napi_ok) {
    delete context;
    return nullptr;
  }
  napi_unref_threadsafe_function(env, self->function_);
  return self;
}

void JsThread::Wake(napi_env env, napi_value, void* context, void*) {
  if (env == nullptr) return;
  auto self = *static_cast<std::shared_ptr<JsThread>*>(context);
  self->RunPosted(env);
}

bool JsThread::Post(Task task) {
  std::lock_guard lock(mutex_);
  if (function_ == nullptr) return false;
  tasks_.push_back(std::move(task));
  if (tasks_.size() == 1) napi_call_threadsafe_function(function_, nullptr, napi_tsfn_nonblocking);
  return true;
}

void JsThread::RunPosted(Napi::Env env) {
  // One at a time: a task may itself come back here, and then wait for one that was posted before.
  for (;;) {
    Task task;
    {
      std::lock_guard lock(mutex_);
      if (tasks_.empty()) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    Napi::HandleScope scope(env);
    task(env);
  }
}

void JsThread::Hold(Napi::Env env) {
  if (holds_++ == 0 && function_ != nullptr) napi_ref_threadsafe_function(env, function_);
}

void JsThread::Release(Napi::Env env) {
  if (--holds_ == 0 && function_ != nullptr) napi_unref_threadsafe_function(env, function_);
}

void JsThread::Stop(bool ending) {
  std::deque<Task> dropped;
  std::lock_guard lock(mutex_);
  dropped.swap(tasks_);
  napi_threadsafe_function function = std::exchange(function_, nullptr);
  if (function != nullptr && !ending) napi_release_threadsafe_function(function, napi_tsfn_abort);
}

}  // namespace asof
