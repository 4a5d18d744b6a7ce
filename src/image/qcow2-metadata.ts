/**
 * A digest of all metadata of one of our images (header, tables, refcounts), so that a flipped bit in a place that no
 * read of the disk needs is found as well. Costs what the tables of the stored clusters hold, not the disk's size.
 */
import { createHash } from 'node:crypto';
import type { ImageFile } from '../block/file.js';
import { AsofError } from '../errors.js';

/** Bytes of the largest table that is believed: QEMU takes none larger (block/qcow2.h, QCOW_MAX_L1_SIZE). */
const LARGEST = 32 * 2 ** 20;

/** Throws IO, or IMAGE_CORRUPT where tables lead out of the file. */
export function metadataDigest(file: ImageFile): string {
  const hash = createHash('sha256');
  const take = (offset: number, length: number): Buffer => {
    const bytes = file.read(offset, Math.min(length, LARGEST));
    if (bytes.length < length) {
      throw new AsofError('IMAGE_CORRUPT', `${file.path} ends within its tables, at byte ${file.size}`);
    }
    hash.update(bytes);
    return bytes;
  };
  const cluster = 65536;
  const header = take(0, cluster);
  const tables = (table: Buffer, mask: bigint) => {
    for (let at = 0; at < table.length; at += 8) {
      const place = Number(table.readBigUInt64BE(at) & mask);
      if (place !== 0) take(place, cluster);
    }
  };
  const number = (at: number) => Number(header.readBigUInt64BE(at));
  tables(take(number(40), header.readUInt32BE(36) * 8), 0x00fffffffffffe00n);
  tables(take(number(48), header.readUInt32BE(56) * cluster), 0xfffffffffffffe00n);
  return hash.digest('hex');
}
