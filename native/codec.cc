// Raw deflate (RFC 1951) and zlib streams (RFC 1950) by libdeflate, Zstandard (RFC 8878) by libzstd, bzip2 by libbz2, xz by liblzma, LZ4 and Snappy by theirs. All unpack from
// one whole buffer into another: no window is allocated, whatever a hostile header asks for. A zlib stream, and plain
// bytes with their checksum behind, are given out only where the checksum is right.
#include "codec.h"

#include <bzlib.h>
#include <libdeflate.h>
#include <limits.h>
#include <lz4.h>
#include <lzma.h>
#include <snappy-c.h>
#include <string.h>
#include <zstd.h>

#include <algorithm>
#include <memory>

#include "adc.h"
#include "lzfse.h"

namespace asof {
namespace {

struct FreeDeflate {
  void operator()(libdeflate_decompressor* d) const { libdeflate_free_decompressor(d); }
};
struct FreeZstd {
  void operator()(ZSTD_DCtx* d) const { ZSTD_freeDCtx(d); }
};

bool UnpackDeflate(bool zlib, const uint8_t* in, size_t in_length, uint8_t* out, size_t out_length) {
  thread_local std::unique_ptr<libdeflate_decompressor, FreeDeflate> own(libdeflate_alloc_decompressor());
  if (!own) return false;
  size_t used = 0;
  size_t got = 0;
  // Of a zlib stream, libdeflate compares the Adler-32 of what came out.
  auto unpack = zlib ? libdeflate_zlib_decompress_ex : libdeflate_deflate_decompress_ex;
  auto result = unpack(own.get(), in, in_length, out, out_length, &used, &got);
  return result == LIBDEFLATE_SUCCESS && got == out_length;
}

bool CopyChecked(const uint8_t* in, size_t in_length, uint8_t* out, size_t out_length) {
  if (in_length < 4 || in_length - 4 < out_length) return false;
  const uint8_t* sum = in + out_length;
  uint32_t stated = sum[0] | sum[1] << 8 | sum[2] << 16 | static_cast<uint32_t>(sum[3]) << 24;
  if (libdeflate_adler32(1, in, out_length) != stated) return false;
  memcpy(out, in, out_length);
  return true;
}

// Frames of today's format and skippable ones (RFC 8878, 3.1); libzstd may know older formats, which no image has.
bool IsFrame(const uint8_t* in, size_t in_length) {
  if (in_length < 4) return false;
  uint32_t magic = in[0] | in[1] << 8 | in[2] << 16 | static_cast<uint32_t>(in[3]) << 24;
  return magic == ZSTD_MAGICNUMBER || (magic & ZSTD_MAGIC_SKIPPABLE_MASK) == ZSTD_MAGIC_SKIPPABLE_START;
}

bool UnpackZstd(const uint8_t* in, size_t in_length, uint8_t* out, size_t out_length) {
  thread_local std::unique_ptr<ZSTD_DCtx, FreeZstd> own(ZSTD_createDCtx());
  if (!own) return false;
  size_t done = 0;
  // Every frame takes some input, so the loop ends.
  while (done < out_length) {
    if (!IsFrame(in, in_length)) return false;
    size_t frame = ZSTD_findFrameCompressedSize(in, in_length);
    if (ZSTD_isError(frame)) return false;
    size_t got = ZSTD_decompressDCtx(own.get(), out + done, out_length - done, in, frame);
    if (ZSTD_isError(got)) return false;
    done += got;
    in += frame;
    in_length -= frame;
  }
  return true;
}

bool UnpackBzip2Exactly(const uint8_t* in, size_t in_length, uint8_t* out, size_t out_length) {
  size_t got = out_length;
  return UnpackBzip2(in, in_length, out, &got) && got == out_length;
}

// What the decoder may allocate, its dictionary above all: that of `xz -9` is 64 MiB.
constexpr uint64_t kXzMemory = 80 << 20;

// Of each block, liblzma compares the check of what came out.
bool UnpackXz(const uint8_t* in, size_t in_length, uint8_t* out, size_t out_length) {
  uint64_t memory = kXzMemory;
  size_t used = 0;
  size_t got = 0;
  lzma_ret result = lzma_stream_buffer_decode(&memory, 0, nullptr, in, &used, in_length, out, &got, out_length);
  return result == LZMA_OK && got == out_length;
}

bool UnpackLz4(const uint8_t* in, size_t in_length, uint8_t* out, size_t out_length) {
  if (in_length > INT_MAX || out_length > INT_MAX) return false;
  int got = LZ4_decompress_safe(reinterpret_cast<const char*>(in), reinterpret_cast<char*>(out),
                                static_cast<int>(in_length), static_cast<int>(out_length));
  return got >= 0 && static_cast<size_t>(got) == out_length;
}

// The stream says how long it is; the library writes no more.
bool UnpackSnappy(const uint8_t* in, size_t in_length, uint8_t* out, size_t out_length) {
  auto bytes = reinterpret_cast<const char*>(in);
  size_t length = 0;
  if (snappy_uncompressed_length(bytes, in_length, &length) != SNAPPY_OK || length != out_length) return false;
  return snappy_uncompress(bytes, in_length, reinterpret_cast<char*>(out), &length) == SNAPPY_OK &&
         length == out_length;
}

bool Fill(const uint8_t* in, size_t in_length, uint8_t* out, size_t out_length) {
  if (in_length == 0) return false;
  for (size_t done = 0; done < out_length; done += in_length)
    memcpy(out + done, in, std::min(in_length, out_length - done));
  return true;
}

}  // namespace

// A block has a checksum, and the stream one of all blocks: libbz2 compares them before it says that it is at the end.
bool UnpackBzip2(const uint8_t* in, size_t in_length, uint8_t* out, size_t* out_length) {
  if (in_length > UINT_MAX || *out_length > UINT_MAX) return false;
  bz_stream stream = {};
  if (BZ2_bzDecompressInit(&stream, 0, 0) != BZ_OK) return false;
  // The library's own types; it does not write to its input.
  stream.next_in = const_cast<char*>(reinterpret_cast<const char*>(in));
  stream.avail_in = static_cast<unsigned>(in_length);
  stream.next_out = reinterpret_cast<char*>(out);
  stream.avail_out = static_cast<unsigned>(*out_length);
  int result = BZ2_bzDecompress(&stream);
  // Where all fits exactly, the end is told only when it is asked for again.
  char none = 0;
  if (result == BZ_OK && stream.avail_out == 0) {
    stream.next_out = &none;
    result = BZ2_bzDecompress(&stream);
  }
  *out_length -= stream.avail_out;
  BZ2_bzDecompressEnd(&stream);
  return result == BZ_STREAM_END;
}

const char* CodecName(Codec codec) {
  static constexpr const char* kNames[kCodecs] = {"deflate", "zstd", "zlib", "adler32", "bzip2", "pattern", "adc",
                                                   "lzfse", "xz", "lz4", "snappy"};
  return kNames[static_cast<unsigned>(codec)];
}

bool Unpack(Codec codec, const uint8_t* in, size_t in_length, uint8_t* out, size_t out_length) {
  switch (codec) {
    case Codec::kDeflate:
      return UnpackDeflate(false, in, in_length, out, out_length);
    case Codec::kZstd:
      return UnpackZstd(in, in_length, out, out_length);
    case Codec::kZlib:
      return UnpackDeflate(true, in, in_length, out, out_length);
    case Codec::kAdler32:
      return CopyChecked(in, in_length, out, out_length);
    case Codec::kBzip2:
      return UnpackBzip2Exactly(in, in_length, out, out_length);
    case Codec::kPattern:
      return Fill(in, in_length, out, out_length);
    case Codec::kAdc:
      return UnpackAdc(in, in_length, out, out_length);
    case Codec::kLzfse:
      return UnpackLzfse(in, in_length, out, out_length);
    case Codec::kXz:
      return UnpackXz(in, in_length, out, out_length);
    case Codec::kLz4:
      return UnpackLz4(in, in_length, out, out_length);
    case Codec::kSnappy:
      return UnpackSnappy(in, in_length, out, out_length);
  }
  return false;
}

}  // namespace asof
