// Unpacking of one block. Decompressors are kept by each thread.
#pragma once

#include <cstddef>
#include <cstdint>

namespace asof {

// The order of CODECS in src/block/extent.ts.
enum class Codec : uint8_t { kDeflate, kZstd, kZlib, kAdler32, kBzip2, kPattern, kAdc, kLzfse, kXz, kLz4, kSnappy };
constexpr unsigned kCodecs = 11;

const char* CodecName(Codec codec);

// Unpacks `in`, which padding may follow, to exactly `out_length` bytes. False where it gives fewer, more, or is no
// such stream; `out` then holds nothing of use.
bool Unpack(Codec codec, const uint8_t* in, size_t in_length, uint8_t* out, size_t out_length);

// As much of one bzip2 stream as there is, up to `out_length`, which becomes what there was. False where it is none, or more.
bool UnpackBzip2(const uint8_t* in, size_t in_length, uint8_t* out, size_t* out_length);

}  // namespace asof
