// The addon's `Session` and the calls that mount and unmount (src/native.ts).
#pragma once

#include <napi.h>

namespace asof {

void InitSession(Napi::Env env, Napi::Object exports);

}  // namespace asof
