/**
 * NTFS: the boot sector, and for the label the file record of $Volume (libyal/libfsntfs, documentation/; ntfs-3g,
 * include/ntfs-3g/layout.h).
 */
import type { ContentReader, Probed } from '../content.js';
import { hasAt, isPowerOfTwo, wideAt } from './fields.js';

/** Of the file record of $Volume, and of its attribute with the name. */
const VOLUME = 3;
const VOLUME_NAME = 0x60;
const END = 0xffffffff;

export const ntfs: ContentReader = async (head, disk) => {
  if (head.length < 512 || !hasAt(head, 3, 'NTFS    ')) return undefined;
  const sector = head.readUInt16LE(11);
  if (!isPowerOfTwo(sector) || sector < 256 || sector > 4096) return undefined;
  // From 0x81 on it is the power of two, negative (ntfs-3g, boot.c).
  const per = head[13]!;
  const cluster = sector * (per > 128 ? 2 ** (256 - per) : per);
  const size = head.readInt8(64);
  const record = size > 0 ? size * cluster : 2 ** -size;
  const place = Number(head.readBigUInt64LE(48)) * cluster + VOLUME * record;
  const uuid = head.readBigUInt64LE(72).toString(16).toUpperCase().padStart(16, '0');
  const sound = isPowerOfTwo(record) && record >= 512 && record <= 65536 && place + record <= disk.size;
  return { type: 'ntfs', version: '', label: sound ? await labelIn(disk, place, record) : '', uuid };
};

async function labelIn(disk: Probed, place: number, length: number): Promise<string> {
  const record = await disk.read(place, length);
  if (record.length < length || !hasAt(record, 0, 'FILE')) return '';
  restoreSectors(record);
  let at = record.readUInt16LE(20);
  while (at + 24 <= record.length) {
    const type = record.readUInt32LE(at);
    const size = record.readUInt32LE(at + 4);
    if (type === END || size < 24) return '';
    if (type === VOLUME_NAME && record[at + 8] === 0) {
      const from = at + record.readUInt16LE(at + 20);
      return wideAt(record, from, Math.min(record.readUInt32LE(at + 16), 256));
    }
    at += size;
  }
  return '';
}

/** The last two bytes of each sector were kept elsewhere in the record (update sequence). */
function restoreSectors(record: Buffer): void {
  const array = record.readUInt16LE(4);
  const count = record.readUInt16LE(6);
  for (let i = 1; i < count; i++) {
    const to = i * 512 - 2;
    if (to + 2 > record.length || array + 2 * i + 2 > record.length) return;
    record.copy(record, to, array + 2 * i, array + 2 * i + 2);
  }
}
