#include "cow_checksum.h"

#include <algorithm>
#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace asof::cow {
namespace {

constexpr size_t kBlock = 4096;

constexpr std::array<uint32_t, 256> kTable = [] {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ ((crc & 1) ? 0x82f63b78u : 0u);
    table[i] = crc;
  }
  return table;
}();

uint32_t Portable(const uint8_t* p, size_t n, uint32_t crc) {
  while (n-- > 0) crc = (crc >> 8) ^ kTable[(crc ^ *p++) & 0xff];
  return crc;
}

#if defined(__x86_64__)
inline uint64_t Load(const uint8_t* p) {
  uint64_t value;
  memcpy(&value, p, 8);
  return value;
}

__attribute__((target("sse4.2"))) uint32_t Hardware(const uint8_t* p, size_t n, uint32_t seed) {
  uint64_t crc = seed;
  for (; n >= 8; n -= 8, p += 8) crc = _mm_crc32_u64(crc, Load(p));
  auto rest = static_cast<uint32_t>(crc);
  while (n-- > 0) rest = _mm_crc32_u8(rest, *p++);
  return rest;
}

// The instruction takes three cycles and one can start each cycle: three blocks at a time keep it busy.
__attribute__((target("sse4.2"))) void HardwareThree(const uint8_t* p, uint32_t* sums) {
  uint64_t a = 0xffffffffu, b = 0xffffffffu, c = 0xffffffffu;
  for (size_t i = 0; i < kBlock; i += 8) {
    a = _mm_crc32_u64(a, Load(p + i));
    b = _mm_crc32_u64(b, Load(p + kBlock + i));
    c = _mm_crc32_u64(c, Load(p + 2 * kBlock + i));
  }
  sums[0] = ~static_cast<uint32_t>(a);
  sums[1] = ~static_cast<uint32_t>(b);
  sums[2] = ~static_cast<uint32_t>(c);
}

const bool kHardware = __builtin_cpu_supports("sse4.2");
#endif

}  // namespace

uint32_t Crc32c(const void* bytes, size_t length, uint32_t seed) {
  const auto* p = static_cast<const uint8_t*>(bytes);
#if defined(__x86_64__)
  if (kHardware) return ~Hardware(p, length, ~seed);
#endif
  return ~Portable(p, length, ~seed);
}

void Crc32cBlocks(const uint8_t* bytes, size_t length, uint32_t* sums) {
#if defined(__x86_64__)
  if (kHardware) {
    for (; length >= 3 * kBlock; length -= 3 * kBlock, bytes += 3 * kBlock, sums += 3) HardwareThree(bytes, sums);
  }
#endif
  while (length > 0) {
    const size_t n = std::min(length, kBlock);
    *sums++ = Crc32c(bytes, n);
    bytes += n;
    length -= n;
  }
}

}  // namespace asof::cow
