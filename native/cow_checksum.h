// CRC-32C (Castagnoli, reflected, RFC 3720 appendix B.4), the checksum of everything that the layer writes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace asof::cow {

uint32_t Crc32c(const void* bytes, size_t length, uint32_t seed = 0);

// One checksum for each 4096 bytes of [bytes, bytes + length), the last for what is left.
void Crc32cBlocks(const uint8_t* bytes, size_t length, uint32_t* sums);

}  // namespace asof::cow
