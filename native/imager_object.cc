// The border of clusters.h: arguments are checked here, promises settled, batches kept by number until they are freed.
//
// A batch belongs to one task at a time: JavaScript does not store, hash or free it before the promise of the one before
// is settled (storing and hashing only read, and may overlap).
#include "imager_object.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "clusters.h"
#include "digest.h"
#include "disk_object.h"
#include "js_thread.h"
#include "js_value.h"
#include "pool.h"

namespace asof {
namespace {

constexpr uint64_t kMaxBatch = 4096;  // clusters
constexpr size_t kZeros = size_t{1} << 16;

// What outlives the JavaScript object while tasks are under way.
struct Shop {
  explicit Shop(unsigned threads) : pool(threads) {}
  Pool pool;
  std::shared_ptr<JsThread> js;
  const std::shared_ptr<BatchBuffers> buffers = std::make_shared<BatchBuffers>();
  struct Open {
    Napi::Promise::Deferred deferred;
    std::function<Napi::Value(Napi::Env)> value;
  };
  std::unordered_map<uint64_t, Open> open;  // on the JavaScript thread alone, as what follows
  std::unordered_map<uint64_t, std::shared_ptr<ClusterBatch>> batches;
  uint64_t next = 1;
  bool closed = false;
  Digester whole;  // one task at a time
  bool whole_begun = false;
};

class ImagerObject : public Napi::ObjectWrap<ImagerObject> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "Imager",
                       {
                           InstanceMethod<&ImagerObject::Prepare>("prepare"),
                           InstanceMethod<&ImagerObject::Compare>("compare"),
                           InstanceMethod<&ImagerObject::Store>("store"),
                           InstanceMethod<&ImagerObject::Hash>("hash"),
                           InstanceMethod<&ImagerObject::WholeDigest>("wholeDigest"),
                           InstanceMethod<&ImagerObject::Free>("free"),
                           InstanceMethod<&ImagerObject::Close>("close"),
                       });
  }

  explicit ImagerObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    Napi::Env env = info.Env();
    uint64_t threads, cluster_size;
    if (!ToInteger(info[0], 256, &threads) || threads == 0 || !ToInteger(info[1], uint64_t{2} << 20, &cluster_size) ||
        cluster_size < 512) {
      Throw(env, "EINVAL", "Imager takes threads (at most 256) and a cluster size");
      return;
    }
    cluster_size_ = static_cast<uint32_t>(cluster_size);
    shop_ = std::make_shared<Shop>(static_cast<unsigned>(threads));
    shop_->js = JsThread::Create(env);
    if (!shop_->js) Throw(env, "EIO", "Node gives no function to call from other threads");
  }

  ~ImagerObject() override {
    if (shop_) End(false);
  }

 private:
  using Work = std::function<int()>;
  using Value = std::function<Napi::Value(Napi::Env)>;

  // A promise of `value`, made on the JavaScript thread once `work` has given 0.
  Napi::Value Run(Napi::Env env, Work work, Value value) {
    const uint64_t id = shop_->next++;
    auto deferred = Napi::Promise::Deferred::New(env);
    Napi::Promise promise = deferred.Promise();
    if (shop_->closed) {
      deferred.Reject(MakeError(env, "ESHUTDOWN", "the imager is closed").Value());
      return promise;
    }
    shop_->open.emplace(id, Shop::Open{deferred, std::move(value)});
    shop_->js->Hold(env);
    std::weak_ptr<Shop> weak = shop_;
    // Threads are joined before the shop goes: `js` is there for as long as a task runs.
    shop_->pool.Submit([weak, js = shop_->js, id, work = std::move(work)] {
      const int error = work();
      js->Post([weak, id, error](Napi::Env env) {
        if (auto shop = weak.lock()) Settle(env, *shop, id, error);
      });
    });
    return promise;
  }

  static void Settle(Napi::Env env, Shop& shop, uint64_t id, int error) {
    auto found = shop.open.find(id);
    if (found == shop.open.end()) return;
    Shop::Open open = std::move(found->second);
    shop.open.erase(found);
    shop.js->Release(env);
    if (error == 0) {
      open.deferred.Resolve(open.value ? open.value(env) : env.Undefined());
      return;
    }
    const char* name = strerrorname_np(error);
    open.deferred.Reject(MakeError(env, name ? name : "EIO", strerrordesc_np(error)).Value());
  }

  static bool IsNumbers(const Napi::Value& value) {
    return value.IsTypedArray() && value.As<Napi::TypedArray>().TypedArrayType() == napi_float64_array;
  }

  // Whether all of them lie within the disk.
  bool TakeNumbers(const Napi::Value& value, uint64_t size, std::vector<uint64_t>* numbers) const {
    auto list = value.As<Napi::Float64Array>();
    const uint64_t clusters = (size + cluster_size_ - 1) / cluster_size_;
    for (size_t i = 0; i < list.ElementLength(); ++i) {
      uint64_t number;
      if (!ToInteger(list[i], kMaxOffset, &number) || number >= clusters) return false;
      numbers->push_back(number);
    }
    return true;
  }

  // (disk, clusters: Float64Array, expected: Uint8Array | null, level)
  Napi::Value Prepare(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    auto disk = UnwrapDisk(info[0]);
    if (!disk || !IsNumbers(info[1]) || !info[3].IsNumber()) {
      return Throw(env, "EINVAL", "prepare takes a disk, a Float64Array, a Uint8Array or null, and a level");
    }
    auto batch = std::make_shared<ClusterBatch>();
    batch->buffers = shop_->buffers;
    if (!TakeNumbers(info[1], disk->Size(), &batch->numbers)) {
      return Throw(env, "OUT_OF_RANGE", "a cluster does not lie within the disk");
    }
    const size_t count = batch->numbers.size();
    if (info[2].IsTypedArray()) {
      auto bytes = info[2].As<Napi::Uint8Array>();
      if (bytes.ByteLength() != count * kDigestSize) return Throw(env, "EINVAL", "a digest a cluster is expected");
      batch->expected.assign(bytes.Data(), bytes.Data() + bytes.ByteLength());
    }
    const int level = info[3].As<Napi::Number>().Int32Value();
    if (count == 0 || count > kMaxBatch || level < -1 || level > 22) return Throw(env, "EINVAL", "no such batch or level");
    const uint64_t id = shop_->next++;
    const ClusterOptions options{cluster_size_, level};
    std::weak_ptr<Shop> weak = shop_;
    return Run(
        env, [disk, options, batch] { return PrepareClusters(disk.get(), options, batch.get()); },
        [weak, id, batch](Napi::Env env) -> Napi::Value {
          if (auto shop = weak.lock()) shop->batches.emplace(id, batch);
          return Describe(env, id, *batch);
        });
  }

  // (disk, other, clusters: Float64Array)
  Napi::Value Compare(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    auto disk = UnwrapDisk(info[0]);
    auto other = UnwrapDisk(info[1]);
    if (!disk || !other || !IsNumbers(info[2])) {
      return Throw(env, "EINVAL", "compare takes two disks and a Float64Array");
    }
    auto batch = std::make_shared<ClusterBatch>();
    if (!TakeNumbers(info[2], std::min(disk->Size(), other->Size()), &batch->numbers)) {
      return Throw(env, "OUT_OF_RANGE", "a cluster does not lie within both disks");
    }
    if (batch->numbers.empty() || batch->numbers.size() > kMaxBatch) return Throw(env, "EINVAL", "no such batch");
    return Run(
        env, [disk, other, batch, size = cluster_size_] { return CompareClusters(disk.get(), other.get(), size, batch.get()); },
        [batch](Napi::Env env) -> Napi::Value {
          Napi::Object out = Napi::Object::New(env);
          out.Set("kinds", Kinds(env, *batch));
          out.Set("bad", Bad(env, *batch));
          return out;
        });
  }

  static Napi::Value Kinds(Napi::Env env, const ClusterBatch& batch) {
    Napi::Uint8Array kinds = Napi::Uint8Array::New(env, batch.kinds.size());
    std::copy(batch.kinds.begin(), batch.kinds.end(), kinds.Data());
    return kinds;
  }

  static Napi::Value Bad(Napi::Env env, const ClusterBatch& batch) {
    Napi::Float64Array bad = Napi::Float64Array::New(env, batch.bad.size() * 2);
    for (size_t i = 0; i < batch.bad.size(); ++i) {
      bad[i * 2] = static_cast<double>(batch.bad[i].offset);
      bad[i * 2 + 1] = static_cast<double>(batch.bad[i].length);
    }
    return bad;
  }

  static Napi::Value Describe(Napi::Env env, uint64_t id, const ClusterBatch& batch) {
    const size_t count = batch.numbers.size();
    Napi::Object out = Napi::Object::New(env);
    Napi::Uint32Array lengths = Napi::Uint32Array::New(env, count);
    std::copy(batch.lengths.begin(), batch.lengths.end(), lengths.Data());
    Napi::Uint8Array digests = Napi::Uint8Array::New(env, batch.digests.size());
    std::copy(batch.digests.begin(), batch.digests.end(), digests.Data());
    out.Set("id", static_cast<double>(id));
    out.Set("kinds", Kinds(env, batch));
    out.Set("lengths", lengths);
    out.Set("digests", digests);
    out.Set("bad", Bad(env, batch));
    return out;
  }

  std::shared_ptr<ClusterBatch> Find(const Napi::Value& value) {
    uint64_t id;
    if (!ToInteger(value, kMaxOffset, &id)) return nullptr;
    auto found = shop_->batches.find(id);
    return found == shop_->batches.end() || !found->second->bytes ? nullptr : found->second;
  }

  // (id, fd, offsets: Float64Array)
  Napi::Value Store(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    auto batch = Find(info[0]);
    uint64_t fd;
    bool numbers = info[2].IsTypedArray() && info[2].As<Napi::TypedArray>().TypedArrayType() == napi_float64_array;
    if (!batch || !ToInteger(info[1], INT32_MAX, &fd) || !numbers ||
        info[2].As<Napi::Float64Array>().ElementLength() != batch->numbers.size()) {
      return Throw(env, "EINVAL", "store takes a batch, a descriptor and an offset a cluster");
    }
    auto list = info[2].As<Napi::Float64Array>();
    std::vector<int64_t> offsets;
    for (size_t i = 0; i < list.ElementLength(); ++i) {
      uint64_t offset = 0;
      const double number = list[i];
      if (!(number < 0) && !ToInteger(number, kMaxOffset, &offset)) return Throw(env, "EINVAL", "an offset is no integer");
      offsets.push_back(number < 0 ? -1 : static_cast<int64_t>(offset));
    }
    return Run(
        env,
        [batch, size = cluster_size_, fd = static_cast<int>(fd), offsets = std::move(offsets)] {
          return StoreClusters(*batch, size, fd, offsets);
        },
        {});
  }

  static bool AddZeros(Digester* whole, uint64_t length) {
    static const std::vector<uint8_t> zeros(kZeros);
    for (uint64_t take; length > 0; length -= take) {
      take = std::min<uint64_t>(length, kZeros);
      if (!whole->Add(zeros.data(), static_cast<size_t>(take))) return false;
    }
    return true;
  }

  bool Begin() {
    if (!shop_->whole_begun && !shop_->whole.Begin()) return false;
    shop_->whole_begun = true;
    return true;
  }

  // (id, index of the first cluster, count, zeros before, bytes): adds zeros, then so many bytes from that cluster on.
  Napi::Value Hash(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    auto batch = Find(info[0]);
    uint64_t first, zeros, length;
    if (!batch || !ToInteger(info[1], batch->numbers.size(), &first) || !ToInteger(info[2], kMaxOffset, &zeros) ||
        !ToInteger(info[3], (batch->numbers.size() - first) * cluster_size_, &length) || !Begin()) {
      return Throw(env, "EINVAL", "hash takes a batch, a cluster of it, a number of zeros and one of bytes");
    }
    auto shop = shop_.get();
    return Run(
        env,
        [shop, batch, from = batch->bytes.get() + first * cluster_size_, zeros, length] {
          return AddZeros(&shop->whole, zeros) && shop->whole.Add(from, static_cast<size_t>(length)) ? 0 : ENOMEM;
        },
        {});
  }

  // (zeros behind the last byte)
  Napi::Value WholeDigest(const Napi::CallbackInfo& info) {
    uint64_t zeros;
    if (!ToInteger(info[0], kMaxOffset, &zeros) || !Begin()) {
      return Throw(info.Env(), "EINVAL", "wholeDigest takes a number of zeros");
    }
    shop_->whole_begun = false;
    auto digest = std::make_shared<Sha256>();
    auto shop = shop_.get();
    return Run(
        info.Env(),
        [shop, zeros, digest] { return AddZeros(&shop->whole, zeros) && shop->whole.End(digest->data()) ? 0 : ENOMEM; },
        [digest](Napi::Env env) -> Napi::Value {
          return Napi::Buffer<uint8_t>::Copy(env, digest->data(), digest->size());
        });
  }

  void Free(const Napi::CallbackInfo& info) {
    uint64_t id;
    if (ToInteger(info[0], kMaxOffset, &id)) shop_->batches.erase(id);
  }

  // Waits for the tasks under way; promises that are open then are rejected.
  void Close(const Napi::CallbackInfo& info) {
    if (shop_->closed) return;
    shop_->closed = true;
    shop_->pool.Stop();
    shop_->js->RunPosted(info.Env());
    End(true);
  }

  void End(bool release) {
    shop_->closed = true;
    shop_->pool.Stop();
    if (shop_->js) shop_->js->Stop(!release);
    shop_->batches.clear();
    shop_->open.clear();
  }

  std::shared_ptr<Shop> shop_;
  uint32_t cluster_size_ = 0;
};

// The kernel forgets the pages of a file that are on stable storage, so that the next read comes from there.
Napi::Value DropCache(const Napi::CallbackInfo& info) {
  uint64_t fd;
  if (!ToInteger(info[0], INT32_MAX, &fd)) return Throw(info.Env(), "EINVAL", "dropCache takes a descriptor");
  posix_fadvise(static_cast<int>(fd), 0, 0, POSIX_FADV_DONTNEED);
  return info.Env().Undefined();
}

// The kernel reads what is asked for, and nothing ahead of it.
Napi::Value ReadExactly(const Napi::CallbackInfo& info) {
  uint64_t fd;
  if (!ToInteger(info[0], INT32_MAX, &fd)) return Throw(info.Env(), "EINVAL", "readExactly takes a descriptor");
  posix_fadvise(static_cast<int>(fd), 0, 0, POSIX_FADV_RANDOM);
  return info.Env().Undefined();
}

}  // namespace

void InitImager(Napi::Env env, Napi::Object exports) {
  exports.Set("Imager", ImagerObject::Define(env));
  exports.Set("dropCache", Napi::Function::New(env, DropCache, "dropCache"));
  exports.Set("readExactly", Napi::Function::New(env, ReadExactly, "readExactly"));
}

}  // namespace asof
