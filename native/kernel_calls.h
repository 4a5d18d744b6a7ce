// Thin calls of the kernel that Node's fs does not have: locks, leases, clones, the socket of a service manager.
#pragma once

#include <napi.h>

namespace asof {

void InitKernelCalls(Napi::Env env, Napi::Object exports);

}  // namespace asof
