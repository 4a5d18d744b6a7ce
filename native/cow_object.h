// What JavaScript sees of the copy-on-write layer: src/native.ts, CowVolume.
#pragma once

#include <napi.h>

#include <memory>

#include "disk.h"
#include "writable_disk.h"

namespace asof {

void InitCow(Napi::Env env, Napi::Object exports);

// The disk of a NativeCowDisk; null where `value` is anything else.
std::shared_ptr<Disk> UnwrapCowDisk(Napi::Value value);
// The same where it can be written; null where not.
std::shared_ptr<WritableDisk> UnwrapWritableDisk(Napi::Value value);

}  // namespace asof
