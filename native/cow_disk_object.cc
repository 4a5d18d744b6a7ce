#include "cow_disk_object.h"

#include <unistd.h>

#include <string>
#include <vector>

#include "cow_object.h"
#include "cow_task.h"

namespace asof {
namespace {

using namespace cow;  // NOLINT: this file is the border of that namespace

constexpr napi_type_tag kDiskTag = {0x41d0a7c2f5e84b93, 0x9c7e16d2038fb5a4};

class DiskObject : public Napi::ObjectWrap<DiskObject> {
 public:
  struct Init {
    std::shared_ptr<Disk> disk;
    std::shared_ptr<SnapshotDisk> snapshot;
    std::shared_ptr<WritableDisk> live;
  };

  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "NativeCowDisk",
                       {
                           InstanceMethod<&DiskObject::Read>("read"),
                           InstanceMethod<&DiskObject::Seek>("seek"),
                           InstanceMethod<&DiskObject::Write>("write"),
                           InstanceMethod<&DiskObject::WriteZeroes>("writeZeroes"),
                           InstanceMethod<&DiskObject::Flush>("flush"),
                           InstanceMethod<&DiskObject::Defects>("defects"),
                           InstanceMethod<&DiskObject::SetAllocated>("setAllocated"),
                           InstanceMethod<&DiskObject::Close>("close"),
                       });
  }

  explicit DiskObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    if (!info[0].IsExternal()) {
      Throw(info.Env(), "EINVAL", "a disk is opened by CowVolume");
      return;
    }
    init_ = *info[0].As<Napi::External<Init>>().Data();
    napi_type_tag_object(info.Env(), info.This(), &kDiskTag);
  }

  const Init& init() const { return init_; }

 private:
  bool Range(const Napi::CallbackInfo& info, uint64_t length, uint64_t* offset) {
    const uint64_t size = init_.disk->Size();
    if (ToInteger(info[0], size, offset) && length <= size - *offset) return true;
    Throw(info.Env(), "OUT_OF_RANGE", "the range does not lie within the disk");
    return false;
  }

  Napi::Value Read(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    uint8_t* data;
    size_t length;
    uint64_t offset;
    if (!SecondBytes(info, "read takes an offset and a Uint8Array", &data, &length) || !Range(info, length, &offset)) return env.Undefined();
    return Task::Start(
        env,
        [init = init_, data, length, offset](std::string* why) {
          const int err = init.disk->Read(offset, length, data, nullptr);
          if (err == EIO && init.snapshot) {
            for (const DiskDefect& defect : init.snapshot->Defects()) {
              if (defect.offset < offset + length && offset < defect.offset + defect.length) *why = defect.why;
            }
            if (why->empty()) *why = "the range has been released";
          }
          return err;
        },
        {}, info[1], "DAMAGED");
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
        [disk = init_.disk, offset, whence, found](std::string*) {
          uint64_t result;
          const int err = disk->Seek(offset, whence, &result);
          if (err == 0) *found = static_cast<double>(result);
          return err == ENXIO ? 0 : err;
        },
        [found](Napi::Env env) -> Napi::Value { return Napi::Number::New(env, *found); });
  }

  bool Live(const Napi::CallbackInfo& info) {
    if (init_.live) return true;
    Throw(info.Env(), "EROFS", "a snapshot cannot be written");
    return false;
  }

  Napi::Value Write(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    uint8_t* data;
    size_t length;
    uint64_t offset;
    if (!Live(info) || !SecondBytes(info, "write takes an offset and a Uint8Array", &data, &length) || !Range(info, length, &offset)) {
      return env.Undefined();
    }
    return Task::Start(
        env, [live = init_.live, data, length, offset](std::string*) { return live->Write(offset, length, data); }, {}, info[1]);
  }

  Napi::Value WriteZeroes(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    uint64_t offset, length;
    if (!Live(info)) return env.Undefined();
    if (!ToInteger(info[1], kMaxOffset, &length)) return Throw(env, "EINVAL", "writeZeroes takes an offset and a length");
    if (!Range(info, length, &offset)) return env.Undefined();
    const bool punch = info[2].ToBoolean();
    return Task::Start(
        env, [live = init_.live, offset, length, punch](std::string*) { return live->WriteZeroes(offset, length, punch); }, {});
  }

  Napi::Value Flush(const Napi::CallbackInfo& info) {
    if (!Live(info)) return info.Env().Undefined();
    return Task::Start(info.Env(), [live = init_.live](std::string*) { return live->Flush(); }, {});
  }

  Napi::Value Defects(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    const std::vector<DiskDefect> defects = init_.snapshot ? init_.snapshot->Defects() : std::vector<DiskDefect>();
    Napi::Array list = Napi::Array::New(env, defects.size());
    for (uint32_t i = 0; i < defects.size(); i++) {
      Napi::Object entry = Napi::Object::New(env);
      entry.Set("offset", static_cast<double>(defects[i].offset));
      entry.Set("length", static_cast<double>(defects[i].length));
      entry.Set("why", defects[i].why);
      list.Set(i, entry);
    }
    return list;
  }

  // The engine's disks are told; these know.
  void SetAllocated(const Napi::CallbackInfo&) {}
  void Close(const Napi::CallbackInfo&) { init_.disk->Close(); }

  Init init_;
};

}  // namespace

Napi::Function DefineCowDisk(Napi::Env env) { return DiskObject::Define(env); }

Napi::Value NewCowDisk(Napi::Function made, std::shared_ptr<SnapshotDisk> snapshot, std::shared_ptr<WritableDisk> live) {
  DiskObject::Init init;
  init.disk = snapshot ? std::static_pointer_cast<Disk>(snapshot) : live;
  init.snapshot = std::move(snapshot);
  init.live = std::move(live);
  return made.New({Napi::External<DiskObject::Init>::New(made.Env(), &init)});
}

std::shared_ptr<Disk> UnwrapCowDisk(Napi::Value value) {
  return Tagged(value, kDiskTag) ? DiskObject::Unwrap(value.As<Napi::Object>())->init().disk : nullptr;
}

std::shared_ptr<WritableDisk> UnwrapWritableDisk(Napi::Value value) {
  return Tagged(value, kDiskTag) ? DiskObject::Unwrap(value.As<Napi::Object>())->init().live : nullptr;
}

}  // namespace asof
