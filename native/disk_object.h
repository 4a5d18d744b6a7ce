// NativeDisk of src/native.ts: a disk of the engine as JavaScript holds it.
#pragma once

#include <napi.h>

#include <memory>

#include "disk.h"

namespace asof {

// The disk of a NativeDisk; null where `value` is anything else. On the JavaScript thread; the pointer may be kept and
// used by any other.
std::shared_ptr<Disk> UnwrapDisk(Napi::Value value);

}  // namespace asof
