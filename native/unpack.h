// `unpack` for JavaScript: one packed block at once, for metadata that lies in a compressed image.
#pragma once

#include <napi.h>

namespace asof {

void InitUnpack(Napi::Env env, Napi::Object exports);

}  // namespace asof
