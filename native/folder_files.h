#pragma once

#include <napi.h>

namespace asof {

// Adds `folderFiles`.
void InitFolderFiles(Napi::Env env, Napi::Object exports);

}  // namespace asof
