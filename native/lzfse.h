// LZFSE and LZVN, Apple's compression, of disk images.
#pragma once

#include <cstddef>
#include <cstdint>

namespace asof {

// Unpacks one stream, which padding may follow, to exactly `out_length` bytes. False where it gives fewer or more, or is no such
// stream.
bool UnpackLzfse(const uint8_t* in, size_t in_length, uint8_t* out, size_t out_length);

}  // namespace asof
