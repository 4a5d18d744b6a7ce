// ADC is a stream of three instructions, told apart by the upper bits of their first byte:
//   1LLLLLLL                    the next L + 1 bytes as they are
//   0 0LLLLDD DDDDDDDD          L + 3 bytes from D + 1 bytes before
//   01LLLLLL DDDDDDDD DDDDDDDD  L + 4 bytes from D + 1 bytes before
// There is no mark of the end, and no checksum.
#include "adc.h"

#include <string.h>

namespace asof {

bool UnpackAdc(const uint8_t* in, size_t in_length, uint8_t* out, size_t out_length) {
  size_t at = 0;
  size_t done = 0;
  while (at < in_length) {
    const uint8_t op = in[at];
    if (op & 0x80) {
      const size_t length = (op & 0x7f) + 1u;
      if (length > in_length - at - 1 || length > out_length - done) return false;
      memcpy(out + done, in + at + 1, length);
      at += 1 + length;
      done += length;
      continue;
    }
    const size_t size = op & 0x40 ? 3 : 2;
    if (size > in_length - at) return false;
    const size_t length = op & 0x40 ? (op & 0x3f) + 4u : (op >> 2) + 3u;
    const size_t distance = 1u + (op & 0x40 ? in[at + 1] << 8 | in[at + 2] : (op & 3) << 8 | in[at + 1]);
    if (distance > done || length > out_length - done) return false;
    // The two may overlap: byte by byte repeats what was just written.
    for (size_t i = 0; i < length; i++) out[done + i] = out[done + i - distance];
    at += size;
    done += length;
  }
  return done == out_length;
}

}  // namespace asof
