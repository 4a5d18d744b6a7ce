// One packed block, unpacked on the calling thread. The engine's readers never come here: this is for a parser that needs
// a few kilobytes of a disk before the disk can be mapped.
#include "unpack.h"

#include "codec.h"
#include "js_value.h"

namespace asof {
namespace {

// (codec, packed bytes, unpacked length) -> bytes, or undefined where the block is not what it says.
Napi::Value UnpackBlock(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  uint64_t codec, length;
  if (!ToInteger(info[0], kCodecs - 1, &codec) || !info[1].IsTypedArray() ||
      !ToInteger(info[2], UINT32_MAX, &length)) {
    return Throw(env, "EINVAL", "unpack takes the number of a codec, bytes and a length");
  }
  auto packed = info[1].As<Napi::Uint8Array>();
  Napi::Buffer<uint8_t> out = Napi::Buffer<uint8_t>::New(env, length);
  if (!Unpack(static_cast<Codec>(codec), packed.Data(), packed.ByteLength(), out.Data(), length)) {
    return env.Undefined();
  }
  return out;
}

}  // namespace

void InitUnpack(Napi::Env env, Napi::Object exports) {
  exports.Set("unpack", Napi::Function::New(env, UnpackBlock, "unpack"));
}

}  // namespace asof
