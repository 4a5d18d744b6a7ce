// NativeLiveDisk, and the NativeDisk of a snapshot: the disks of a volume as JavaScript holds them.
#pragma once

#include <napi.h>

#include <memory>

#include "cow_disks.h"

namespace asof {

Napi::Function DefineCowDisk(Napi::Env env);

// Exactly one of the two. `made` is what DefineCowDisk returned.
Napi::Value NewCowDisk(Napi::Function made, std::shared_ptr<cow::SnapshotDisk> snapshot, std::shared_ptr<WritableDisk> live);

}  // namespace asof
