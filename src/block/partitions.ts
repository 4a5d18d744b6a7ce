/**
 * The partitions of a disk: GPT (gpt.ts), also where a hybrid MBR stands beside it, else MBR with logical ones (mbr.ts), in
 * Linux's numbering. The tables are not to be trusted: what does not lie within the disk is cut off at its end, or is no
 * partition, and each such thing is said.
 *
 * A table counts in sectors, of 512 bytes or 4096, and an image may have been made of a disk of the other kind. A GPT shows by
 * the place of its header which they are. An MBR does not: its entries are taken for sectors of the disk, unless something
 * known begins where they lead in sectors of the other size, and nowhere in those of the disk's.
 */
import { AsofError } from '../errors.js';
import { contentOf } from './content.js';
import { diskGuidOf, entriesOfGpt, findGpt, type Gpt, hasGptHeader, usableOf } from './gpt.js';
import { diskIdOf, entriesOf, hasBootMark, isExtended, logicalOf, type MbrEntry, PROTECTIVE } from './mbr.js';
import { gptTypeName, mbrTypeName } from './partition-types.js';
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
  /** Bytes; all of it lies within the disk. */
  readonly start: number;
  readonly size: number;
  /** Bytes that the table says it has; more than `size` where it leads beyond the end of the disk. */
  readonly stated: number;
  /** A GUID, or a byte such as 0x83. */
  readonly type: string;
  /** '' where it has none that is known. */
  readonly typeName: string;
  /** What a GPT calls it. */
  readonly name: string;
  readonly uuid: string;
  readonly bootable: boolean;
}

export type TableKind = 'gpt' | 'hybrid' | 'mbr';

export interface PartitionTable {
  readonly kind: TableKind;
  /** The GUID or the number of the disk. */
  readonly id: string;
  /** Bytes: what the table counts in. */
  readonly sectorSize: SectorSize;
  readonly partitions: readonly Partition[];
}

export interface Survey {
  /** undefined where the disk has no table, or none that is sound. */
  readonly table: PartitionTable | undefined;
  /** What is wrong with the table, in words. */
  readonly defects: readonly string[];
}

/** The kernel shows no more of a disk (block/partitions/check.c, DISK_MAX_PARTS). */
export const MOST_PARTITIONS = 256;

/** Whatever is wrong with the disk is a defect: never throws for it. */
export async function surveyPartitions(disk: Partitioned): Promise<Survey> {
  let first: Buffer;
  try {
    first = await disk.read(0, 512);
  } catch (error) {
    return { table: undefined, defects: [`the partition table cannot be read: ${words(error)}`] };
  }
  const entries = hasBootMark(first) ? entriesOf(first) : [];
  if (entries.some(({ type }) => type === PROTECTIVE)) return surveyGpt(disk, entries);
  if (entries.length === 0 || (await isBootSector(disk, entries))) {
    return { table: undefined, defects: await strayGpt(disk) };
  }
  return surveyMbr(disk, diskIdOf(first), entries);
}

/**
 * The partitions that lie within the disk as a whole; undefined where it has no table. Throws IMAGE_CORRUPT where it says to
 * have one that is not sound, or it cannot be read.
 */
export async function partitionsOf(disk: Partitioned): Promise<PartitionTable | undefined> {
  const first = await disk.read(0, 512);
  const { table, defects } = await surveyPartitions(disk);
  if (table) return { ...table, partitions: table.partitions.filter(({ size, stated }) => size === stated) };
  if (!hasBootMark(first) || !entriesOf(first).some(({ type }) => type === PROTECTIVE)) return undefined;
  throw new AsofError('IMAGE_CORRUPT', defects.join('; '));
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

function words(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function sectorSizesOf(disk: Partitioned): readonly SectorSize[] {
  return disk.sectorSize === 512 ? [512, 4096] : [4096, 512];
}

/** A file system's boot sector bears the same mark as a table; its code makes no sense as one. */
async function isBootSector(disk: Partitioned, entries: readonly MbrEntry[]): Promise<boolean> {
  if (entries.some(({ status }) => (status & 0x7f) !== 0)) return true;
  const content = await contentOf(disk).catch(() => undefined);
  return ['vfat', 'ntfs', 'exfat', 'BitLocker'].includes(content?.type ?? '');
}

/** A GPT that nothing guards is none to Linux: what is on the disk now may be another thing. */
async function strayGpt(disk: Partitioned): Promise<string[]> {
  for (const sectorSize of sectorSizesOf(disk)) {
    if (await hasGptHeader(disk, sectorSize).catch(() => false)) {
      return [`sector 1 (of ${sectorSize} bytes) has the header of a GPT, but no MBR says that it counts`];
    }
  }
  return [];
}

async function surveyGpt(disk: Partitioned, mbr: readonly MbrEntry[]): Promise<Survey> {
  const found = await findGpt(disk, sectorSizesOf(disk));
  const { gpt } = found;
  if (!gpt) return { table: undefined, defects: found.defects };
  const sectorSize = gpt.sectorSize as SectorSize;
  const defects = [...found.defects];
  const all = entriesOfGpt(gpt);
  const shown = all.slice(0, MOST_PARTITIONS);
  if (all.length > shown.length) {
    defects.push(`there are ${all.length} partitions: the first ${MOST_PARTITIONS} are shown`);
  }
  const partitions: Partition[] = [];
  const [least, most] = usableOf(gpt);
  for (const { number, type, uuid, name, attributes, first, last } of shown) {
    if (last < first) {
      defects.push(`p${number} ends before it begins: it is not shown`);
      continue;
    }
    if (first < least || last > most)
      defects.push(`p${number} lies outside of what its table has for partitions`);
    const start = Number(first) * sectorSize;
    const stated = Number(last - first + 1n) * sectorSize;
    const facts = {
      number,
      type,
      typeName: gptTypeName(type),
      name,
      uuid,
      bootable: (attributes & 4n) !== 0n,
    };
    add(partitions, defects, disk, { ...facts, start, stated });
  }
  const others = mbr.filter(({ type }) => type !== PROTECTIVE);
  defects.push(...overlaps(partitions), ...unlike(others, partitions, gpt));
  const kind = others.length > 0 ? 'hybrid' : 'gpt';
  return { table: { kind, id: diskGuidOf(gpt), sectorSize, partitions }, defects };
}

/** Entries of a hybrid MBR that are none of the GPT's partitions. */
function unlike(
  entries: readonly MbrEntry[],
  partitions: readonly Partition[],
  { sectorSize }: Gpt,
): string[] {
  return entries
    .filter(
      ({ start, count }) =>
        !partitions.some(one => one.start === start * sectorSize && one.stated === count * sectorSize),
    )
    .map(({ number, start, count }) => {
      const place = `${count} sectors from sector ${start}`;
      return `entry ${number} of the hybrid MBR (${place}) is no partition of the GPT, which is what is shown`;
    });
}

async function surveyMbr(disk: Partitioned, id: string, entries: readonly MbrEntry[]): Promise<Survey> {
  const sectorSize = await sectorSizeOf(disk, entries);
  const defects: string[] = [];
  const found: MbrEntry[] = [];
  for (const entry of entries) {
    if (!isExtended(entry)) found.push(entry);
  }
  let number = 5;
  const taken = new Set(entries.map(({ start }) => start));
  for (const extended of entries.filter(isExtended)) {
    const most = MOST_PARTITIONS - found.length;
    const logical = await logicalOf(disk, sectorSize, extended, number, most, taken);
    defects.push(...logical.defects);
    number += logical.entries.length;
    const end = extended.start + extended.count;
    for (const one of logical.entries) {
      found.push(one);
      if (one.start >= extended.start && one.start + one.count <= end) continue;
      defects.push(`p${one.number} lies outside of the extended partition that it is of`);
    }
  }
  const partitions: Partition[] = [];
  const prefix = id.slice(2);
  for (const { number, status, type, start, count } of found) {
    const facts = { number, type: `0x${hex(type)}`, typeName: mbrTypeName(type), name: '' };
    const uuid = prefix === '00000000' ? '' : `${prefix}-${hex(number)}`;
    const place = { start: start * sectorSize, stated: count * sectorSize };
    add(partitions, defects, disk, { ...facts, uuid, bootable: status === 0x80, ...place });
  }
  defects.push(...overlaps(partitions));
  return { table: { kind: 'mbr', id, sectorSize, partitions }, defects };
}

const hex = (byte: number) => byte.toString(16).padStart(2, '0');

function add(
  partitions: Partition[],
  defects: string[],
  disk: Partitioned,
  { start, stated, ...facts }: Omit<Partition, 'size'>,
): void {
  if (!(start < disk.size)) {
    defects.push(`p${facts.number} begins beyond the end of the disk: it is not shown`);
    return;
  }
  const size = Math.min(stated, disk.size - start);
  if (size < stated) {
    defects.push(
      `p${facts.number} has ${stated} bytes, of which the disk ends after ${size}: that much is shown`,
    );
  }
  partitions.push({ ...facts, start, size, stated });
}

function overlaps(partitions: readonly Partition[]): string[] {
  const found: string[] = [];
  let furthest: Partition | undefined;
  for (const one of [...partitions].sort((a, b) => a.start - b.start || a.number - b.number)) {
    if (furthest && one.start < furthest.start + furthest.size) {
      const both = [furthest.number, one.number].sort((a, b) => a - b);
      found.push(`p${both[0]} and p${both[1]} overlap`);
    }
    if (!furthest || one.start + one.size > furthest.start + furthest.size) furthest = one;
  }
  return found;
}

/** What the entries of an MBR count in. */
async function sectorSizeOf(disk: Partitioned, entries: readonly MbrEntry[]): Promise<SectorSize> {
  const [own, other] = sectorSizesOf(disk) as [SectorSize, SectorSize];
  const fit = (sectorSize: number) =>
    entries.every(({ start, count }) => (start + count) * sectorSize <= disk.size);
  if (!fit(other)) return own;
  return !(await makesSense(disk, entries, own)) && (await makesSense(disk, entries, other)) ? other : own;
}

/** Whether anything that is known begins where an entry leads. */
async function makesSense(
  disk: Partitioned,
  entries: readonly MbrEntry[],
  sectorSize: number,
): Promise<boolean> {
  for (const entry of entries) {
    const start = entry.start * sectorSize;
    const size = Math.min(entry.count * sectorSize, disk.size - start);
    if (entry.start === 0 || size <= 0) continue;
    try {
      const known = isExtended(entry)
        ? hasBootMark(await disk.read(start, 512))
        : await contentOf(partOf(disk, start, size));
      if (known) return true;
    } catch {
      // What cannot be read speaks for neither.
    }
  }
  return false;
}

/** The part of a disk as one. */
export function partOf(disk: Partitioned, start: number, size: number): Partitioned {
  return {
    size,
    sectorSize: disk.sectorSize,
    read(offset, length) {
      const from = Math.min(offset, size);
      return disk.read(start + from, Math.max(0, Math.min(length, size - from)));
    },
  };
}
