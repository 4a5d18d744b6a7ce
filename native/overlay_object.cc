#include "overlay_object.h"

#include <fcntl.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "cow_disk_object.h"
#include "cow_machine_object.h"
#include "cow_task.h"
#include "disk_object.h"
#include "overlay_disk.h"

namespace asof {
namespace {

using overlay::OverlayDisk;

struct Classes {
  Napi::FunctionReference overlay;
  Napi::FunctionReference disk;
};

class OverlayObject : public Napi::ObjectWrap<OverlayObject> {
 public:
  struct Init {
    std::shared_ptr<OverlayDisk> disk;
    Classes* classes;
  };

  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "NativeOverlay",
                       {
                           InstanceMethod<&OverlayObject::Show>("disk"),
                           InstanceMethod<&OverlayObject::Facts>("facts"),
                           InstanceMethod<&OverlayObject::Close>("close"),
                       });
  }

  explicit OverlayObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    if (!info[0].IsExternal()) {
      Throw(info.Env(), "EINVAL", "an overlay is opened by openOverlay");
      return;
    }
    const Init* init = info[0].As<Napi::External<Init>>().Data();
    disk_ = init->disk;
    shown_ = Napi::Persistent(NewCowDisk(init->classes->disk.Value(), nullptr, disk_).As<Napi::Object>());
  }

 private:
  Napi::Value Show(const Napi::CallbackInfo&) { return shown_.Value(); }

  Napi::Value Facts(const Napi::CallbackInfo& info) {
    uint64_t allocated;
    disk_->Allocated(&allocated, 0);
    Napi::Object facts = Napi::Object::New(info.Env());
    facts.Set("written", static_cast<double>(disk_->written()));
    facts.Set("held", static_cast<double>(disk_->Held()));
    facts.Set("allocated", static_cast<double>(allocated));
    facts.Set("readers", static_cast<double>(disk_->readers()));
    return facts;
  }

  Napi::Value Close(const Napi::CallbackInfo& info) {
    disk_->Close();
    return Task::Start(info.Env(), [disk = disk_](std::string*) { return disk->End(); }, {});
  }

  std::shared_ptr<OverlayDisk> disk_;
  Napi::ObjectReference shown_;
};

// A descriptor, which is duplicated, or { machine, file }; null where it is neither.
std::unique_ptr<cow::File> FileOf(const Napi::Value& value) {
  if (!value.IsNumber()) return OpenModelFile(value);
  const int own = fcntl(value.As<Napi::Number>().Int32Value(), F_DUPFD_CLOEXEC, 3);
  return own < 0 ? nullptr : std::make_unique<cow::PosixFile>(own);
}

bool IdentityOf(const Napi::Value& value, overlay::Identity* identity) {
  uint8_t* bytes;
  size_t length;
  if (!Bytes(value, &bytes, &length) || length != identity->size()) return false;
  memcpy(identity->data(), bytes, length);
  return true;
}

Napi::Value OpenOverlay(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!info[0].IsObject()) return Throw(env, "EINVAL", "openOverlay takes options");
  const auto given = info[0].As<Napi::Object>();
  const std::shared_ptr<Disk> base = UnwrapDisk(given.Get("base"));
  if (!base) return Throw(env, "EINVAL", "base must be a disk");
  overlay::LayerOptions options;
  options.size = base->Size();
  const Napi::Value kept = given.Get("kept");
  if (kept.IsObject()) {
    const auto as = kept.As<Napi::Object>();
    options.kept = true;
    options.create = as.Get("create").ToBoolean();
    options.label = as.Get("label").ToString().Utf8Value().substr(0, overlay::kMaxLabel);
    if (!Id(as.Get("id"), &options.id) || !IdentityOf(as.Get("identity"), &options.identity)) {
      return Throw(env, "EINVAL", "a layer that is kept has a UUID, and an identity of 32 bytes");
    }
  }
  std::shared_ptr<cow::File> file = FileOf(given.Get("file"));
  if (!file) return Throw(env, "EINVAL", "file must be a descriptor or a file of a machine");
  auto* classes = static_cast<Classes*>(info.Data());
  auto made = std::make_shared<std::shared_ptr<OverlayDisk>>();
  return Task::Start(
      env,
      [base, file, options, made](std::string* why) {
        std::unique_ptr<overlay::Layer> layer;
        const int err = overlay::Layer::Open(file, options, &layer, why);
        if (err == 0) *made = std::make_shared<OverlayDisk>(base, std::move(layer));
        return err;
      },
      [made, classes](Napi::Env env) -> Napi::Value {
        OverlayObject::Init init{std::move(*made), classes};
        return classes->overlay.New({Napi::External<OverlayObject::Init>::New(env, &init)});
      });
}

}  // namespace

void InitOverlay(Napi::Env env, Napi::Object exports) {
  auto* classes = new Classes;
  classes->overlay = Napi::Persistent(OverlayObject::Define(env));
  classes->disk = Napi::Persistent(DefineCowDisk(env));
  exports.Set("openOverlay", Napi::Function::New(env, OpenOverlay, "openOverlay", classes));
  env.AddCleanupHook([classes] { delete classes; });
}

}  // namespace asof
