/** Adler-32 (RFC 1950, 8.2): the checksum of everything that is small in EWF. The engine verifies the chunks. */

const BASE = 65521;

/** Bytes after which the sums are reduced at the latest: 255 n (n + 1) / 2 + (n + 1) (BASE - 1) stays below 2^32. */
const STRIDE = 5552;

export function adler32(bytes: Uint8Array): number {
  let a = 1;
  let b = 0;
  for (let start = 0; start < bytes.length; start += STRIDE) {
    const end = Math.min(bytes.length, start + STRIDE);
    for (let i = start; i < end; i++) {
      a += bytes[i]!;
      b += a;
    }
    a %= BASE;
    b %= BASE;
  }
  return b * 65536 + a;
}
