/**
 * CRC-32C (Castagnoli), for the kilobytes of metadata that bear one.
 */
const TABLE = new Uint32Array(256).map((_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc >>> 0;
});

/** Of `bytes`, with the four at `hole`, where the checksum itself stands, as zeros. */
export function crc32cWithout(bytes: Buffer, hole: number): number {
  let crc = 0xffffffff;
  for (let i = 0; i < bytes.length; i++) {
    const byte = i >= hole && i < hole + 4 ? 0 : bytes[i]!;
    crc = (crc >>> 8) ^ TABLE[(crc ^ byte) & 0xff]!;
  }
  return ~crc >>> 0;
}
