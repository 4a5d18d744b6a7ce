// What the copy-on-write layer's objects share at the border to JavaScript: promises whose work runs on libuv's threads, and
// the checks of what came in.
#pragma once

#include <napi.h>

#include <cerrno>
#include <cstring>
#include <functional>
#include <string>
#include <utility>

#include "cow_format.h"
#include "cow_io.h"
#include "js_value.h"

namespace asof {

inline bool Tagged(const Napi::Value& value, const napi_type_tag& tag) {
  bool tagged = false;
  return value.IsObject() && napi_check_object_type_tag(value.Env(), value, &tag, &tagged) == napi_ok && tagged;
}

inline const char* ErrnoName(int error) {
  const char* name = strerrorname_np(error);
  return name ? name : "EIO";
}

// One promise: `work` on another thread gives 0 or an errno and a message, `done` makes the value. `keep` is held until then.
class Task final : public Napi::AsyncWorker {
 public:
  using Work = std::function<int(std::string* why)>;
  using Done = std::function<Napi::Value(Napi::Env)>;

  static Napi::Value Start(Napi::Env env, Work work, Done done, const Napi::Value& keep = {}, const char* code = nullptr) {
    auto* task = new Task(env, std::move(work), std::move(done), code);
    if (!keep.IsEmpty()) task->keep_ = Napi::Reference<Napi::Value>::New(keep, 1);
    task->Queue();
    return task->deferred_.Promise();
  }

  void Execute() override {
    const cow::ServingDisk here;
    error_ = work_(&why_);
  }

  void OnOK() override {
    Napi::HandleScope scope(Env());
    if (error_ == 0) {
      deferred_.Resolve(done_ ? done_(Env()) : Env().Undefined());
    } else {
      if (why_.empty()) why_ = strerror(error_);
      deferred_.Reject(MakeError(Env(), code_ && error_ == EIO ? code_ : ErrnoName(error_), why_).Value());
    }
  }

 private:
  Task(Napi::Env env, Work work, Done done, const char* code)
      : AsyncWorker(env), deferred_(env), work_(std::move(work)), done_(std::move(done)), code_(code) {}

  Napi::Promise::Deferred deferred_;
  Napi::Reference<Napi::Value> keep_;
  const Work work_;
  const Done done_;
  const char* const code_;
  int error_ = 0;
  std::string why_;
};

inline bool Bytes(const Napi::Value& value, uint8_t** data, size_t* length) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) return false;
  auto array = value.As<Napi::Uint8Array>();
  *data = array.Data();
  *length = array.ByteLength();
  return true;
}

// The Uint8Array that must be the second argument; throws, with `usage`, where it is anything else.
inline bool SecondBytes(const Napi::CallbackInfo& info, const char* usage, uint8_t** data, size_t* length) {
  if (Bytes(info[1], data, length)) return true;
  Throw(info.Env(), "EINVAL", usage);
  return false;
}

inline bool Id(const Napi::Value& value, cow::Uuid* id) {
  return value.IsString() && cow::ParseUuid(value.As<Napi::String>().Utf8Value(), id);
}

}  // namespace asof
