// Host: see engine_object.h.
#include <errno.h>
#include <string.h>

#include <utility>

#include "engine_object.h"
#include "js_value.h"

namespace asof {
namespace {

// The answer that JavaScript gave; false, and *why, where it is none. The numbers are JavaScript's own memory: they are
// good until it runs again.
bool ToAnswer(Napi::Value value, RawRegion* answer, std::string* why) {
  *why = "the map of the image is not usable: no region";
  if (!value.IsObject()) return false;
  Napi::Object object = value.As<Napi::Object>();
  Napi::Value start = object.Get("start");
  Napi::Value rows = object.Get("rows");
  Napi::Value reasons = object.Get("reasons");
  if (!start.IsNumber() || !rows.IsTypedArray() || !reasons.IsArray()) return false;
  if (rows.As<Napi::TypedArray>().TypedArrayType() != napi_float64_array) return false;
  Napi::Float64Array numbers = rows.As<Napi::Float64Array>();
  Napi::Array sentences = reasons.As<Napi::Array>();
  answer->start = start.As<Napi::Number>().DoubleValue();
  answer->count = numbers.ElementLength();
  uint32_t count = sentences.Length();
  if (count > answer->count) return false;
  for (uint32_t i = 0; i < count; ++i) {
    Napi::Value sentence = sentences.Get(i);
    if (!sentence.IsString()) return false;
    answer->reasons.push_back(sentence.As<Napi::String>().Utf8Value());
  }
  answer->numbers = numbers.Data();
  why->clear();
  return true;
}

}  // namespace

std::shared_ptr<Host> Host::Create(Napi::Env env, size_t cache_bytes, size_t map_bytes, unsigned threads) {
  std::shared_ptr<Host> host(new Host);
  host->js_ = JsThread::Create(env);
  if (!host->js_) return nullptr;
  host->engine_ = std::make_shared<Engine>(cache_bytes, map_bytes, threads);
  host->env_ = env;
  // Hooks run in reverse order, so this one comes before Node ends the function of JsThread.
  host->hook_ = new std::shared_ptr<Host>(host);
  napi_add_env_cleanup_hook(env, EnvironmentEnds, host->hook_);
  return host;
}

std::shared_ptr<MappedDisk> Host::OpenDisk(uint64_t size, uint32_t sector_size, bool zero_damage,
                                           Napi::Function resolve, uint64_t* id) {
  *id = next_id_++;
  // Weak: the disk must not keep alive what keeps it.
  auto ask = [weak = weak_from_this(), js = std::weak_ptr(js_), id = *id](uint64_t offset) {
    auto thread = js.lock();
    bool posted = thread && thread->Post([weak, id, offset](Napi::Env env) {
      if (auto host = weak.lock()) host->Answer(env, id, offset);
    });
    // On the JavaScript thread itself nobody else would answer while this waits.
    if (posted && thread->Here()) {
      if (auto host = weak.lock()) thread->RunPosted(host->env_);
    }
    return posted;
  };
  auto disk = std::make_shared<MappedDisk>(engine_, size, sector_size, zero_damage, std::move(ask));
  disks_.emplace(*id, OpenDiskEntry{disk, Napi::Persistent(resolve)});
  return disk;
}

void Host::Answer(Napi::Env env, uint64_t id, uint64_t offset) {
  auto found = disks_.find(id);
  if (found == disks_.end()) return;  // closed meanwhile: nobody waits
  auto disk = found->second.disk;
  Napi::Value value = found->second.resolve.Call({Napi::Number::New(env, static_cast<double>(offset))});
  RawRegion answer;
  std::string why;
  RegionPtr region;
  if (!env.IsExceptionPending() && ToAnswer(value, &answer, &why) && !env.IsExceptionPending()) {
    region = DecodeRegion(std::move(answer), offset, disk->Size(), engine_->files.Count(), &why);
  }
  if (env.IsExceptionPending()) {
    why = env.GetAndClearPendingException().Message();
    if (why.empty()) why = "the map of the image cannot be read";
  }
  disk->Answered(offset, std::move(region), why);
}

void Host::CloseDisk(Napi::Env, uint64_t id) {
  auto found = disks_.find(id);
  if (found == disks_.end()) return;
  found->second.disk->Close();
  disks_.erase(found);
}

Napi::Value Host::Run(Napi::Env env, Napi::Object keep, Work work) {
  uint64_t id = next_id_++;
  auto deferred = Napi::Promise::Deferred::New(env);
  works_.emplace(id, OpenWork{deferred, Napi::Persistent(keep)});
  js_->Hold(env);
  auto task = [weak = weak_from_this(), js = js_, id, work = std::move(work)] {
    Outcome outcome = work();
    js->Post([weak, id, outcome](Napi::Env env) {
      if (auto host = weak.lock()) host->Settle(env, id, outcome);
    });
  };
  if (!engine_->pool.Submit(std::move(task))) Settle(env, id, Outcome{ESHUTDOWN, {}});
  return deferred.Promise();
}

void Host::Settle(Napi::Env env, uint64_t id, Outcome outcome) {
  auto found = works_.find(id);
  if (found == works_.end()) return;
  auto deferred = found->second.deferred;
  works_.erase(found);
  js_->Release(env);
  if (outcome.error == 0) {
    deferred.Resolve(outcome.value ? Napi::Number::New(env, *outcome.value) : env.Undefined());
  } else if (outcome.error == EIO) {
    deferred.Reject(MakeError(env, "DAMAGED", "bytes of this range cannot be vouched for").Value());
  } else {
    const char* name = strerrorname_np(outcome.error);
    const char* text = outcome.error == ESHUTDOWN ? "the disk is closed" : strerrordesc_np(outcome.error);
    deferred.Reject(MakeError(env, name ? name : "EIO", text).Value());
  }
}

void Host::Close(Napi::Env env) {
  if (!open_) return;
  End();
  // What the threads had to say before they ended.
  js_->RunPosted(env);
  while (!works_.empty()) Settle(env, works_.begin()->first, Outcome{ESHUTDOWN, {}});
  js_->Stop(false);
  napi_remove_env_cleanup_hook(env, EnvironmentEnds, hook_);
  delete std::exchange(hook_, nullptr);
}

// Leaves no thread that could run, and nobody who waits for JavaScript.
void Host::End() {
  open_ = false;
  for (auto& [id, entry] : disks_) entry.disk->Close();
  disks_.clear();
  engine_->pool.Stop();
  // Disks that are still held read nothing any more: the files go now, not when the collector comes.
  engine_->files.LetGo();
}

void Host::EnvironmentEnds(void* data) {
  auto* hook = static_cast<std::shared_ptr<Host>*>(data);
  std::shared_ptr<Host> host = *hook;
  host->hook_ = nullptr;
  delete hook;
  host->End();
  host->js_->Stop(true);
  host->works_.clear();
}

}  // namespace asof
