// Unpacking of one block. Decompressors are kept by each thread.
#pragma once

#include <cstddef>
#include <cstdint>

namespace asof {

enum class Codec : uint8_t { kDeflate, kZstd, kZlib, kAdler32 };  // the order of CODECS in src/block/extent.ts
constexpr unsigned kCodecs = 4;

const char* CodecName(Codec codec);

// Unpacks `in`, which padding may follow, to exactly `out_length` bytes. False where it gives fewer, more, or is no
// such stream; `out` then holds nothing of use.
bool Unpack(Codec codec, const uint8_t* in, size_t in_length, uint8_t* out, size_t out_length);

}  // namespace asof
