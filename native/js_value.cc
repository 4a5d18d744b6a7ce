#include "js_value.h"

#include <string.h>

namespace asof {

bool ToInteger(const Napi::Value& value, uint64_t max, uint64_t* out) {
  return value.IsNumber() && ToInteger(value.As<Napi::Number>().DoubleValue(), max, out);
}

Napi::Error MakeError(Napi::Env env, const char* code, const std::string& message) {
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("code", code);
  return error;
}

Napi::Value Throw(Napi::Env env, const char* code, const std::string& message) {
  MakeError(env, code, message).ThrowAsJavaScriptException();
  return env.Undefined();
}

Napi::Value ThrowErrno(Napi::Env env, int error, const std::string& message) {
  const char* name = strerrorname_np(error);
  return Throw(env, name ? name : "EIO", message + ": " + strerrordesc_np(error));
}

}  // namespace asof
