#include "window_object.h"

#include <errno.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>

#include "cow_task.h"
#include "disk_object.h"
#include "js_value.h"
#include "window_disk.h"

namespace asof {
namespace {

// Marks a window, so that no other object is taken for one.
constexpr napi_type_tag kWindowTag = {0x6e1f20c94ab7d853, 0xa5380f7be9d1c264};

class WindowObject : public Napi::ObjectWrap<WindowObject> {
 public:
  struct Init {
    std::shared_ptr<WindowDisk> disk;
  };

  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "NativeWindow",
                       {
                           InstanceMethod<&WindowObject::Read>("read"),
                           InstanceMethod<&WindowObject::Seek>("seek"),
                           InstanceMethod<&WindowObject::Defects>("defects"),
                           InstanceMethod<&WindowObject::SetAllocated>("setAllocated"),
                           InstanceMethod<&WindowObject::Close>("close"),
                       });
  }

  explicit WindowObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    if (!info[0].IsExternal()) {
      Throw(info.Env(), "EINVAL", "a window is opened by openWindow");
      return;
    }
    disk_ = info[0].As<Napi::External<Init>>().Data()->disk;
    napi_type_tag_object(info.Env(), info.This(), &kWindowTag);
  }

  std::shared_ptr<Disk> disk() const { return disk_; }

 private:
  Napi::Value Read(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    uint8_t* data;
    size_t length;
    if (!SecondBytes(info, "read takes an offset and a Uint8Array", &data, &length)) return env.Undefined();
    uint64_t offset;
    const uint64_t size = disk_->Size();
    if (!ToInteger(info[0], size, &offset) || length > size - offset) {
      return Throw(env, "OUT_OF_RANGE", "the range does not lie within the disk");
    }
    return Task::Start(
        env, [disk = disk_, data, length, offset](std::string*) { return disk->Read(offset, length, data, nullptr); }, {},
        info[1], "DAMAGED");
  }

  Napi::Value Seek(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    uint64_t offset;
    if (!ToInteger(info[0], kMaxOffset, &offset) || !info[1].IsBoolean()) {
      return Throw(env, "EINVAL", "seek takes an offset and whether a hole is sought");
    }
    const int whence = info[1].As<Napi::Boolean>() ? SEEK_HOLE : SEEK_DATA;
    auto found = std::make_shared<double>(-1);
    return Task::Start(
        env,
        [disk = disk_, offset, whence, found](std::string*) {
          uint64_t result;
          const int err = disk->Seek(offset, whence, &result);
          if (err == 0) *found = static_cast<double>(result);
          return err == ENXIO ? 0 : err;
        },
        [found](Napi::Env env) -> Napi::Value { return Napi::Number::New(env, *found); });
  }

  // They are those of the disk that it lies in.
  Napi::Value Defects(const Napi::CallbackInfo& info) { return Napi::Array::New(info.Env()); }

  void SetAllocated(const Napi::CallbackInfo& info) {
    uint64_t bytes;
    if (ToInteger(info[0], disk_->Size(), &bytes)) {
      disk_->SetAllocated(bytes);
    } else {
      Throw(info.Env(), "EINVAL", "setAllocated takes a number of bytes within the disk's size");
    }
  }

  void Close(const Napi::CallbackInfo&) { disk_->Close(); }

  std::shared_ptr<WindowDisk> disk_;
};

// The class of this environment; the function that makes windows holds it.
Napi::Value Open(const Napi::CallbackInfo& info, const Napi::FunctionReference& made) {
  Napi::Env env = info.Env();
  const std::shared_ptr<Disk> whole = UnwrapDisk(info[0]);
  if (!whole) return Throw(env, "EINVAL", "openWindow takes a disk, an offset and a length");
  uint64_t start, size;
  const uint64_t all = whole->Size();
  if (!ToInteger(info[1], all, &start) || !ToInteger(info[2], all - start, &size)) {
    return Throw(env, "OUT_OF_RANGE", "the window does not lie within the disk");
  }
  WindowObject::Init init{std::make_shared<WindowDisk>(whole, start, size)};
  return made.New({Napi::External<WindowObject::Init>::New(env, &init)});
}

}  // namespace

std::shared_ptr<Disk> UnwrapWindow(Napi::Value value) {
  return Tagged(value, kWindowTag) ? WindowObject::Unwrap(value.As<Napi::Object>())->disk() : nullptr;
}

void InitWindow(Napi::Env env, Napi::Object exports) {
  auto made = std::make_shared<Napi::FunctionReference>(Napi::Persistent(WindowObject::Define(env)));
  made->SuppressDestruct();
  exports.Set("openWindow", Napi::Function::New(
                                env, [made](const Napi::CallbackInfo& info) { return Open(info, *made); }, "openWindow"));
}

}  // namespace asof
