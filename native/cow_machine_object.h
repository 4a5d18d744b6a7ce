// CowMachine of src/native.ts: the disk of a machine whose plug a test can pull (cow_model.h).
#pragma once

#include <napi.h>

#include <memory>

#include "cow_file.h"

namespace asof {

Napi::Function DefineCowMachine(Napi::Env env);

// The file of `{ machine, file }`; null where `value` is anything else.
std::unique_ptr<cow::File> OpenModelFile(const Napi::Value& value);

}  // namespace asof
