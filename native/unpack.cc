// One packed block, unpacked on the calling thread. The engine's readers never come here: this is for a parser that needs
// a few kilobytes of a disk before the disk can be mapped.
#include "unpack.h"

#include <libdeflate.h>

#include <vector>

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

// (packed bytes, limit) -> bytes, or undefined where they are no bzip2 stream of at most so many.
Napi::Value Unbzip2(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  uint64_t limit;
  if (!info[0].IsTypedArray() || !ToInteger(info[1], UINT32_MAX, &limit)) {
    return Throw(env, "EINVAL", "unbzip2 takes bytes and a limit");
  }
  auto packed = info[0].As<Napi::Uint8Array>();
  std::vector<uint8_t> out(limit);
  size_t length = limit;
  if (!UnpackBzip2(packed.Data(), packed.ByteLength(), out.data(), &length)) return env.Undefined();
  return Napi::Buffer<uint8_t>::Copy(env, out.data(), length);
}

// (CRC-32 of what came before, 0 at first, bytes) -> CRC-32 with them.
Napi::Value Crc32(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  uint64_t before;
  if (!ToInteger(info[0], UINT32_MAX, &before) || !info[1].IsTypedArray()) {
    return Throw(env, "EINVAL", "crc32 takes a checksum and bytes");
  }
  auto bytes = info[1].As<Napi::Uint8Array>();
  return Napi::Number::New(
      env, libdeflate_crc32(static_cast<uint32_t>(before), bytes.Data(), bytes.ByteLength()));
}

}  // namespace

void InitUnpack(Napi::Env env, Napi::Object exports) {
  exports.Set("crc32", Napi::Function::New(env, Crc32, "crc32"));
  exports.Set("unbzip2", Napi::Function::New(env, Unbzip2, "unbzip2"));
  exports.Set("unpack", Napi::Function::New(env, UnpackBlock, "unpack"));
}

}  // namespace asof
