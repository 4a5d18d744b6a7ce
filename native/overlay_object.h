// openOverlay of src/native.ts: a writable view of a disk that cannot be written.
#pragma once

#include <napi.h>

namespace asof {

void InitOverlay(Napi::Env env, Napi::Object exports);

}  // namespace asof
