/**
 * Composition of "why is this incremental so large?": runs of sectors that changed, and the files of the file systems, as they
 * are afterwards, to which they belong.
 */
import { availableParallelism } from 'node:os';
import { Disk } from './block/disk.js';
import { partitionsOf } from './block/partitions.js';
import { window } from './block/window.js';
import { compareSectors } from './diff.js';
import { AsofError } from './errors.js';
import { type Owners, ownersOf } from './file-owners/owners.js';
import { ChangedRuns, type Run } from './file-owners/runs.js';
import { FileView, type Replay, type ViewOptions } from './file-view.js';
import { History } from './histories.js';
import { compare, type Readable } from './image/compare.js';
import { type NamedPoint, openPoint } from './named-point.js';
import { Engine } from './native.js';
import { partitioned } from './restore.js';

export { type NamedPoint, openPoint } from './named-point.js';
export type { Owners, Run };

const CACHE = 64 * 2 ** 20;
const MAP_BYTES = 32 * 2 ** 20;

export interface OwnersRequest extends ViewOptions {
  readonly partition?: number | undefined;
  /** How many files are named of each file system. */
  readonly top: number;
  readonly signal?: AbortSignal | undefined;
}

/** One file system of the disk. */
export interface PartOwners extends Owners {
  /** null where the disk has no partitions. */
  readonly partition: number | null;
  /** null where there is none that is known. */
  readonly fileSystem: string | null;
  readonly replay: Replay | null;
}

export interface ChangeOwners {
  /** Bytes that changed, of the whole disk. */
  readonly changed: number;
  /** Bytes of these that lie in no partition; 0 where the disk has none. */
  readonly outside: number;
  readonly parts: readonly PartOwners[];
}

/** Opens the point once for each file system, and closes it. Throws MOUNT_FAILED, PARTITION_UNKNOWN, and what opening throws. */
export async function ownersOfRuns(
  open: () => NamedPoint,
  runs: readonly Run[],
  request: OwnersRequest,
): Promise<ChangeOwners> {
  const changed = new ChangedRuns(runs);
  const found = await partsOf(open);
  const wanted = found.filter(
    ({ number }) => request.partition === undefined || number === request.partition,
  );
  if (wanted.length === 0) {
    const numbers = found.map(({ number }) => number).filter(number => number !== null);
    throw new AsofError(
      'PARTITION_UNKNOWN',
      `there is no partition ${request.partition}`,
      numbers.length > 0 ? `it has ${numbers.join(', ')}` : 'the disk has no partitions',
    );
  }
  const parts: PartOwners[] = [];
  let inside = 0;
  for (const { start, size } of found) inside += changed.within(start, size);
  for (const { number, start, size } of wanted) {
    parts.push({
      partition: number,
      ...(await ownersIn(open, number, changed.window(start, size), request)),
    });
  }
  return { changed: changed.bytes, outside: changed.bytes - inside, parts };
}

interface Part {
  readonly number: number | null;
  readonly start: number;
  readonly size: number;
}

async function partsOf(open: () => NamedPoint): Promise<Part[]> {
  const point = open();
  const engine = newEngine();
  const disk = new Disk(engine, { ...point.source, close() {} });
  try {
    const table = await partitionsOf(partitioned(disk));
    return table ? [...table.partitions] : [{ number: null, start: 0, size: disk.size }];
  } finally {
    disk.close();
    engine.close();
    point.close();
  }
}

async function ownersIn(
  open: () => NamedPoint,
  partition: number | null,
  changed: ChangedRuns,
  { top, signal, ...options }: OwnersRequest,
): Promise<Omit<PartOwners, 'partition'>> {
  const nobody = (note: string): Omit<PartOwners, 'partition'> => ({
    fileSystem: null,
    replay: null,
    changed: changed.bytes,
    files: [],
    fileCount: 0,
    fileBytes: 0,
    journal: null,
    free: null,
    metadata: 0,
    notes: [note],
  });
  if (changed.bytes === 0) return nobody('nothing of it has changed');
  const point = open();
  let view: FileView;
  try {
    view = await FileView.open(point, partition ?? undefined, options, signal);
  } catch (error) {
    point.close();
    const isRoot = process.geteuid?.() === 0;
    if (!isRoot || signal?.aborted || !(error instanceof AsofError)) throw error;
    // The other file systems of the disk have an answer all the same.
    if (error.code !== 'FILE_SYSTEM_UNKNOWN' && error.code !== 'MOUNT_FAILED') throw error;
    return nobody(error.message);
  }
  try {
    const { path: root, device, type, replay } = view;
    return { fileSystem: type, replay, ...(await ownersOf({ root, device, type, signal }, changed, top)) };
  } finally {
    await view.close();
  }
}

/** Where `right` has other sectors than `left`, or some that `left` has not. The points belong to the caller. */
export async function unlikeSectors(left: NamedPoint, right: NamedPoint): Promise<Run[]> {
  const found = await compareSectors(left, right, undefined);
  const runs: Run[] = [];
  try {
    for await (const { kind, offset, length } of found.differences) {
      if (kind !== 'only-a') runs.push([offset, length]);
    }
    return runs;
  } finally {
    found.close();
  }
}

/** Of `runs` the sectors in which the two points differ. */
export async function unlikeWithin(
  left: NamedPoint,
  right: NamedPoint,
  runs: readonly Run[],
): Promise<Run[]> {
  const engine = newEngine();
  const disks = [left, right].map(point => new Disk(engine, { ...point.source, close() {} }));
  const part = (disk: Disk, start: number, length: number): Readable => ({
    source: window(disk.source, start, length),
    read: (offset, size) => disk.read(start + offset, size),
  });
  const [one, other] = disks as [Disk, Disk];
  const unlike: Run[] = [];
  try {
    const size = Math.min(one.size, other.size);
    for (const [start, length] of runs) {
      const both = Math.max(0, Math.min(size - start, length));
      if (both < length) unlike.push([start + both, length - both]);
      if (both === 0) continue;
      for await (const found of compare(part(one, start, both), part(other, start, both))) {
        unlike.push([start + found.offset, found.length]);
      }
    }
    return unlike;
  } finally {
    for (const disk of disks) disk.close();
    engine.close();
  }
}

export interface Stored {
  /** Sectors in which the point differs from its base; of a full one, all that hold anything. */
  readonly runs: readonly Run[];
  /** The id of the base; null for a full one. */
  readonly base: string | null;
  /** Bytes of the image. */
  readonly bytes: number;
}

/** What the image of a point of a history is for. Throws USAGE where it is no such point. */
export async function storedBy(point: NamedPoint): Promise<Stored> {
  if (point.history === undefined) {
    throw new AsofError(
      'USAGE',
      `${point.label} is no point of a history`,
      'asof diff LEFT RIGHT --by-file compares any two points',
    );
  }
  const history = new History(point.history);
  let facts: { base: string | null; bytes: number };
  try {
    const { base, image } = history.find(point.id).manifest;
    facts = { base: base?.id ?? null, bytes: image.bytes };
  } finally {
    history.close();
  }
  if (facts.base !== null) {
    const below = openPoint(`${point.history}@${facts.base}`);
    try {
      return { runs: await unlikeSectors(below, point), ...facts };
    } finally {
      below.close();
    }
  }
  const runs: Run[] = [];
  let offset = 0;
  for (const { kind, length } of point.source.extents(0, point.source.size)) {
    if (kind !== 'zero') runs.push([offset, length]);
    offset += length;
  }
  return { runs, ...facts };
}

const newEngine = () =>
  new Engine({ cacheBytes: CACHE, mapBytes: MAP_BYTES, threads: availableParallelism() });
