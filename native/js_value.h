// JavaScript's values at the border: numbers that must be integers, errors that carry a code.
#pragma once

#include <napi.h>

#include <cstdint>
#include <string>

namespace asof {

// The largest integer that a JavaScript number holds exactly: no offset or size is beyond it.
constexpr uint64_t kMaxOffset = (uint64_t{1} << 53) - 1;

// True, with *out set, where `number` is an integer from 0 to `max` (at most kMaxOffset).
inline bool ToInteger(double number, uint64_t max, uint64_t* out) {
  if (!(number >= 0 && number <= static_cast<double>(max))) return false;  // NaN fails as well
  *out = static_cast<uint64_t>(number);
  return static_cast<double>(*out) == number;
}

bool ToInteger(const Napi::Value& value, uint64_t max, uint64_t* out);

Napi::Error MakeError(Napi::Env env, const char* code, const std::string& message);

// Throws an error whose `code` is given; returns undefined, for `return Throw(…)`.
Napi::Value Throw(Napi::Env env, const char* code, const std::string& message);

// Likewise; `code` is the errno's name ("EBADF") and the message ends with its text.
Napi::Value ThrowErrno(Napi::Env env, int error, const std::string& message);

}  // namespace asof
