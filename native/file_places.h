#pragma once

#include <napi.h>

namespace asof {

// Adds `filePlaces`.
void InitFilePlaces(Napi::Env env, Napi::Object exports);

}  // namespace asof
