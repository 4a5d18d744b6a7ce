#pragma once

#include <napi.h>

namespace asof {

// Adds `fileExtents`.
void InitFileExtents(Napi::Env env, Napi::Object exports);

}  // namespace asof
