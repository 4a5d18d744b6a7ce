// FIPS 180-4, with the instructions of x86 processors: SHA256RNDS2 waits for the one before it, so that a second stream costs
// little beside a first.
#include "digest_pair.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

#include <string.h>

namespace asof {

#if defined(__x86_64__)
namespace {

#define ASOF_SHA __attribute__((target("sha,sse4.1,ssse3")))

alignas(16) constexpr uint32_t kRounds[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
    0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
    0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
    0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
    0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
    0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

// A stream between two blocks: the state as SHA256RNDS2 wants it.
struct Stream {
  __m128i abef;
  __m128i cdgh;
};

ASOF_SHA inline Stream Begin() {
  return {_mm_set_epi32(0x6a09e667, static_cast<int>(0xbb67ae85), 0x510e527f, static_cast<int>(0x9b05688c)),
          _mm_set_epi32(0x3c6ef372, static_cast<int>(0xa54ff53a), 0x1f83d9ab, 0x5be0cd19)};
}

// One block of each of `kStreams` streams.
template <int kStreams>
ASOF_SHA inline void Block(Stream* streams, const uint8_t* const* blocks) {
  const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
  __m128i words[kStreams][4];
  Stream now[kStreams];
  for (int s = 0; s < kStreams; ++s) {
    now[s] = streams[s];
    for (int i = 0; i < 4; ++i) {
      words[s][i] = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(blocks[s] + 16 * i)), swap);
    }
  }
#pragma GCC unroll 16
  for (int round = 0; round < 16; ++round) {
    const __m128i constants = _mm_load_si128(reinterpret_cast<const __m128i*>(kRounds + 4 * round));
    const int at = round & 3;
#pragma GCC unroll 2
    for (int s = 0; s < kStreams; ++s) {
      __m128i* w = words[s];
      const __m128i sum = _mm_add_epi32(w[at], constants);
      now[s].cdgh = _mm_sha256rnds2_epu32(now[s].cdgh, now[s].abef, sum);
      now[s].abef = _mm_sha256rnds2_epu32(now[s].abef, now[s].cdgh, _mm_shuffle_epi32(sum, 0x0e));
      if (round < 12) {
        // The words of four rounds later take the place of these.
        __m128i next = _mm_sha256msg1_epu32(w[at], w[(at + 1) & 3]);
        next = _mm_add_epi32(next, _mm_alignr_epi8(w[(at + 3) & 3], w[(at + 2) & 3], 4));
        w[at] = _mm_sha256msg2_epu32(next, w[(at + 3) & 3]);
      }
    }
  }
  for (int s = 0; s < kStreams; ++s) {
    streams[s].abef = _mm_add_epi32(now[s].abef, streams[s].abef);
    streams[s].cdgh = _mm_add_epi32(now[s].cdgh, streams[s].cdgh);
  }
}

ASOF_SHA inline void End(const Stream& stream, uint8_t* into) {
  alignas(16) uint32_t abef[4], cdgh[4];
  _mm_store_si128(reinterpret_cast<__m128i*>(abef), stream.abef);
  _mm_store_si128(reinterpret_cast<__m128i*>(cdgh), stream.cdgh);
  const uint32_t state[8] = {abef[3], abef[2], cdgh[3], cdgh[2], abef[1], abef[0], cdgh[1], cdgh[0]};
  for (int i = 0; i < 8; ++i) {
    const uint32_t word = __builtin_bswap32(state[i]);
    memcpy(into + 4 * i, &word, 4);
  }
}

bool Supported() {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_SSE4_1) || !(c & bit_SSSE3)) return false;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & (1u << 29));
}

}  // namespace

ASOF_SHA bool DigestPair(const uint8_t* first, const uint8_t* second, size_t length, uint8_t* into_first, uint8_t* into_second) {
  static const bool supported = Supported();
  if (!supported || length % 64 != 0) return false;
  Stream streams[2] = {Begin(), Begin()};
  for (size_t at = 0; at < length; at += 64) {
    const uint8_t* blocks[2] = {first + at, second + at};
    Block<2>(streams, blocks);
  }
  // The padding: a bit, zeros, the number of bits.
  uint8_t last[64] = {0x80};
  const uint64_t bits = __builtin_bswap64(static_cast<uint64_t>(length) * 8);
  memcpy(last + 56, &bits, 8);
  const uint8_t* blocks[2] = {last, last};
  Block<2>(streams, blocks);
  End(streams[0], into_first);
  End(streams[1], into_second);
  return true;
}

#else

bool DigestPair(const uint8_t*, const uint8_t*, size_t, uint8_t*, uint8_t*) { return false; }

#endif

}  // namespace asof
