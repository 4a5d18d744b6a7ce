/**
 * Where on a disk a volume with shadow copies may begin: at its start, and in each partition. What is found here is only looked
 * at for the mark of shadow copies, which nothing else bears, so that tables are read without doubt: no checksum is asked, and
 * both sizes of sectors are tried. src/block/partitions.ts is for who must know what a table says.
 */
import { entriesOf, hasBootMark, isExtended, type MbrEntry, PROTECTIVE } from '../block/mbr.js';
import type { Peek } from '../block/peek.js';
import { AsofError } from '../errors.js';

export interface Part {
  /** null: the disk itself. */
  readonly number: number | null;
  /** Bytes. */
  readonly start: number;
  readonly size: number;
}

/** Bounds of what is looked at. */
const MOST_LOGICAL = 128;
const MOST_GPT = 256;

const SECTOR_SIZES = [512, 4096] as const;

/** The disk, then partitions: the same number may come twice, with two places. Nothing is thrown for what cannot be read. */
export function* partsOf(peek: Peek): Generator<Part, void, undefined> {
  const { size } = peek.source;
  yield { number: null, start: 0, size };
  const read = (offset: number, length: number): Buffer => {
    try {
      if (Number.isSafeInteger(offset) && offset >= 0 && offset + length <= size)
        return peek.read(offset, length);
    } catch (error) {
      if (!(error instanceof AsofError)) throw error;
    }
    return Buffer.alloc(0);
  };
  const first = read(0, 512);
  if (!hasBootMark(first)) return;
  const entries = entriesOf(first);
  for (const sectorSize of SECTOR_SIZES) {
    const found = entries.some(({ type }) => type === PROTECTIVE)
      ? ofGpt(read, size, sectorSize)
      : ofMbr(read, entries, sectorSize);
    for (const { number, start, count } of found) {
      const at = start * sectorSize;
      if (at > 0 && at < size) yield { number, start: at, size: Math.min(count * sectorSize, size - at) };
    }
  }
}

type Read = (offset: number, length: number) => Buffer;
type Entry = Pick<MbrEntry, 'number' | 'start' | 'count'>;

function* ofMbr(read: Read, entries: readonly MbrEntry[], sectorSize: number): Generator<Entry> {
  for (const entry of entries) if (!isExtended(entry)) yield entry;
  let number = 5;
  for (const extended of entries.filter(isExtended)) {
    let at = extended.start;
    for (let links = 0; links < MOST_LOGICAL; links++) {
      const sector = read(at * sectorSize, 512);
      if (!hasBootMark(sector)) break;
      const inside = entriesOf(sector);
      const own = inside.find(one => !isExtended(one));
      if (own) yield { number: number++, start: at + own.start, count: own.count };
      const link = inside.find(isExtended);
      if (!link) break;
      at = extended.start + link.start;
    }
  }
}

/** By the first header, else by the second (UEFI specification 2.10, 5.3.2 and 5.3.3). */
function* ofGpt(read: Read, size: number, sectorSize: number): Generator<Entry> {
  for (const at of [sectorSize, size - (size % sectorSize) - sectorSize]) {
    const header = read(at, 92);
    if (header.toString('latin1', 0, 8) !== 'EFI PART') continue;
    const place = Number(header.readBigUInt64LE(72)) * sectorSize;
    const each = header.readUInt32LE(84);
    if (each < 128 || each > 4096) continue;
    for (let i = 0; i < Math.min(header.readUInt32LE(80), MOST_GPT); i++) {
      const entry = read(place + i * each, 48);
      if (entry.length < 48 || entry.subarray(0, 16).every(byte => byte === 0)) continue;
      const start = Number(entry.readBigUInt64LE(32));
      yield { number: i + 1, start, count: Number(entry.readBigUInt64LE(40)) - start + 1 };
    }
    return;
  }
}
