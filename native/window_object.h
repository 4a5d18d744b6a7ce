// NativeReadable of src/native.ts, over a part of another disk: openWindow.
#pragma once

#include <napi.h>

#include <memory>

#include "disk.h"

namespace asof {

void InitWindow(Napi::Env env, Napi::Object exports);

// The disk of a window; null where `value` is anything else.
std::shared_ptr<Disk> UnwrapWindow(Napi::Value value);

}  // namespace asof
