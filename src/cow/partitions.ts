/**
 * Where file systems may begin on a disk: at its start, and at that of each partition of an MBR (with logical ones) or a
 * GPT (UEFI specification 2.10, chapter 5). Only for looking at write counters: what it misses is not looked at.
 */

/** Up to `length` bytes at `offset`, fewer at the end. */
export type ReadAt = (offset: number, length: number) => Buffer;

/** Bounds what a hostile table costs. */
const MOST = 128;

/** Bytes, ascending, beginning with 0. */
export function fileSystemStarts(read: ReadAt, sectorSize: number): number[] {
  const starts = new Set([0]);
  const first = read(0, 512);
  if (first.length === 512 && first.readUInt16LE(510) === 0xaa55) {
    const gpt = gptStarts(read, sectorSize);
    for (const start of gpt.length > 0 ? gpt : mbrStarts(read, first, sectorSize)) starts.add(start);
  }
  return [...starts]
    .filter(start => Number.isSafeInteger(start))
    .sort((a, b) => a - b)
    .slice(0, MOST);
}

function gptStarts(read: ReadAt, sectorSize: number): number[] {
  const header = read(sectorSize, 92);
  if (header.length < 92 || header.toString('latin1', 0, 8) !== 'EFI PART') return [];
  const table = Number(header.readBigUInt64LE(72)) * sectorSize;
  const count = Math.min(header.readUInt32LE(80), MOST);
  const size = header.readUInt32LE(84);
  if (size < 128 || size > 4096) return [];
  const entries = read(table, count * size);
  const starts: number[] = [];
  for (let at = 0; at + size <= entries.length; at += size) {
    if (entries.subarray(at, at + 16).every(byte => byte === 0)) continue;
    starts.push(Number(entries.readBigUInt64LE(at + 32)) * sectorSize);
  }
  return starts;
}

interface Entry {
  readonly type: number;
  readonly start: number;
}

function entriesOf(sector: Buffer): Entry[] {
  return [446, 462, 478, 494]
    .map(at => ({ type: sector[at + 4]!, start: sector.readUInt32LE(at + 8) }))
    .filter(({ type, start }) => type !== 0 && start !== 0);
}

const EXTENDED = [0x05, 0x0f, 0x85];

function mbrStarts(read: ReadAt, first: Buffer, sectorSize: number): number[] {
  const primary = entriesOf(first);
  const starts = primary
    .filter(({ type }) => !EXTENDED.includes(type))
    .map(({ start }) => start * sectorSize);
  const extended = primary.find(({ type }) => EXTENDED.includes(type));
  for (let next = extended?.start, i = 0; extended && next !== undefined && i < MOST; i++) {
    const sector = read(next * sectorSize, 512);
    if (sector.length < 512 || sector.readUInt16LE(510) !== 0xaa55) break;
    const [logical, link] = entriesOf(sector);
    if (logical && !EXTENDED.includes(logical.type)) starts.push((next + logical.start) * sectorSize);
    next = link ? extended.start + link.start : undefined;
  }
  return starts;
}
