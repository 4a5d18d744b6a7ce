// NativeEngine of src/native.ts, and what of it needs JavaScript: functions that say where sectors live, and work
// whose promise is open.
#pragma once

#include <napi.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "engine.h"
#include "js_thread.h"
#include "mapped_disk.h"

namespace asof {

// Adds `Engine`.
void InitEngine(Napi::Env env, Napi::Object exports);

// An engine and its tables of JavaScript values, which the JavaScript thread alone touches: other threads name an entry
// by its number. It lives until Close or the end of the environment, whichever objects are collected before.
class Host : public std::enable_shared_from_this<Host> {
 public:
  static std::shared_ptr<Host> Create(Napi::Env env, size_t cache_bytes, size_t map_bytes, unsigned threads);

  Engine& engine() { return *engine_; }
  bool open() const { return open_; }

  // A disk whose map `resolve` knows, and its number.
  std::shared_ptr<MappedDisk> OpenDisk(uint64_t size, uint32_t sector_size, bool zero_damage, Napi::Function resolve,
                                       uint64_t* id);
  void CloseDisk(Napi::Env env, uint64_t id);

  // Asks JavaScript for the region of a disk that holds `offset`, and tells the disk.
  void Answer(Napi::Env env, uint64_t id, uint64_t offset);

  // What a piece of work came to: an errno, or 0 and perhaps a number.
  struct Outcome {
    int error;
    std::optional<double> value;
  };
  using Work = std::function<Outcome()>;

  // Does the work on a thread of the engine; a promise of its outcome. `keep` stays alive as long.
  Napi::Value Run(Napi::Env env, Napi::Object keep, Work work);

  // Closes all disks, ends the threads, settles the promises. A second call does nothing.
  void Close(Napi::Env env);

 private:
  struct OpenDiskEntry {
    std::shared_ptr<MappedDisk> disk;
    Napi::FunctionReference resolve;
  };
  struct OpenWork {
    Napi::Promise::Deferred deferred;
    Napi::ObjectReference keep;
  };

  Host() = default;
  static void EnvironmentEnds(void* data);
  void End();
  void Settle(Napi::Env env, uint64_t id, Outcome outcome);

  std::shared_ptr<Engine> engine_;
  std::shared_ptr<JsThread> js_;
  std::unordered_map<uint64_t, OpenDiskEntry> disks_;
  std::unordered_map<uint64_t, OpenWork> works_;
  uint64_t next_id_ = 1;
  bool open_ = true;
  napi_env env_ = nullptr;
  std::shared_ptr<Host>* hook_ = nullptr;  // owned by the environment's clean-up hook
};

}  // namespace asof
