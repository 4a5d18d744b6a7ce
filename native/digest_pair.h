// SHA-256 of two pieces at once, where the processor has instructions for it: a verification is hardly more than digests.
#pragma once

#include <cstddef>
#include <cstdint>

namespace asof {

// Of `length` bytes each. False where the processor cannot, or the length is no multiple of 64: then nothing was done.
bool DigestPair(const uint8_t* first, const uint8_t* second, size_t length, uint8_t* into_first, uint8_t* into_second);

}  // namespace asof
