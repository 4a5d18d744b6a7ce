/**
 * A GUID partition table (UEFI specification 2.10, 5.3), as far as a disk needs it that was copied onto a larger one: its
 * second header belongs into the last sector, and both headers say where the other one is and where partitions may end.
 *
 * Only a table whose header and entries have the checksums that they state is touched. What is written comes in an order in
 * which one whole table is on the disk at any moment: entries and second header at the end first, then the first header.
 */
import { AsofError } from '../errors.js';
import type { Partition, Partitioned } from './partitions.js';

const SIGNATURE = 'EFI PART';
/** Bytes of the header that the specification has laid out; it may be longer, up to a sector. */
const HEADER = 92;
/** More entries, or larger ones, than anybody makes. */
const MOST_BYTES = 2 ** 20;

export interface Gpt {
  /** The first header: as many bytes as it says to have. */
  readonly header: Buffer;
  readonly entries: Buffer;
  readonly entrySize: number;
  /** The sector in which the second header is, or ought to be. */
  readonly alternate: number;
}

/** Throws IMAGE_CORRUPT where there is none, or it is not what its checksums say. */
export async function readGpt(disk: Partitioned): Promise<Gpt> {
  const { sectorSize } = disk;
  const corrupt = (what: string) => new AsofError('IMAGE_CORRUPT', `the disk's GPT is not sound: ${what}`);
  const sector = await disk.read(sectorSize, sectorSize);
  if (sector.length < sectorSize || sector.toString('latin1', 0, 8) !== SIGNATURE) {
    throw corrupt(`sector 1 (of ${sectorSize} bytes) has no header`);
  }
  const length = sector.readUInt32LE(12);
  if (length < HEADER || length > sectorSize) throw corrupt(`its header says to have ${length} bytes`);
  const header = Buffer.from(sector.subarray(0, length));
  if (headerSum(header) !== header.readUInt32LE(16))
    throw corrupt('the checksum of its header does not match');
  if (Number(header.readBigUInt64LE(24)) !== 1) throw corrupt('its header belongs into another sector');
  const entrySize = header.readUInt32LE(84);
  const bytes = header.readUInt32LE(80) * entrySize;
  if (entrySize < 128 || bytes > MOST_BYTES) throw corrupt(`its table of ${bytes} bytes is too large`);
  const entries = await disk.read(Number(header.readBigUInt64LE(72)) * sectorSize, bytes);
  if (entries.length < bytes || crc32(entries) !== header.readUInt32LE(88)) {
    throw corrupt('the checksum of its entries does not match');
  }
  return { header, entries, entrySize, alternate: Number(header.readBigUInt64LE(32)) };
}

export function entriesOfGpt({ entries, entrySize }: Gpt, sectorSize: number): Partition[] {
  const found: Partition[] = [];
  for (let i = 0; (i + 1) * entrySize <= entries.length; i++) {
    const entry = entries.subarray(i * entrySize, (i + 1) * entrySize);
    if (entry.subarray(0, 16).every(byte => byte === 0)) continue;
    const first = Number(entry.readBigUInt64LE(32));
    const last = Number(entry.readBigUInt64LE(40));
    found.push({ number: i + 1, start: first * sectorSize, size: (last - first + 1) * sectorSize });
  }
  return found;
}

export interface GptWrite {
  /** Bytes. */
  readonly offset: number;
  readonly bytes: Buffer;
}

/** What makes `gpt` one of a disk of `size` bytes, in the order in which it is to be written. */
export function movedGpt(gpt: Gpt, size: number, sectorSize: number): GptWrite[] {
  const last = Math.floor(size / sectorSize) - 1;
  const table = last - Math.ceil(gpt.entries.length / sectorSize);
  const header = (own: number, other: number, entries: number): Buffer => {
    const bytes = Buffer.alloc(sectorSize);
    gpt.header.copy(bytes);
    const head = bytes.subarray(0, gpt.header.length);
    head.writeBigUInt64LE(BigInt(own), 24);
    head.writeBigUInt64LE(BigInt(other), 32);
    head.writeBigUInt64LE(BigInt(table - 1), 48);
    head.writeBigUInt64LE(BigInt(entries), 72);
    head.writeUInt32LE(headerSum(head), 16);
    return bytes;
  };
  const first = Number(gpt.header.readBigUInt64LE(72));
  const old = gpt.alternate * sectorSize;
  const writes = [
    { offset: table * sectorSize, bytes: gpt.entries },
    { offset: last * sectorSize, bytes: header(last, 1, table) },
    { offset: sectorSize, bytes: header(1, last, first) },
  ];
  // The old second header would be found by who looks for one that has been lost.
  if (gpt.alternate > 1 && gpt.alternate < table)
    writes.push({ offset: old, bytes: Buffer.alloc(sectorSize) });
  return writes;
}

/** With zeros in the place of the checksum itself. */
function headerSum(header: Buffer): number {
  const bytes = Buffer.from(header);
  bytes.writeUInt32LE(0, 16);
  return crc32(bytes);
}

let table: Uint32Array | undefined;

/** IEEE 802.3; Node has one of its own only from 20.15 on. */
export function crc32(bytes: Uint8Array): number {
  table ??= Uint32Array.from({ length: 256 }, (_, i) => {
    let value = i;
    for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
    return value;
  });
  let sum = 0xffffffff;
  for (const byte of bytes) sum = table[(sum ^ byte) & 0xff]! ^ (sum >>> 8);
  return (sum ^ 0xffffffff) >>> 0;
}
