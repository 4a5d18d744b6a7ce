#pragma once

#include <napi.h>

namespace asof {

// Adds `fileAttributes`.
void InitFileAttributes(Napi::Env env, Napi::Object exports);

}  // namespace asof
