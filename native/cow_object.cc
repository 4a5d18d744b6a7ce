// CowVolume, for JavaScript. Every call that may block is a promise; arguments are checked here.
#include "cow_object.h"

#include <fcntl.h>
#include <unistd.h>

#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "cow_disk_object.h"
#include "cow_hold.h"
#include "cow_machine_object.h"
#include "cow_task.h"
#include "cow_volume.h"

namespace asof {
namespace {

using namespace cow;  // NOLINT: this file is the border of that namespace

constexpr napi_type_tag kVolumeTag = {0x6b2f90e1c47d4a58, 0x8e31d5f7a20c9b64};

// The constructors that methods need, one set for each environment.
struct Classes {
  Napi::FunctionReference disk;
  Napi::FunctionReference volume;
};

// Calls JavaScript's listener from any thread, and does not keep the process alive for it.
//
// The environment may end before the volume does: its finaliser and a sender take turns by the lock, and after it nothing
// touches the function.
class EventSender {
 public:
  EventSender(Napi::Env env, Napi::Function listener) : state_(std::make_shared<State>()) {
    auto* held = new std::shared_ptr<State>(state_);
    state_->function = Napi::ThreadSafeFunction::New(env, listener, "asof cow events", 0, 1, [held](Napi::Env) {
      {
        const std::lock_guard lock((*held)->mu);
        (*held)->alive = false;
      }
      delete held;
    });
    state_->function.Unref(env);
  }
  ~EventSender() {
    const std::lock_guard lock(state_->mu);
    if (state_->alive) state_->function.Release();
  }
  EventSender(const EventSender&) = delete;
  EventSender& operator=(const EventSender&) = delete;

  void Send(const Event& event) {
    const std::lock_guard lock(state_->mu);
    if (!state_->alive) return;
    auto* copy = new Event(event);
    const napi_status sent = state_->function.NonBlockingCall(copy, [](Napi::Env env, Napi::Function listener, Event* raw) {
      const std::unique_ptr<Event> sent(raw);
      if (!env) return;
      static constexpr const char* kKinds[] = {"low-water", "broken", "unrecorded", "tracker-lost"};
      Napi::Object object = Napi::Object::New(env);
      object.Set("kind", kKinds[static_cast<int>(sent->kind)]);
      object.Set("snapshot", UuidText(sent->snapshot));
      object.Set("used", static_cast<double>(sent->used));
      object.Set("limit", static_cast<double>(sent->limit));
      object.Set("why", sent->why);
      listener.Call({object});
    });
    if (sent != napi_ok) delete copy;
  }

 private:
  struct State {
    std::mutex mu;
    bool alive = true;
    Napi::ThreadSafeFunction function;
  };
  const std::shared_ptr<State> state_;
};

class VolumeObject : public Napi::ObjectWrap<VolumeObject> {
 public:
  struct Init {
    Classes* classes;
    std::shared_ptr<Volume> volume;
  };

  static Napi::Function Define(Napi::Env env, Classes* classes) {
    return DefineClass(env, "CowVolume",
                       {
                           StaticMethod<&VolumeObject::Open>("open", napi_default, classes),
                           StaticMethod<&VolumeObject::Take>("snapshot"),
                           StaticMethod<&VolumeObject::HoldAll>("hold"),
                           InstanceMethod<&VolumeObject::Live>("live"),
                           InstanceMethod<&VolumeObject::List>("snapshots"),
                           InstanceMethod<&VolumeObject::OpenDisk>("disk"),
                           InstanceMethod<&VolumeObject::Delete>("delete"),
                           InstanceMethod<&VolumeObject::Release>("release"),
                           InstanceMethod<&VolumeObject::Preserved>("preserved"),
                           InstanceMethod<&VolumeObject::ChangesSince>("changes"),
                           InstanceMethod<&VolumeObject::Distrust>("distrust"),
                           InstanceMethod<&VolumeObject::Counters>("activity"),
                           InstanceMethod<&VolumeObject::Close>("close"),
                           InstanceMethod<&VolumeObject::Abandon>("abandon"),
                       });
  }

  explicit VolumeObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    if (!info[0].IsExternal()) {
      Throw(info.Env(), "EINVAL", "a volume is opened by CowVolume.open");
      return;
    }
    const Init* init = info[0].As<Napi::External<Init>>().Data();
    volume_ = init->volume;
    classes_ = init->classes;
    napi_type_tag_object(info.Env(), info.This(), &kVolumeTag);
  }

 private:
  // A descriptor, { machine, file }, or null / -1 for none. False where it is none of these.
  static bool TakeFile(const Napi::Value& value, std::unique_ptr<File>* file) {
    if (value.IsNull() || value.IsUndefined()) return true;
    if (value.IsNumber()) {
      const int fd = value.As<Napi::Number>().Int32Value();
      if (fd < 0) return true;
      const int own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
      if (own < 0) return false;
      *file = std::make_unique<PosixFile>(own);
      return true;
    }
    *file = OpenModelFile(value);
    return *file != nullptr;
  }

  static Napi::Value Open(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    if (!info[0].IsObject()) return Throw(env, "EINVAL", "CowVolume.open takes options");
    const auto given = info[0].As<Napi::Object>();
    VolumeOptions options;
    uint64_t size, sector, chunk, region, timeout, limit, low;
    const std::string durability = given.Get("durability").ToString();
    const std::string on_error = given.Get("onError").ToString();
    if (!Id(given.Get("volume"), &options.volume) || !ToInteger(given.Get("size"), kMaxOffset, &size) || size == 0 ||
        !ToInteger(given.Get("sectorSize"), 4096, &sector) || (sector != 512 && sector != 4096) ||
        !ToInteger(given.Get("chunkSize"), kMaxChunk, &chunk) || chunk < kMinChunk || (chunk & (chunk - 1)) != 0 ||
        !ToInteger(given.Get("regionSize"), 1 << 30, &region) || region < chunk || (region & (region - 1)) != 0 ||
        (durability != "power" && durability != "process") || (on_error != "break-snapshot" && on_error != "break-write") ||
        !ToInteger(given.Get("timeoutMs"), 86400000, &timeout) || !ToInteger(given.Get("limit"), kMaxOffset, &limit) ||
        !ToInteger(given.Get("lowWater"), kMaxOffset, &low) || size / chunk >= UINT32_MAX) {
      return Throw(env, "EINVAL",
                   "CowVolume.open: volume is a UUID; chunkSize a power of two from 4096 to 2 MiB; regionSize one from there to 1 GiB; "
                   "durability power or process; onError break-snapshot or break-write");
    }
    options.size = size;
    options.sector_size = static_cast<uint32_t>(sector);
    options.chunk_size = static_cast<uint32_t>(chunk);
    options.region_size = static_cast<uint32_t>(region);
    options.power = durability == "power";
    options.on_error = on_error == "break-write" ? OnCowError::kBreakWrite : OnCowError::kBreakSnapshot;
    options.timeout_ms = static_cast<unsigned>(timeout);
    options.limit = limit;
    options.low_water = low;
    options.create = given.Get("create").ToBoolean();
    uint64_t least_epoch = 0;
    if (!given.Get("leastEpoch").IsUndefined() && !ToInteger(given.Get("leastEpoch"), UINT32_MAX / 2, &least_epoch)) {
      return Throw(env, "EINVAL", "CowVolume.open: leastEpoch is an epoch");
    }
    options.least_epoch = static_cast<uint32_t>(least_epoch);
    if (!Id(given.Get("bootId"), &options.boot)) return Throw(env, "EINVAL", "CowVolume.open: bootId is a UUID");
    struct Shared {
      std::unique_ptr<File> origin, store, tracker;
      std::shared_ptr<Volume> volume;
      OpenReport report;
    };
    auto shared = std::make_shared<Shared>();
    if (!TakeFile(given.Get("origin"), &shared->origin) || !shared->origin || !TakeFile(given.Get("store"), &shared->store) ||
        !TakeFile(given.Get("tracker"), &shared->tracker)) {
      return Throw(env, "EINVAL", "CowVolume.open: origin, store and tracker are descriptors");
    }
    Volume::Listener listener;
    if (given.Get("event").IsFunction()) {
      auto sender = std::make_shared<EventSender>(env, given.Get("event").As<Napi::Function>());
      listener = [sender](const Event& event) { sender->Send(event); };
    }
    return Task::Start(
        env,
        [shared, options, listener](std::string* why) {
          return Volume::Open(options, std::move(shared->origin), std::move(shared->store), std::move(shared->tracker), listener,
                              &shared->volume, &shared->report, why);
        },
        [shared, classes = static_cast<Classes*>(info.Data())](Napi::Env env) -> Napi::Value {
          const OpenReport& report = shared->report;
          Napi::Object found = Napi::Object::New(env);
          found.Set("existed", report.existed);
          found.Set("clean", report.clean);
          found.Set("epoch", report.epoch);
          found.Set("copies", static_cast<double>(report.copies));
          found.Set("torn", static_cast<double>(report.torn));
          found.Set("damaged", static_cast<double>(report.damaged));
          found.Set("broken", report.broken);
          found.Set("tracking", report.tracking);
          Napi::Object result = Napi::Object::New(env);
          result.Set("found", found);
          Init init{classes, std::move(shared->volume)};
          result.Set("volume", classes->volume.New({Napi::External<Init>::New(env, &init)}));
          return result;
        });
  }

  static Napi::Value Take(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    Uuid group;
    uint64_t timeout;
    const char* usage = "CowVolume.snapshot takes [{ volume, id }], each volume once, a group's UUID and milliseconds";
    if (!info[0].IsArray() || !Id(info[1], &group) || !ToInteger(info[2], 86400000, &timeout)) return Throw(env, "EINVAL", usage);
    const auto list = info[0].As<Napi::Array>();
    std::vector<SnapshotRequest> requests;
    for (uint32_t i = 0; i < list.Length(); i++) {
      const Napi::Value item = list.Get(i);
      SnapshotRequest request;
      if (!item.IsObject() || !Tagged(item.As<Napi::Object>().Get("volume"), kVolumeTag) || !Id(item.As<Napi::Object>().Get("id"), &request.id)) {
        return Throw(env, "EINVAL", usage);
      }
      request.volume = VolumeObject::Unwrap(item.As<Napi::Object>().Get("volume").As<Napi::Object>())->volume_;
      if (!request.volume) return Throw(env, "ESHUTDOWN", "the volume is closed");
      for (const SnapshotRequest& other : requests) {
        if (other.volume == request.volume) return Throw(env, "EINVAL", usage);
      }
      requests.push_back(std::move(request));
    }
    if (requests.empty()) return Throw(env, "EINVAL", usage);
    auto result = std::make_shared<SnapshotResult>();
    return Task::Start(
        env,
        [requests, group, timeout, result](std::string*) {
          return Volume::Take(requests, group, static_cast<unsigned>(timeout), result.get());
        },
        [result](Napi::Env env) -> Napi::Value {
          Napi::Object object = Napi::Object::New(env);
          object.Set("time", static_cast<double>(result->time_ms));
          object.Set("holdNs", static_cast<double>(result->hold_ns));
          object.Set("switchNs", static_cast<double>(result->switch_ns));
          Napi::Array epochs = Napi::Array::New(env, result->epochs.size());
          for (uint32_t i = 0; i < result->epochs.size(); i++) epochs.Set(i, result->epochs[i]);
          object.Set("epochs", epochs);
          Napi::Array writes = Napi::Array::New(env, result->writes.size());
          for (uint32_t i = 0; i < result->writes.size(); i++) writes.Set(i, static_cast<double>(result->writes[i]));
          object.Set("writes", writes);
          return object;
        });
  }

  static Napi::Value HoldAll(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    uint64_t drain, limit;
    const char* usage = "CowVolume.hold takes volumes, each once, and twice milliseconds";
    if (!info[0].IsArray() || !ToInteger(info[1], 86400000, &drain) || !ToInteger(info[2], 86400000, &limit)) return Throw(env, "EINVAL", usage);
    const auto list = info[0].As<Napi::Array>();
    std::vector<std::shared_ptr<Volume>> volumes;
    for (uint32_t i = 0; i < list.Length(); i++) {
      const Napi::Value item = list.Get(i);
      if (!Tagged(item, kVolumeTag)) return Throw(env, "EINVAL", usage);
      std::shared_ptr<Volume> volume = VolumeObject::Unwrap(item.As<Napi::Object>())->volume_;
      if (!volume) return Throw(env, "ESHUTDOWN", "the volume is closed");
      for (const auto& other : volumes) {
        if (other == volume) return Throw(env, "EINVAL", usage);
      }
      volumes.push_back(std::move(volume));
    }
    if (volumes.empty()) return Throw(env, "EINVAL", usage);
    auto held = std::make_shared<std::shared_ptr<Hold>>();
    return Task::Start(
        env,
        [volumes, drain, limit, held](std::string*) {
          return Hold::Begin(volumes, static_cast<unsigned>(drain), static_cast<unsigned>(limit), held.get());
        },
        [held](Napi::Env env) -> Napi::Value {
          const std::shared_ptr<Hold> hold = *held;
          Napi::Object object = Napi::Object::New(env);
          object.Set("time", static_cast<double>(hold->time_ms()));
          Napi::Array writes = Napi::Array::New(env, hold->writes().size());
          for (uint32_t i = 0; i < hold->writes().size(); i++) writes.Set(i, static_cast<double>(hold->writes()[i]));
          object.Set("writes", writes);
          Napi::Array epochs = Napi::Array::New(env, hold->epochs().size());
          for (uint32_t i = 0; i < hold->epochs().size(); i++) epochs.Set(i, hold->epochs()[i]);
          object.Set("epochs", epochs);
          object.Set("end", Napi::Function::New(env, [hold](const Napi::CallbackInfo& info) -> Napi::Value {
                       return Napi::Boolean::New(info.Env(), hold->End());
                     }));
          return object;
        });
  }

  bool Ready(const Napi::CallbackInfo& info) {
    if (volume_) return true;
    Throw(info.Env(), "ESHUTDOWN", "the volume is closed");
    return false;
  }

  Napi::Value Live(const Napi::CallbackInfo& info) {
    if (!Ready(info)) return info.Env().Undefined();
    return NewCowDisk(classes_->disk.Value(), nullptr, std::make_shared<LiveDisk>(volume_));
  }

  Napi::Value OpenDisk(const Napi::CallbackInfo& info) {
    Uuid id;
    if (!Ready(info)) return info.Env().Undefined();
    if (!Id(info[0], &id)) return Throw(info.Env(), "EINVAL", "disk takes a snapshot's UUID");
    auto disk = OpenSnapshotDisk(volume_, id);
    if (!disk) return Throw(info.Env(), "ENOENT", "the volume has no snapshot " + UuidText(id));
    return NewCowDisk(classes_->disk.Value(), std::move(disk), nullptr);
  }

  Napi::Value List(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    if (!Ready(info)) return env.Undefined();
    const std::vector<SnapshotInfo> snapshots = volume_->List();
    Napi::Array list = Napi::Array::New(env, snapshots.size());
    for (uint32_t i = 0; i < snapshots.size(); i++) {
      const SnapshotRecord& record = snapshots[i].record;
      Napi::Object entry = Napi::Object::New(env);
      entry.Set("id", UuidText(snapshots[i].id));
      entry.Set("state", snapshots[i].state == SnapshotState::kLive ? "live" : "broken");
      entry.Set("error", record.error == 0 ? "" : ErrnoName(record.error));
      entry.Set("why", record.why);
      entry.Set("epoch", record.epoch);
      entry.Set("time", static_cast<double>(record.time_ms));
      entry.Set("group", UuidText(record.group));
      entry.Set("groupSize", record.group_size);
      entry.Set("holdNs", static_cast<double>(record.hold_ns));
      entry.Set("switchNs", static_cast<double>(record.switch_ns));
      uint64_t released = 0;
      for (const auto& [start, end] : record.released.Runs()) released += end - start;
      entry.Set("releasedChunks", static_cast<double>(released));
      list.Set(i, entry);
    }
    return list;
  }

  Napi::Value Delete(const Napi::CallbackInfo& info) {
    Uuid id;
    if (!Ready(info)) return info.Env().Undefined();
    if (!Id(info[0], &id)) return Throw(info.Env(), "EINVAL", "delete takes a snapshot's UUID");
    return Task::Start(info.Env(), [volume = volume_, id](std::string*) { return volume->Delete(id); }, {});
  }

  Napi::Value Release(const Napi::CallbackInfo& info) {
    Uuid id;
    uint64_t own;
    if (!Ready(info)) return info.Env().Undefined();
    const bool list = info[1].IsTypedArray() && info[1].As<Napi::TypedArray>().TypedArrayType() == napi_float64_array;
    if (!Id(info[0], &id) || !list || !ToInteger(info[2], 1 << 20, &own)) {
      return Throw(info.Env(), "EINVAL", "release takes a snapshot's UUID, a Float64Array of starts and lengths, and a count");
    }
    const auto runs = info[1].As<Napi::Float64Array>();
    std::vector<std::pair<uint64_t, uint64_t>> ranges;
    for (size_t i = 0; i + 1 < runs.ElementLength(); i += 2) {
      uint64_t start, length;
      if (!ToInteger(runs[i], volume_->options().size, &start) || !ToInteger(runs[i + 1], volume_->options().size - start, &length)) {
        return Throw(info.Env(), "OUT_OF_RANGE", "the range does not lie within the disk");
      }
      ranges.emplace_back(start, start + length);
    }
    return Task::Start(
        info.Env(), [volume = volume_, id, ranges, own](std::string*) { return volume->Release(id, ranges, static_cast<int>(own)); }, {});
  }

  Napi::Value Preserved(const Napi::CallbackInfo& info) {
    Uuid id;
    uint64_t limit;
    if (!Ready(info)) return info.Env().Undefined();
    if (!Id(info[0], &id) || !ToInteger(info[1], UINT32_MAX, &limit) || limit == 0) {
      return Throw(info.Env(), "EINVAL", "preserved takes a snapshot's UUID and a number of runs");
    }
    auto runs = std::make_shared<std::vector<std::pair<uint64_t, uint64_t>>>();
    return Task::Start(
        info.Env(), [volume = volume_, id, limit, runs](std::string*) { return volume->Preserved(id, limit, runs.get()); },
        [runs](Napi::Env env) -> Napi::Value {
          auto list = Napi::Float64Array::New(env, runs->size() * 2);
          for (size_t i = 0; i < runs->size(); i++) {
            list[i * 2] = static_cast<double>((*runs)[i].first);
            list[i * 2 + 1] = static_cast<double>((*runs)[i].second - (*runs)[i].first);
          }
          return list;
        });
  }

  Napi::Value ChangesSince(const Napi::CallbackInfo& info) {
    uint64_t since, until, from = 0, limit = UINT32_MAX;
    if (!Ready(info)) return info.Env().Undefined();
    if (!ToInteger(info[0], UINT32_MAX, &since) || !ToInteger(info[1], UINT32_MAX, &until) ||
        (!info[2].IsUndefined() && !ToInteger(info[2], kMaxOffset, &from)) ||
        (!info[3].IsUndefined() && (!ToInteger(info[3], UINT32_MAX, &limit) || limit == 0))) {
      return Throw(info.Env(), "EINVAL", "changes takes two epochs, the second 0 for now, an offset and a number of runs");
    }
    auto changes = std::make_shared<Changes>();
    return Task::Start(
        info.Env(),
        [volume = volume_, changes, since, until, from, limit](std::string*) {
          *changes = volume->ChangesSince(static_cast<uint32_t>(since), static_cast<uint32_t>(until), from, limit);
          return 0;
        },
        [changes](Napi::Env env) -> Napi::Value {
          Napi::Object object = Napi::Object::New(env);
          auto runs = Napi::Float64Array::New(env, changes->runs.size());
          if (!changes->runs.empty()) memcpy(runs.Data(), changes->runs.data(), changes->runs.size() * sizeof(double));
          object.Set("runs", runs);
          object.Set("next", static_cast<double>(changes->next));
          object.Set("exact", changes->exact);
          object.Set("why", changes->why);
          return object;
        });
  }

  Napi::Value Distrust(const Napi::CallbackInfo& info) {
    if (!Ready(info)) return info.Env().Undefined();
    const std::string why = info[0].ToString();
    return Task::Start(info.Env(), [volume = volume_, why](std::string*) { return volume->Distrust(why); }, {});
  }

  Napi::Value Counters(const Napi::CallbackInfo& info) {
    if (!Ready(info)) return info.Env().Undefined();
    const Activity activity = volume_->Counters();
    Napi::Object object = Napi::Object::New(info.Env());
    const auto set = [&](const char* name, uint64_t value) { object.Set(name, static_cast<double>(value)); };
    set("writes", activity.writes);
    set("bytes", activity.bytes);
    set("firstWrites", activity.first_writes);
    set("copies", activity.copies);
    set("waits", activity.waits);
    set("flushes", activity.flushes);
    set("notes", activity.notes);
    set("syncs", activity.syncs);
    set("preserved", activity.preserved);
    set("storeUsed", activity.store_used);
    set("storeLimit", activity.store_limit);
    set("storeHeld", activity.store_held);
    set("storeFree", activity.store_free);
    set("epoch", activity.epoch);
    return object;
  }

  Napi::Value Close(const Napi::CallbackInfo& info) {
    if (!Ready(info)) return info.Env().Undefined();
    return Task::Start(info.Env(), [volume = std::move(volume_)](std::string*) { return volume->Close(); }, {});
  }

  // Lets go without a clean stop, as a killed process does.
  void Abandon(const Napi::CallbackInfo&) {
    if (volume_) volume_->Abandon();
    volume_.reset();
  }

  std::shared_ptr<Volume> volume_;
  Classes* classes_ = nullptr;
};

}  // namespace

void InitCow(Napi::Env env, Napi::Object exports) {
  auto* classes = new Classes;
  classes->disk = Napi::Persistent(DefineCowDisk(env));
  classes->volume = Napi::Persistent(VolumeObject::Define(env, classes));
  exports.Set("CowVolume", classes->volume.Value());
  exports.Set("CowMachine", DefineCowMachine(env));
  env.AddCleanupHook([classes] { delete classes; });
}

}  // namespace asof
