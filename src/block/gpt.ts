/**
 * A GUID partition table (UEFI specification 2.10, 5.3): reading it, also from its second header, and what is to be written
 * where a disk was copied onto a larger one, for the second header belongs into the last sector.
 *
 * A header and its entries count only with the checksums that they state. What is written comes in an order in which one
 * whole table is on the disk at any moment: entries and second header at the end first, then the first header.
 */
import { AsofError } from '../errors.js';
import { crc32 } from './crc32.js';
import type { Partitioned } from './partitions.js';

const SIGNATURE = 'EFI PART';
/** Bytes of the header that the specification has laid out; it may be longer, up to a sector. */
const HEADER = 92;
/** More entries, or larger ones, than anybody makes. */
const MOST_BYTES = 2 ** 20;
/** Characters of a name: UTF-16, from byte 56 of an entry on. */
const NAME = 36;

export interface Gpt {
  /** The header: as many bytes as it says to have. */
  readonly header: Buffer;
  readonly entries: Buffer;
  readonly entrySize: number;
  /** Bytes. */
  readonly sectorSize: number;
  /** The sector in which the other header is, or ought to be. */
  readonly alternate: number;
}

export interface GptEntry {
  /** Its place in the table, from 1 on. */
  readonly number: number;
  readonly type: string;
  readonly uuid: string;
  readonly name: string;
  readonly attributes: bigint;
  /** Sectors, both of the partition. */
  readonly first: bigint;
  readonly last: bigint;
}

/** The table of the first header. Throws IMAGE_CORRUPT where there is none, or it is not what its checksums say. */
export function readGpt(disk: Partitioned, sectorSize: number = disk.sectorSize): Promise<Gpt> {
  return gptAt(disk, sectorSize, 1);
}

/** Whether a header is said to be in `sector`, sound or not. Throws what reading throws. */
export async function hasGptHeader(disk: Partitioned, sectorSize: number, sector = 1): Promise<boolean> {
  return (await disk.read(sector * sectorSize, 8)).toString('latin1') === SIGNATURE;
}

/** Throws IMAGE_CORRUPT, and what reading throws. */
async function gptAt(disk: Partitioned, sectorSize: number, at: number): Promise<Gpt> {
  const corrupt = (what: string) => new AsofError('IMAGE_CORRUPT', `the disk's GPT is not sound: ${what}`);
  const sector = await disk.read(at * sectorSize, sectorSize);
  if (sector.length < sectorSize || sector.toString('latin1', 0, 8) !== SIGNATURE) {
    throw corrupt(`sector ${at} (of ${sectorSize} bytes) has no header`);
  }
  const length = sector.readUInt32LE(12);
  if (length < HEADER || length > sectorSize) throw corrupt(`its header says to have ${length} bytes`);
  const header = Buffer.from(sector.subarray(0, length));
  if (headerSum(header) !== header.readUInt32LE(16))
    throw corrupt('the checksum of its header does not match');
  if (Number(header.readBigUInt64LE(24)) !== at) throw corrupt('its header belongs into another sector');
  const entrySize = header.readUInt32LE(84);
  const bytes = header.readUInt32LE(80) * entrySize;
  if (entrySize < 128 || bytes > MOST_BYTES) throw corrupt(`its table of ${bytes} bytes is too large`);
  const place = Number(header.readBigUInt64LE(72)) * sectorSize;
  const entries = Number.isSafeInteger(place) ? await disk.read(place, bytes) : Buffer.alloc(0);
  if (entries.length < bytes || crc32(entries) !== header.readUInt32LE(88)) {
    throw corrupt('the checksum of its entries does not match');
  }
  return { header, entries, entrySize, sectorSize, alternate: Number(header.readBigUInt64LE(32)) };
}

export interface FoundGpt {
  /** undefined where neither header is sound. */
  readonly gpt: Gpt | undefined;
  readonly defects: readonly string[];
}

/** The table of either header, in sectors of any of `sectorSizes`, the likeliest first. */
export async function findGpt(disk: Partitioned, sectorSizes: readonly number[]): Promise<FoundGpt> {
  const troubles: string[] = [];
  const attempt = async (sectorSize: number, at: number): Promise<Gpt | undefined> => {
    try {
      return await gptAt(disk, sectorSize, at);
    } catch (error) {
      troubles.push(error instanceof Error ? error.message : String(error));
      return undefined;
    }
  };
  for (const sectorSize of sectorSizes) {
    const gpt = await attempt(sectorSize, 1);
    if (!gpt) continue;
    const defects: string[] = [];
    const last = Math.floor(disk.size / sectorSize) - 1;
    if (gpt.alternate > last)
      defects.push(
        `the second header of the GPT is to be in sector ${gpt.alternate}, beyond the end of the disk`,
      );
    else if (!(await attempt(sectorSize, gpt.alternate)))
      defects.push(`the second header of the GPT is damaged: ${troubles.at(-1)}`);
    if (gpt.alternate < last)
      defects.push(
        `the second header of the GPT is not at the end of the disk, but in sector ${gpt.alternate} of ${last + 1}`,
      );
    return { gpt, defects };
  }
  const first = troubles[0]!;
  for (const sectorSize of sectorSizes) {
    const last = Math.floor(disk.size / sectorSize) - 1;
    for (const at of new Set([last, await alternateOf(disk, sectorSize)])) {
      if (at === undefined || at < 2 || at > last) continue;
      const gpt = await attempt(sectorSize, at);
      if (!gpt) continue;
      return {
        gpt,
        defects: [
          `the first header of the GPT is damaged (${first}): the second one, in sector ${at}, is used`,
        ],
      };
    }
  }
  return { gpt: undefined, defects: [`${first}; and no second header is sound`] };
}

/** Where a damaged first header says that the second one is. */
async function alternateOf(disk: Partitioned, sectorSize: number): Promise<number | undefined> {
  try {
    const sector = await disk.read(sectorSize, 40);
    const at = sector.length < 40 ? 0 : Number(sector.readBigUInt64LE(32));
    return Number.isSafeInteger(at * sectorSize) ? at : undefined;
  } catch {
    return undefined;
  }
}

/** The first and the last sector in which partitions may be. */
export function usableOf({ header }: Gpt): readonly [first: bigint, last: bigint] {
  return [header.readBigUInt64LE(40), header.readBigUInt64LE(48)];
}

export function diskGuidOf({ header }: Gpt): string {
  return guidOf(header, 56);
}

export function entriesOfGpt({ entries, entrySize }: Gpt): GptEntry[] {
  const found: GptEntry[] = [];
  for (let i = 0; (i + 1) * entrySize <= entries.length; i++) {
    const entry = entries.subarray(i * entrySize, (i + 1) * entrySize);
    if (entry.subarray(0, 16).every(byte => byte === 0)) continue;
    found.push({
      number: i + 1,
      type: guidOf(entry, 0),
      uuid: guidOf(entry, 16),
      name: entry.toString('utf16le', 56, 56 + 2 * NAME).split('\0', 1)[0]!,
      attributes: entry.readBigUInt64LE(48),
      first: entry.readBigUInt64LE(32),
      last: entry.readBigUInt64LE(40),
    });
  }
  return found;
}

/** The first three parts of a GUID are little-endian (appendix A of the specification). */
export function guidOf(bytes: Buffer, at: number): string {
  const part = (from: number, length: number) => bytes.toString('hex', at + from, at + from + length);
  const turned = (from: number, length: number) =>
    Buffer.from(bytes.subarray(at + from, at + from + length))
      .reverse()
      .toString('hex');
  return [turned(0, 4), turned(4, 2), turned(6, 2), part(8, 2), part(10, 6)].join('-');
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
