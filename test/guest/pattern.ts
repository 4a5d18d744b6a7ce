/**
 * Sectors that say of themselves which write they come from: checksum, sequence ("stamp"), sector number and time. Shared by
 * the load in the guest and by the judge on the host.
 *
 *   0 magic · 4 checksum of the rest u32 · 8 stamp u32 · 12 sector u32 · 16 milliseconds since 1970 f64 · 24 filler of both
 */
export const SECTOR = 512;
const MAGIC = 0x52544351;

/** What a sector may hold instead of a stamp. */
export const DAMAGED = 0xffffffff;
export const MISPLACED = 0xfffffffe;
export const UNREADABLE = 0xfffffffd;

/** FNV-1a of the words behind it. */
function checksum(sector: Buffer): number {
  let sum = 0x811c9dc5;
  for (let at = 8; at < SECTOR; at += 4) sum = Math.imul(sum ^ sector.readUInt32LE(at), 0x01000193);
  return sum >>> 0;
}

/** Sectors from `first` on, all with one stamp. */
export function stamped(stamp: number, first: number, count: number): Buffer {
  const bytes = Buffer.alloc(count * SECTOR);
  const now = Date.now();
  for (let i = 0; i < count; i++) {
    const sector = bytes.subarray(i * SECTOR, (i + 1) * SECTOR);
    sector.fill((stamp * 31 + first + i) & 255, 24);
    sector.writeUInt32LE(MAGIC, 0);
    sector.writeUInt32LE(stamp, 8);
    sector.writeUInt32LE(first + i, 12);
    sector.writeDoubleLE(now, 16);
    sector.writeUInt32LE(checksum(sector), 4);
  }
  return bytes;
}

/** The stamp of each sector, or what is wrong with it. */
export function stampsOf(bytes: Buffer, first: number): Uint32Array {
  const stamps = new Uint32Array(bytes.length / SECTOR);
  for (let i = 0; i < stamps.length; i++) {
    const sector = bytes.subarray(i * SECTOR, (i + 1) * SECTOR);
    const whole = sector.readUInt32LE(0) === MAGIC && sector.readUInt32LE(4) === checksum(sector);
    const here = sector.readUInt32LE(12) === first + i;
    stamps[i] = !whole ? DAMAGED : here ? sector.readUInt32LE(8) : MISPLACED;
  }
  return stamps;
}
