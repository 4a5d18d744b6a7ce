/**
 * A partition table of the master boot record: four entries, of which one or more may hold a chain of logical partitions
 * (each link a sector with the same shape). There is no specification; this is what the Linux kernel does
 * (block/partitions/msdos.c), in its numbering. Chains are bounded, and may not come back to a sector.
 */
import type { Partitioned } from './partitions.js';

export interface MbrEntry {
  /** 1 to 4; of a logical partition from 5 on. */
  readonly number: number;
  /** 0x80: the one to boot from; else 0. Anything else is the code of a boot sector. */
  readonly status: number;
  readonly type: number;
  /** Sectors, from the start of the disk. */
  readonly start: number;
  readonly count: number;
}

/** The one entry of an MBR that only guards a GPT. */
export const PROTECTIVE = 0xee;

const EXTENDED = [0x05, 0x0f, 0x85];
export const isExtended = ({ type }: { readonly type: number }): boolean => EXTENDED.includes(type);

/** Links without a partition that a chain may have, as the kernel counts. */
const MOST_EMPTY = 100;

export function hasBootMark(sector: Buffer): boolean {
  return sector.length >= 512 && sector.readUInt16LE(510) === 0xaa55;
}

/** The entries that have a length, whatever their type, as Linux sees it; in the numbering of the four. */
export function entriesOf(sector: Buffer): MbrEntry[] {
  return [446, 462, 478, 494]
    .map((at, i) => ({
      number: i + 1,
      status: sector[at]!,
      type: sector[at + 4]!,
      start: sector.readUInt32LE(at + 8),
      count: sector.readUInt32LE(at + 12),
    }))
    .filter(({ count }) => count !== 0);
}

/** The number of the disk, as sfdisk writes it. */
export function diskIdOf(sector: Buffer): string {
  return `0x${sector.readUInt32LE(440).toString(16).padStart(8, '0')}`;
}

export interface Logical {
  readonly entries: readonly MbrEntry[];
  readonly defects: readonly string[];
}

/**
 * The logical partitions of the chain that begins at `extended`, at most `most`, numbered from `first`. `taken` has where
 * others begin: what begins there too is the same one again.
 */
export async function logicalOf(
  disk: Partitioned,
  sectorSize: number,
  extended: MbrEntry,
  first: number,
  most: number,
  taken: Set<number>,
): Promise<Logical> {
  const found: MbrEntry[] = [];
  const defects: string[] = [];
  const seen = new Set<number>();
  const end = extended.start + extended.count;
  let empty = 0;
  if (extended.start === 0)
    defects.push(`the extended partition ${extended.number} begins where the disk does`);
  let at = extended.start;
  let room = extended.count;
  while (extended.start > 0) {
    const place = `the chain of logical partitions (sector ${at})`;
    if (seen.has(at)) {
      defects.push(`${place} comes back to itself`);
      break;
    }
    seen.add(at);
    let sector: Buffer;
    try {
      sector = await disk.read(at * sectorSize, 512);
    } catch (error) {
      defects.push(`${place} cannot be read: ${error instanceof Error ? error.message : String(error)}`);
      break;
    }
    if (!hasBootMark(sector)) {
      const why = sector.length < 512 ? 'leads beyond the end of the disk' : 'is broken: no table is there';
      defects.push(`${place} ${why}`);
      break;
    }
    const entries = entriesOf(sector);
    const own = entries.filter(entry => {
      if (isExtended(entry)) return false;
      if (entry.number <= 2) return true;
      // The third and fourth are no partitions by rights: only what fits in is taken for one.
      const start = at + entry.start;
      return entry.start + entry.count <= room && start >= extended.start && start + entry.count <= end;
    });
    for (const { status, type, start, count } of own) {
      if (taken.has(at + start)) continue;
      taken.add(at + start);
      if (found.length >= most) {
        defects.push(`there are more than ${most} logical partitions: the others are not shown`);
        return { entries: found, defects };
      }
      found.push({ number: first + found.length, status, type, start: at + start, count });
    }
    empty = own.length > 0 ? 0 : empty + 1;
    if (empty > MOST_EMPTY) {
      defects.push(`${place} has ${empty} links without a partition`);
      break;
    }
    const link = entries.find(isExtended);
    if (!link) break;
    at = extended.start + link.start;
    room = link.count;
  }
  return { entries: found, defects };
}
