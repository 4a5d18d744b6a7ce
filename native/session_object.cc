// The JavaScript face of a mount: unwraps the tree, and carries the workers' questions to the JavaScript thread.
//
// Lifetimes: a live session holds its JavaScript object (a reference) and, by an open ThreadSafeFunction, the event loop; both
// are let go when the last worker has ended and been joined. If the environment goes first (process.exit, a Worker
// that is terminated), the connection is aborted and whoever waits for JavaScript is told EIO; a worker that waits for
// something else for too long keeps its `Bridge`, which then is never freed.
#include "session_object.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cow_object.h"
#include "disk_object.h"
#include "fuse_mount.h"
#include "fuse_session.h"
#include "js_value.h"

namespace asof {

namespace {

constexpr std::chrono::seconds kTearDownWait{2};

// No errno: JavaScript will answer by Session.answer.
constexpr int kLater = -1;

// True where the last call into JavaScript threw; what it threw is dropped.
bool Threw(Napi::Env env) {
  if (!env.IsExceptionPending()) return false;
  env.GetAndClearPendingException();
  return true;
}

// Between the workers and JavaScript. Everything but the answers to workers is done on the JavaScript thread.
class Bridge : public fuse::SessionHost {
 public:
  Bridge(Napi::Object self, Napi::Object options);
  ~Bridge() override = default;

  void Start(const fuse::SessionConfig& config, std::unique_ptr<fuse::Tree> tree);
  Napi::Promise FactsPromise(Napi::Env env);
  void Abort();
  bool writable() const { return writable_; }
  // The answer to a question that was put off; `error` is an errno or 0.
  void Answer(uint64_t token, int error, std::string answer);
  // A promise; empty where the tree cannot change so.
  Napi::Value Update(Napi::Env env, fuse::Changes changes);

  // The environment goes: false where a worker would not end, and so this object must stay.
  bool TearDown();

 private:
  // A question of a worker's that JavaScript has not answered yet.
  struct Question {
    std::function<int(Napi::Env, uint64_t token, std::string* answer)> ask;
    int error = EIO;
    bool done = false;
    std::string answer;
  };

  // From workers.
  int Text(uint64_t id, std::string* content) override;
  int Find(uint64_t parent, const std::string& name, uint64_t* id) override;
  int List(uint64_t id) override;
  void Ready(const fuse::SessionFacts& facts) override;
  void Ended(int error) override;
  // `ask` gives an errno, or kLater. `answer`: where what was answered goes; may be null.
  int Ask(std::function<int(Napi::Env, uint64_t token, std::string* answer)> ask, std::string* answer);
  void Post(std::function<void(Napi::Env)> call);

  void Finish(Napi::Env env, int error);
  Napi::Object FactsObject(Napi::Env env) const;
  static void Hook(void* self) { static_cast<Bridge*>(self)->TearDown(); }

  const napi_env env_;
  Napi::ObjectReference self_;
  Napi::FunctionReference text_;
  Napi::FunctionReference find_;
  Napi::FunctionReference list_;
  Napi::FunctionReference ended_;
  Napi::ThreadSafeFunction calls_;
  std::optional<fuse::SessionFacts> facts_;
  std::vector<Napi::Promise::Deferred> waiting_;
  std::map<uint64_t, Napi::Promise::Deferred> updates_;  // that the kernel is being told of
  uint64_t last_update_ = 0;
  std::map<uint64_t, std::shared_ptr<Question>> later_;  // by token
  uint64_t last_token_ = 0;
  bool writable_ = false;
  bool over_ = false;  // Finish or TearDown has run
  bool stuck_ = false;

  std::mutex mutex_;  // guards closing_, gone_ and every question
  std::condition_variable answered_;
  bool closing_ = false;  // JavaScript answers no more
  bool gone_ = false;     // Ended was called
  std::unique_ptr<fuse::Session> session_;
};

class SessionObject : public Napi::ObjectWrap<SessionObject> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "Session",
                       {InstanceMethod<&SessionObject::Ready>("ready"),
                        InstanceMethod<&SessionObject::Update>("update"),
                        InstanceMethod<&SessionObject::Answer>("answer"),
                        InstanceMethod<&SessionObject::Abort>("abort")});
  }

  explicit SessionObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<SessionObject>(info) { Begin(info); }
  ~SessionObject() override {
    if (bridge_ && !bridge_->TearDown()) bridge_.release();
  }

 private:
  void Begin(const Napi::CallbackInfo& info);
  Napi::Value Ready(const Napi::CallbackInfo& info) { return bridge_->FactsPromise(info.Env()); }
  Napi::Value Update(const Napi::CallbackInfo& info);
  void Answer(const Napi::CallbackInfo& info) {
    const bool told = info[1].IsString();
    bridge_->Answer(static_cast<uint64_t>(info[0].ToNumber().Int64Value()), told ? 0 : EIO,
                    told ? info[1].As<Napi::String>().Utf8Value() : std::string());
  }
  void Abort(const Napi::CallbackInfo&) { bridge_->Abort(); }

  std::unique_ptr<Bridge> bridge_;
};

// `writable`: disks that can be written are allowed.
bool ReadNodes(const Napi::Value& value, bool writable, std::vector<fuse::NodeFacts>* nodes) {
  if (!value.IsArray()) return false;
  const auto list = value.As<Napi::Array>();
  nodes->reserve(list.Length());
  for (uint32_t i = 0; i < list.Length(); ++i) {
    Napi::HandleScope scope(value.Env());
    const Napi::Value item = list.Get(i);
    if (!item.IsObject()) return false;
    const auto object = item.As<Napi::Object>();
    const Napi::Value id = object.Get("id");
    const Napi::Value parent = object.Get("parent");
    const Napi::Value name = object.Get("name");
    const Napi::Value kind = object.Get("kind");
    const Napi::Value modified = object.Get("modified");
    if (!id.IsNumber() || !parent.IsNumber() || !name.IsString() || !kind.IsString() || !modified.IsNumber()) {
      return false;
    }
    fuse::NodeFacts node;
    node.id = static_cast<uint64_t>(id.As<Napi::Number>().Int64Value());
    node.parent = static_cast<uint64_t>(parent.As<Napi::Number>().Int64Value());
    node.name = name.As<Napi::String>().Utf8Value();
    node.modified_ms = modified.As<Napi::Number>().Int64Value();
    const std::string word = kind.As<Napi::String>().Utf8Value();
    if (word == "disk") {
      node.kind = fuse::Kind::kDisk;
      const Napi::Value disk = object.Get("disk");
      node.disk = UnwrapDisk(disk);
      if (!node.disk) node.disk = UnwrapCowDisk(disk);
      if (!node.disk) return false;
      if (object.Get("writable").ToBoolean()) {
        node.writable = UnwrapWritableDisk(disk);
        if (!writable || !node.writable) return false;
      }
    } else if (word == "text") {
      node.kind = fuse::Kind::kText;
    } else if (word == "directory") {
      node.partial = object.Get("partial").ToBoolean();
    } else {
      return false;
    }
    nodes->push_back(std::move(node));
  }
  return true;
}

bool ReadIds(const Napi::Value& value, std::vector<uint64_t>* ids) {
  if (!value.IsArray()) return false;
  const auto list = value.As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length(); ++i) {
    const Napi::Value id = list.Get(i);
    if (!id.IsNumber()) return false;
    ids->push_back(static_cast<uint64_t>(id.As<Napi::Number>().Int64Value()));
  }
  return true;
}

void SessionObject::Begin(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const auto refuse = [&](const char* why) {
    if (env.IsExceptionPending()) return;
    const Napi::Error error = Napi::TypeError::New(env, why);
    error.Value().Set("code", "EINVAL");
    error.ThrowAsJavaScriptException();
  };
  if (info.Length() < 1 || !info[0].IsObject()) return refuse("Session takes its options");
  const auto options = info[0].As<Napi::Object>();
  const auto number = [&](const char* key) { return options.Get(key).ToNumber().Int64Value(); };
  fuse::SessionConfig config;
  config.fd = static_cast<int>(number("fd"));
  config.threads = static_cast<unsigned>(number("threads"));
  config.uid = static_cast<uint32_t>(number("uid"));
  config.gid = static_cast<uint32_t>(number("gid"));
  config.uring = options.Get("uring").ToBoolean();
  config.writable = options.Get("writable").ToBoolean();
  struct stat device;
  if (fstat(config.fd, &device) != 0 || !S_ISCHR(device.st_mode)) return refuse("fd must be /dev/fuse");
  for (const char* key : {"text", "find", "list", "ended"}) {
    if (!options.Get(key).IsFunction()) return refuse("text, find, list and ended must be functions");
  }
  fuse::Changes first;
  if (!ReadNodes(options.Get("nodes"), config.writable, &first.nodes)) return refuse("nodes must be a list of entries");
  auto tree = std::make_unique<fuse::Tree>();
  std::vector<fuse::Notice> none;
  if (!tree->Update(std::move(first), &none)) {
    return refuse("nodes must be numbered upwards from 1, parents before their children, no name twice");
  }
  bridge_ = std::make_unique<Bridge>(info.This().As<Napi::Object>(), options);
  bridge_->Start(config, std::move(tree));
}

Napi::Value SessionObject::Update(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  fuse::Changes changes;
  const auto given = info[0].IsObject() ? info[0].As<Napi::Object>() : Napi::Object::New(env);
  if (!ReadIds(given.Get("remove"), &changes.remove) ||
      !ReadNodes(given.Get("nodes"), bridge_->writable(), &changes.nodes) ||
      !ReadIds(given.Get("refresh"), &changes.refresh)) {
    if (env.IsExceptionPending()) return env.Undefined();
    return Throw(env, "EINVAL", "update takes ids to remove, a list of entries, and ids to refresh");
  }
  const Napi::Value promise = bridge_->Update(env, std::move(changes));
  if (!promise.IsEmpty()) return promise;
  return Throw(env, "EINVAL", "new nodes are numbered upwards, parents before their children, no name twice");
}

Bridge::Bridge(Napi::Object self, Napi::Object options)
    : env_(self.Env()),
      self_(Napi::Persistent(self)),
      text_(Napi::Persistent(options.Get("text").As<Napi::Function>())),
      find_(Napi::Persistent(options.Get("find").As<Napi::Function>())),
      list_(Napi::Persistent(options.Get("list").As<Napi::Function>())),
      ended_(Napi::Persistent(options.Get("ended").As<Napi::Function>())),
      calls_(Napi::ThreadSafeFunction::New(env_, ended_.Value(), "asof-session", 0, 1)) {}

void Bridge::Start(const fuse::SessionConfig& config, std::unique_ptr<fuse::Tree> tree) {
  writable_ = config.writable;
  session_ = std::make_unique<fuse::Session>(config, std::move(tree), this);
  napi_add_env_cleanup_hook(env_, Hook, this);
  session_->Start();
}

Napi::Object Bridge::FactsObject(Napi::Env env) const {
  Napi::Object facts = Napi::Object::New(env);
  facts.Set("protocol", "7." + std::to_string(facts_->minor));
  facts.Set("maxRead", Napi::Number::New(env, facts_->max_read));
  facts.Set("maxWrite", Napi::Number::New(env, facts_->max_write));
  facts.Set("threads", Napi::Number::New(env, facts_->threads));
  facts.Set("uring", Napi::Boolean::New(env, facts_->uring));
  facts.Set("passthrough", Napi::Boolean::New(env, facts_->passthrough));
  return facts;
}

Napi::Promise Bridge::FactsPromise(Napi::Env env) {
  auto deferred = Napi::Promise::Deferred::New(env);
  if (facts_) {
    deferred.Resolve(FactsObject(env));
  } else if (over_) {
    deferred.Reject(Napi::Error::New(env, "the session has ended").Value());
  } else {
    waiting_.push_back(deferred);
  }
  return deferred.Promise();
}

void Bridge::Abort() {
  if (!over_) session_->Abort();
}

Napi::Value Bridge::Update(Napi::Env env, fuse::Changes changes) {
  auto deferred = Napi::Promise::Deferred::New(env);
  if (over_ || !facts_) {
    deferred.Reject(MakeError(env, "ESHUTDOWN", "the session has ended, or is not ready").Value());
    return deferred.Promise();
  }
  const uint64_t number = ++last_update_;
  const auto told = [this, number] {
    Post([this, number](Napi::Env) {
      const auto open = updates_.extract(number);
      if (!open.empty()) open.mapped().Resolve(Napi::Env(env_).Undefined());
    });
  };
  updates_.emplace(number, deferred);
  if (session_->Update(std::move(changes), told)) return deferred.Promise();
  updates_.erase(number);
  deferred.Resolve(env.Undefined());  // nobody has it
  return {};
}

int Bridge::Ask(std::function<int(Napi::Env, uint64_t, std::string*)> ask, std::string* answer) {
  auto question = std::make_shared<Question>();
  question->ask = std::move(ask);
  std::unique_lock lock(mutex_);
  if (closing_) return EIO;
  const auto call = [this, question](Napi::Env env, Napi::Function) {
    const uint64_t token = ++last_token_;
    {
      std::lock_guard inner(mutex_);
      if (closing_) return;
      // Before JavaScript is asked: its answer may come from within.
      later_.emplace(token, question);
    }
    // Without the lock: JavaScript may take its time. The asker waits until `done`, so what `ask` points to is there.
    const int error = env ? question->ask(env, token, &question->answer) : EIO;
    if (error == kLater) return;
    std::lock_guard inner(mutex_);
    later_.erase(token);
    question->error = error;
    question->done = true;
    answered_.notify_all();
  };
  if (calls_.NonBlockingCall(call) != napi_ok) return EIO;
  answered_.wait(lock, [&] { return question->done || closing_; });
  if (!question->done) return EIO;
  if (answer && question->error == 0) *answer = std::move(question->answer);
  return question->error;
}

void Bridge::Answer(uint64_t token, int error, std::string answer) {
  std::lock_guard lock(mutex_);
  const auto found = later_.extract(token);
  if (found.empty() || closing_) return;
  Question& question = *found.mapped();
  question.error = error;
  question.answer = std::move(answer);
  question.done = true;
  answered_.notify_all();
}

int Bridge::Text(uint64_t id, std::string* content) {
  return Ask(
      [this, id](Napi::Env env, uint64_t token, std::string* answer) {
        const Napi::Value said = text_.Call(
            {Napi::Number::New(env, static_cast<double>(id)), Napi::Number::New(env, static_cast<double>(token))});
        if (Threw(env)) return EIO;
        if (said.IsUndefined()) return kLater;
        if (!said.IsString()) return EIO;
        *answer = said.As<Napi::String>().Utf8Value();
        return 0;
      },
      content);
}

int Bridge::Find(uint64_t parent, const std::string& name, uint64_t* id) {
  std::string found;
  const int error = Ask(
      [this, parent, name](Napi::Env env, uint64_t, std::string* answer) {
        const Napi::Value said =
            find_.Call({Napi::Number::New(env, static_cast<double>(parent)), Napi::String::New(env, name)});
        if (Threw(env) || !said.IsNumber()) return EIO;
        *answer = std::to_string(std::max<int64_t>(0, said.As<Napi::Number>().Int64Value()));
        return 0;
      },
      &found);
  if (error == 0) *id = std::stoull(found);
  return error;
}

int Bridge::List(uint64_t id) {
  return Ask(
      [this, id](Napi::Env env, uint64_t token, std::string*) {
        list_.Call({Napi::Number::New(env, static_cast<double>(id)), Napi::Number::New(env, static_cast<double>(token))});
        return Threw(env) ? EIO : kLater;
      },
      nullptr);
}

void Bridge::Post(std::function<void(Napi::Env)> call) {
  std::lock_guard lock(mutex_);
  if (closing_) return;
  calls_.NonBlockingCall([this, call = std::move(call)](Napi::Env env, Napi::Function) {
    {
      std::lock_guard inner(mutex_);
      if (closing_) return;
    }
    if (env) call(env);
  });
}

void Bridge::Ready(const fuse::SessionFacts& facts) {
  Post([this, facts](Napi::Env env) {
    facts_ = facts;
    for (auto& deferred : waiting_) deferred.Resolve(FactsObject(env));
    waiting_.clear();
  });
}

void Bridge::Ended(int error) {
  Post([this, error](Napi::Env env) { Finish(env, error); });
  std::lock_guard lock(mutex_);
  gone_ = true;
  answered_.notify_all();
}

void Bridge::Finish(Napi::Env env, int error) {
  session_->Join();
  session_.reset();
  over_ = true;
  napi_remove_env_cleanup_hook(env_, Hook, this);
  for (auto& deferred : waiting_) deferred.Reject(Napi::Error::New(env, "the session has ended").Value());
  waiting_.clear();
  const Napi::Function ended = ended_.Value();
  text_.Reset();
  find_.Reset();
  list_.Reset();
  ended_.Reset();
  self_.Reset();
  calls_.Release();
  // What the callback throws is a bug; Node reports it as an uncaught exception.
  ended.Call({Napi::Number::New(env, error)});
}

bool Bridge::TearDown() {
  if (over_) return !stuck_;
  over_ = true;
  napi_remove_env_cleanup_hook(env_, Hook, this);
  session_->Abort();
  std::unique_lock lock(mutex_);
  closing_ = true;
  answered_.notify_all();
  stuck_ = !answered_.wait_for(lock, kTearDownWait, [this] { return gone_; });
  lock.unlock();
  if (stuck_) return false;
  session_->Join();
  session_.reset();
  self_.SuppressDestruct();
  text_.SuppressDestruct();
  find_.SuppressDestruct();
  list_.SuppressDestruct();
  ended_.SuppressDestruct();
  return true;
}

Napi::Value MountFuse(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const std::string mount_point = info[0].ToString();
  const std::string source = info[1].ToString();
  int fd = -1;
  const int error = fuse::Mount(mount_point, source, info[2].ToBoolean(), info[3].ToBoolean(), &fd);
  return error ? ThrowErrno(env, error, "mount " + mount_point) : Napi::Number::New(env, fd);
}

Napi::Value Unmount(const Napi::CallbackInfo& info) {
  const std::string mount_point = info[0].ToString();
  const int error = fuse::Unmount(mount_point, info[1].ToBoolean());
  return error ? ThrowErrno(info.Env(), error, "umount " + mount_point) : info.Env().Undefined();
}

Napi::Value SocketPair(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int ends[2];
  if (const int error = fuse::SocketPair(ends)) return ThrowErrno(env, error, "socketpair");
  auto pair = Napi::Array::New(env, 2);
  pair.Set(0u, ends[0]);
  pair.Set(1u, ends[1]);
  return pair;
}

Napi::Value ReceiveFd(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), fuse::ReceiveFd(info[0].ToNumber().Int32Value()));
}

}  // namespace

void InitSession(Napi::Env env, Napi::Object exports) {
  exports.Set("Session", SessionObject::Define(env));
  exports.Set("mountFuse", Napi::Function::New(env, MountFuse, "mountFuse"));
  exports.Set("unmount", Napi::Function::New(env, Unmount, "unmount"));
  exports.Set("socketPair", Napi::Function::New(env, SocketPair, "socketPair"));
  exports.Set("receiveFd", Napi::Function::New(env, ReceiveFd, "receiveFd"));
}

}  // namespace asof
