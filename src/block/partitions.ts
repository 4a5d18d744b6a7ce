/**
 * The partitions of a disk: GPT (UEFI specification 2.10, chapter 5), else MBR with logical ones. The tables are not to be
 * trusted: what does not lie within the disk is no partition.
 */
import { AsofError } from '../errors.js';
import { entriesOfGpt, readGpt } from './gpt.js';
import type { SectorSize } from './source.js';

/** Up to `length` bytes at `offset`; fewer at the end. */
export type ReadAt = (offset: number, length: number) => Promise<Buffer>;

/** What is asked of a disk. */
export interface Partitioned {
  /** Bytes. */
  readonly size: number;
  readonly sectorSize: SectorSize;
  readonly read: ReadAt;
}

export interface Partition {
  /** As Linux and sfdisk count: the place in a GPT; 1 to 4, and from 5 on the logical ones. */
  readonly number: number;
  /** Bytes. */
  readonly start: number;
  readonly size: number;
}

/** Bounds what a chain of logical partitions costs. */
const MOST_LOGICAL = 128;

const EXTENDED = [0x05, 0x0f, 0x85];
/** The one entry of an MBR that only guards a GPT. */
export const PROTECTIVE = 0xee;

export interface PartitionTable {
  readonly kind: 'gpt' | 'mbr';
  readonly partitions: readonly Partition[];
}

/** undefined where the disk has no table. Throws IMAGE_CORRUPT where it says to have a GPT that is not sound. */
export async function partitionsOf(disk: Partitioned): Promise<PartitionTable | undefined> {
  const first = await disk.read(0, 512);
  if (first.length < 512 || first.readUInt16LE(510) !== 0xaa55) return undefined;
  const within = ({ start, size }: Partition) => size > 0 && start > 0 && start + size <= disk.size;
  const entries = entriesOf(first);
  if (entries.some(({ type }) => type === PROTECTIVE)) {
    const gpt = await readGpt(disk);
    return { kind: 'gpt', partitions: entriesOfGpt(gpt, disk.sectorSize).filter(within) };
  }
  // A file system's boot sector bears the same mark; its code makes no sense as a table.
  if (entries.length === 0 || entries.some(({ status }) => (status & 0x7f) !== 0)) return undefined;
  const found: Partition[] = [];
  for (const entry of entries) {
    if (EXTENDED.includes(entry.type)) found.push(...(await logical(disk, entry)));
    else found.push(toPartition(entry.number, entry.start, entry.count, disk.sectorSize));
  }
  const partitions = found.filter(within).sort((a, b) => a.number - b.number);
  return partitions.length > 0 ? { kind: 'mbr', partitions } : undefined;
}

/** Throws PARTITION_UNKNOWN. */
export async function partitionOf(disk: Partitioned, number: number, name: string): Promise<Partition> {
  const table = await partitionsOf(disk);
  const partition = table?.partitions.find(one => one.number === number);
  if (partition) return partition;
  const known = table?.partitions.map(one => one.number).join(', ');
  throw new AsofError(
    'PARTITION_UNKNOWN',
    `${name} has no partition ${number}: ${table ? `it has ${known || 'none'} (${table.kind.toUpperCase()})` : 'it has no partition table'}`,
  );
}

interface Entry {
  readonly number: number;
  readonly status: number;
  readonly type: number;
  /** Sectors. */
  readonly start: number;
  readonly count: number;
}

function entriesOf(sector: Buffer): Entry[] {
  return [446, 462, 478, 494]
    .map((at, i) => ({
      number: i + 1,
      status: sector[at]!,
      type: sector[at + 4]!,
      start: sector.readUInt32LE(at + 8),
      count: sector.readUInt32LE(at + 12),
    }))
    .filter(({ type, count }) => type !== 0 && count !== 0);
}

/** A chain of sectors, each with a partition relative to itself and the next one relative to the first. */
async function logical(disk: Partitioned, extended: Entry): Promise<Partition[]> {
  const found: Partition[] = [];
  const { sectorSize } = disk;
  let next: number | undefined = extended.start;
  while (next !== undefined && found.length < MOST_LOGICAL) {
    const sector: Buffer = await disk.read(next * sectorSize, 512);
    if (sector.length < 512 || sector.readUInt16LE(510) !== 0xaa55) break;
    const entries = entriesOf(sector);
    const own = entries.find(({ type }) => !EXTENDED.includes(type));
    const link = entries.find(({ type }) => EXTENDED.includes(type));
    if (own) found.push(toPartition(5 + found.length, next + own.start, own.count, sectorSize));
    next = link && link.start > 0 ? extended.start + link.start : undefined;
  }
  return found;
}

function toPartition(number: number, start: number, count: number, sectorSize: number): Partition {
  return { number, start: start * sectorSize, size: count * sectorSize };
}
