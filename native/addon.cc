// The addon's exports: src/native.ts declares them.
#include <napi.h>

#include "cow_object.h"
#include "engine_object.h"
#include "file_attributes.h"
#include "file_extents.h"
#include "file_places.h"
#include "folder_files.h"
#include "imager_object.h"
#include "kernel_calls.h"
#include "overlay_object.h"
#include "session_object.h"
#include "unpack.h"
#include "window_object.h"

namespace {

// Each part of the addon adds its own names. A new part is one line here.
constexpr void (*kParts[])(Napi::Env, Napi::Object) = {
    asof::InitEngine,
    asof::InitCow,
    asof::InitFileAttributes,
    asof::InitFileExtents,
    asof::InitFilePlaces,
    asof::InitFolderFiles,
    asof::InitImager,
    asof::InitKernelCalls,
    asof::InitOverlay,
    asof::InitSession,
    asof::InitUnpack,
    asof::InitWindow,
};

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  for (auto part : kParts) part(env, exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(asof, Init)
