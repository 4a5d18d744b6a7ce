// NativeImager of src/native.ts: batches of clusters on threads of its own.
#pragma once

#include <napi.h>

namespace asof {

// Adds `Imager` and `dropCache`.
void InitImager(Napi::Env env, Napi::Object exports);

}  // namespace asof
