// The classes that JavaScript sees: arguments are checked here, the rest is Host's.
#include "engine_object.h"

#include <errno.h>
#include <unistd.h>

#include <optional>
#include <utility>

#include "cow_object.h"
#include "disk_object.h"
#include "js_value.h"
#include "window_object.h"

namespace asof {
namespace {

// Marks a NativeDisk, so that no other object is taken for one.
constexpr napi_type_tag kDiskTag = {0x8f3c1d5e27a94b60, 0xb1d2764ce0935fa8};

class DiskObject : public Napi::ObjectWrap<DiskObject> {
 public:
  struct Init {
    std::shared_ptr<Host> host;
    std::shared_ptr<MappedDisk> disk;
    std::shared_ptr<Reader> reader;  // of all reads from JavaScript
    uint64_t id;
  };

  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "NativeDisk",
                       {
                           InstanceMethod<&DiskObject::Read>("read"),
                           InstanceMethod<&DiskObject::Seek>("seek"),
                           InstanceMethod<&DiskObject::WholeFile>("wholeFile"),
                           InstanceMethod<&DiskObject::Defects>("defects"),
                           InstanceMethod<&DiskObject::Learn>("learn"),
                           InstanceMethod<&DiskObject::SetAllocated>("setAllocated"),
                           InstanceMethod<&DiskObject::Close>("close"),
                       });
  }

  explicit DiskObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    if (!info[0].IsExternal()) {
      Throw(info.Env(), "EINVAL", "a disk is opened by Engine.openDisk");
      return;
    }
    init_ = *info[0].As<Napi::External<Init>>().Data();
    napi_type_tag_object(info.Env(), info.This(), &kDiskTag);
  }

  std::shared_ptr<Disk> disk() const { return init_.disk; }

 private:
  Napi::Value Read(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    bool bytes = info[1].IsTypedArray() && info[1].As<Napi::TypedArray>().TypedArrayType() == napi_uint8_array;
    if (!bytes) return Throw(env, "EINVAL", "read takes an offset and a Uint8Array");
    Napi::Uint8Array buffer = info[1].As<Napi::Uint8Array>();
    uint64_t offset;
    uint64_t size = init_.disk->Size();
    if (!ToInteger(info[0], size, &offset) || buffer.ByteLength() > size - offset) {
      return Throw(env, "OUT_OF_RANGE", "the range does not lie within the disk");
    }
    auto work = [disk = init_.disk, reader = init_.reader, offset, into = buffer.Data(),
                 length = buffer.ByteLength()]() -> Host::Outcome {
      return {disk->Read(offset, length, into, reader.get()), {}};
    };
    return init_.host->Run(env, buffer, std::move(work));
  }

  Napi::Value Seek(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    uint64_t offset;
    if (!ToInteger(info[0], kMaxOffset, &offset) || !info[1].IsBoolean()) {
      return Throw(env, "EINVAL", "seek takes an offset and whether a hole is sought");
    }
    int whence = info[1].As<Napi::Boolean>() ? SEEK_HOLE : SEEK_DATA;
    auto work = [disk = init_.disk, offset, whence]() -> Host::Outcome {
      uint64_t result;
      int error = disk->Seek(offset, whence, &result);
      if (error == ENXIO) return {0, -1};
      return {error, error == 0 ? std::optional<double>(result) : std::nullopt};
    };
    return init_.host->Run(env, info.This().As<Napi::Object>(), std::move(work));
  }

  Napi::Value WholeFile(const Napi::CallbackInfo& info) {
    auto work = [disk = init_.disk]() -> Host::Outcome { return {0, disk->WholeFile()}; };
    return init_.host->Run(info.Env(), info.This().As<Napi::Object>(), std::move(work));
  }

  Napi::Value Defects(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    auto defects = init_.disk->ListDefects();
    Napi::Array list = Napi::Array::New(env, defects.size());
    for (uint32_t i = 0; i < defects.size(); ++i) {
      Napi::Object entry = Napi::Object::New(env);
      entry.Set("offset", static_cast<double>(defects[i].start));
      entry.Set("length", static_cast<double>(defects[i].end - defects[i].start));
      entry.Set("why", defects[i].why);
      list.Set(i, entry);
    }
    return list;
  }

  Napi::Value Learn(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    uint64_t offset;
    if (!ToInteger(info[0], kMaxOffset, &offset) || offset >= init_.disk->Size()) {
      return Throw(env, "OUT_OF_RANGE", "the offset does not lie within the disk");
    }
    uint64_t end, allocated;
    if (!init_.disk->Known(offset, &end, &allocated)) {
      init_.host->Answer(env, init_.id, offset);
      if (!init_.disk->Known(offset, &end, &allocated)) return env.Undefined();
    }
    Napi::Object known = Napi::Object::New(env);
    known.Set("end", static_cast<double>(end));
    known.Set("allocated", static_cast<double>(allocated));
    return known;
  }

  void SetAllocated(const Napi::CallbackInfo& info) {
    uint64_t bytes;
    if (!ToInteger(info[0], init_.disk->Size(), &bytes)) {
      Throw(info.Env(), "EINVAL", "setAllocated takes a number of bytes within the disk's size");
      return;
    }
    init_.disk->SetAllocated(bytes);
  }

  void Close(const Napi::CallbackInfo& info) {
    init_.host->CloseDisk(info.Env(), init_.id);
    init_.disk->Close();
  }

  Init init_;
};

class EngineObject : public Napi::ObjectWrap<EngineObject> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "Engine",
                       {
                           InstanceMethod<&EngineObject::AddFile>("addFile"),
                           InstanceMethod<&EngineObject::OpenDisk>("openDisk"),
                           InstanceMethod<&EngineObject::Stats>("stats"),
                           InstanceMethod<&EngineObject::Close>("close"),
                       });
  }

  explicit EngineObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    Napi::Env env = info.Env();
    uint64_t cache, map, threads;
    Napi::Object options = info[0].IsObject() ? info[0].As<Napi::Object>() : Napi::Object::New(env);
    if (!ToInteger(options.Get("cacheBytes"), kMaxOffset, &cache) ||
        !ToInteger(options.Get("mapBytes"), kMaxOffset, &map) || !ToInteger(options.Get("threads"), 256, &threads)) {
      Throw(env, "EINVAL", "Engine takes cacheBytes, mapBytes and threads (at most 256)");
      return;
    }
    host_ = Host::Create(env, cache, map, static_cast<unsigned>(threads));
    if (!host_) {
      Throw(env, "EIO", "Node gives no function to call from other threads");
      return;
    }
    disk_class_ = Napi::Persistent(DiskObject::Define(env));
  }

 private:
  Napi::Value AddFile(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    if (!host_->open()) return Throw(env, "ESHUTDOWN", "the engine is closed");
    uint64_t fd;
    if (!ToInteger(info[0], INT32_MAX, &fd) || !info[1].IsString()) {
      return Throw(env, "EINVAL", "addFile takes a descriptor and a path");
    }
    std::string path = info[1].As<Napi::String>().Utf8Value();
    uint32_t id;
    int error = host_->engine().files.Add(static_cast<int>(fd), path, &id);
    if (error != 0) return ThrowErrno(env, error, "cannot take " + path);
    return Napi::Number::New(env, id);
  }

  Napi::Value OpenDisk(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    if (!host_->open()) return Throw(env, "ESHUTDOWN", "the engine is closed");
    uint64_t size, sector_size;
    if (!ToInteger(info[0], kMaxOffset, &size) || !ToInteger(info[1], 4096, &sector_size) ||
        (sector_size != 512 && sector_size != 4096) || !info[2].IsBoolean() || !info[3].IsFunction()) {
      return Throw(env, "EINVAL", "openDisk takes a size, a sector size of 512 or 4096, a boolean and a function");
    }
    DiskObject::Init init;
    init.host = host_;
    init.disk = host_->OpenDisk(size, static_cast<uint32_t>(sector_size), info[2].As<Napi::Boolean>(),
                                info[3].As<Napi::Function>(), &init.id);
    init.reader = init.disk->OpenReader();
    return disk_class_.New({Napi::External<DiskObject::Init>::New(env, &init)});
  }

  Napi::Value Stats(const Napi::CallbackInfo& info) {
    Engine& engine = host_->engine();
    Napi::Object stats = Napi::Object::New(info.Env());
    stats.Set("cacheBytes", static_cast<double>(engine.cache.bytes()));
    stats.Set("cacheLimit", static_cast<double>(engine.cache.limit()));
    stats.Set("mapBytes", static_cast<double>(engine.maps.used()));
    stats.Set("mapLimit", static_cast<double>(engine.maps.limit()));
    stats.Set("unpacked", static_cast<double>(engine.cache.unpacked()));
    stats.Set("hits", static_cast<double>(engine.cache.hits()));
    stats.Set("resolved", static_cast<double>(engine.resolved.load()));
    return stats;
  }

  void Close(const Napi::CallbackInfo& info) { host_->Close(info.Env()); }

  std::shared_ptr<Host> host_;
  Napi::FunctionReference disk_class_;
};

}  // namespace

std::shared_ptr<Disk> UnwrapDisk(Napi::Value value) {
  if (!value.IsObject()) return nullptr;
  bool tagged = false;
  if (napi_check_object_type_tag(value.Env(), value, &kDiskTag, &tagged) != napi_ok || !tagged) {
    auto cow = UnwrapCowDisk(value);
    return cow ? cow : UnwrapWindow(value);
  }
  return DiskObject::Unwrap(value.As<Napi::Object>())->disk();
}

void InitEngine(Napi::Env env, Napi::Object exports) { exports.Set("Engine", EngineObject::Define(env)); }

}  // namespace asof
