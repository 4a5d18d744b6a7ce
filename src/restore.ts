/**
 * Composition of a restore of sectors: a point, or a partition of it, to a file or block device; checked, written, read
 * back, and on a larger disk with its partition table carried on.
 */
import { closeSync, fstatSync, fsync, ftruncateSync, openSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname } from 'node:path';
import { promisify } from 'node:util';
import { Disk } from './block/disk.js';
import { movedGpt, readGpt } from './block/gpt.js';
import { type Partitioned, partitionOf, partitionsOf } from './block/partitions.js';
import { AsofError, errnoOf } from './errors.js';
import { CLUSTER } from './image/qcow2-writer.js';
import {
  bytesHeld,
  type RestoreJob,
  readBack,
  type Unsound,
  within,
  writeAll,
  writePoint,
} from './image/restore.js';
import type { NamedPoint } from './named-point.js';
import { Engine, loadAddon } from './native.js';
import { type Claimed, claimTarget, createTarget, type Target, tooSmall } from './restore-target.js';

export { openPoint } from './named-point.js';
export type { NamedPoint, Unsound };

const CACHE = 64 * 2 ** 20;
const MAP_BYTES = 32 * 2 ** 20;

export interface RestoreProgress {
  readonly phase: 'write' | 'verify';
  /** Bytes. */
  readonly done: number;
  readonly total: number;
}

export interface RestoreOptions {
  readonly partition: number | undefined;
  readonly dryRun: boolean;
  readonly force: boolean;
  readonly verify: boolean;
  readonly ignoreReadErrors: boolean;
  /** Bytes a second; 0 is no limit. */
  readonly rate: number;
  readonly signal: AbortSignal | undefined;
  readonly progress: ((state: RestoreProgress) => void) | undefined;
}

export interface Restored {
  readonly point: string;
  readonly time: string;
  readonly target: Target;
  /** Of the point's disk: what was, or would be, written. Bytes. */
  readonly start: number;
  readonly length: number;
  /** Bytes that are no zeros, by clusters. */
  readonly held: number;
  readonly dryRun: boolean;
  /** Bytes that were written, and read back and found right; null where that was left out. */
  readonly written: number;
  readonly verified: number | null;
  /** The second header of the partition table was, or would be, moved to the end of a larger disk. */
  readonly gptMoved: boolean;
  /** What of the point could not be read, or is not what it was; only with `ignoreReadErrors`. */
  readonly unsound: readonly Unsound[];
  /** The root of the point's hash tree, with which what was read and what was written have been compared. */
  readonly root: string | null;
  readonly milliseconds: number;
}

const sync = promisify(fsync);

/** Throws what claiming the target throws, PARTITION_UNKNOWN, DAMAGED and RESTORE_FAILED. */
export async function restore(point: NamedPoint, path: string, options: RestoreOptions): Promise<Restored> {
  const began = performance.now();
  const engine = new Engine({ cacheBytes: CACHE, mapBytes: MAP_BYTES, threads: availableParallelism() });
  const imager = new (loadAddon().Imager)(availableParallelism(), CLUSTER);
  const disk = new Disk(engine, point.source);
  let claimed: Claimed | undefined;
  try {
    const { start, length } = await rangeOf(disk, point, options.partition);
    refuseBad(point, start, length, options);
    const shape = { disk, tree: point.tree, clusterSize: CLUSTER, start, length };
    const held = bytesHeld(shape);
    const { files, history } = point;
    claimed = await claimTarget(path, { length, held, files, history, force: options.force });
    const { target } = claimed;
    const size = Math.max(target.size, length);
    const gpt = options.partition === undefined && size > length && (await hasGpt(disk));
    const told = {
      point: point.id,
      time: point.time.toISOString(),
      target,
      start,
      length,
      held,
      gptMoved: gpt,
      root: point.tree?.root ?? null,
    };
    const took = () => Math.round(performance.now() - began);
    if (options.dryRun) {
      return { ...told, dryRun: true, written: 0, verified: null, unsound: [], milliseconds: took() };
    }
    const made = target.exists ? undefined : createTarget(target.path);
    const fd = made?.fd ?? claimed.fd;
    const blank = target.kind === 'file' && emptied(fd, size);
    if (!blank && target.size < length) throw tooSmall(target.path, length, target.size);
    let phase: RestoreProgress['phase'] = 'write';
    try {
      const job: RestoreJob = {
        ...shape,
        target: { fd, path: target.path },
        blank,
        engine,
        imager,
        parallel: availableParallelism() + 2,
        rate: options.rate,
        ignoreReadErrors: options.ignoreReadErrors,
        progress: done => options.progress?.({ phase, done, total: held }),
        signal: options.signal,
      };
      const { written, unsound } = await writePoint(job, () => sync(fd));
      if (made) await syncFolder(dirname(target.path));
      phase = 'verify';
      const verified = options.verify ? await readBack(job, unsound) : null;
      if (gpt) await moveGpt(fd, size, disk);
      return { ...told, dryRun: false, written, verified, unsound, milliseconds: took() };
    } catch (error) {
      throw halfWritten(error, target.path, phase);
    } finally {
      made?.close();
    }
  } finally {
    claimed?.close();
    disk.close();
    imager.close();
    engine.close();
  }
}

async function rangeOf(disk: Disk, { label }: NamedPoint, partition: number | undefined) {
  if (partition === undefined) return { start: 0, length: disk.size };
  const { start, size } = await partitionOf(partitioned(disk), partition, label);
  return { start, length: size };
}

export function partitioned(disk: Disk): Partitioned {
  const { size } = disk;
  return {
    size,
    sectorSize: disk.source.sectorSize,
    read: async (offset, length) => {
      const from = Math.min(offset, size);
      return disk.read(from, Math.min(length, size - from));
    },
  };
}

function refuseBad(
  point: NamedPoint,
  start: number,
  length: number,
  { ignoreReadErrors }: RestoreOptions,
): void {
  const [run] = within(point.bad, start, length);
  if (!run || ignoreReadErrors) return;
  throw new AsofError(
    'DAMAGED',
    `${run[1]} bytes at ${run[0]} could not be read when ${point.label} was made`,
    '--ignore-read-errors restores the rest, with zeros there',
  );
}

/** A table that is not sound is copied as it is. */
export async function hasGpt(disk: Disk): Promise<boolean> {
  try {
    const kind = (await partitionsOf(partitioned(disk)))?.kind;
    if (kind !== 'gpt' && kind !== 'hybrid') return false;
    await readGpt(partitioned(disk));
    return true;
  } catch (error) {
    if (error instanceof AsofError) return false;
    throw error;
  }
}

async function moveGpt(fd: number, size: number, disk: Disk): Promise<void> {
  const gpt = await readGpt(partitioned(disk));
  for (const { offset, bytes } of movedGpt(gpt, size, disk.source.sectorSize)) {
    writeAll(fd, bytes, offset);
    await sync(fd);
  }
}

/** Whether a file reads as zeros now; one that keeps its size, such as a live volume, is written as a device is. */
function emptied(fd: number, size: number): boolean {
  try {
    ftruncateSync(fd, 0);
  } catch {
    return false;
  }
  ftruncateSync(fd, size);
  return true;
}

async function syncFolder(path: string): Promise<void> {
  const fd = openSync(path, 'r');
  try {
    if (fstatSync(fd).isDirectory()) await sync(fd);
  } finally {
    closeSync(fd);
  }
}

function halfWritten(error: unknown, path: string, phase: RestoreProgress['phase']): unknown {
  const state =
    phase === 'write' ? `${path} is half-written` : `${path} has been written, and is not to be trusted`;
  if (error instanceof AsofError) {
    const { code, message, hint } = error;
    return new AsofError(code, `${message}; ${state}`, hint, { cause: error });
  }
  const errno = errnoOf(error);
  if (!errno) return error;
  return new AsofError('RESTORE_FAILED', `cannot write ${path}: ${errno}; ${state}`, '', { cause: error });
}
