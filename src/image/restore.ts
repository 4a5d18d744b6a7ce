/**
 * Writes the bytes of a point, or of a part of it, over a file or device, and reads them back.
 *
 * Native threads read, digest and write clusters by the batch; here it is decided which and where. Every cluster that is
 * read is compared with the point's hash tree before it is written, where there is one. What is zeros is not written but
 * given back, so that a file becomes sparse.
 *
 * The first MiB comes last, when all else is on stable storage, and is zeros until then: a target that was left half-written
 * has no file system and no partition table that somebody could take for whole.
 */
import { writeSync } from 'node:fs';
import { setImmediate, setTimeout } from 'node:timers/promises';
import { Disk } from '../block/disk.js';
import { ImageFile } from '../block/file.js';
import { rawLayer } from '../block/raw-file.js';
import { type BlockSource, checkRange } from '../block/source.js';
import { stack } from '../block/stack.js';
import { AsofError, errnoOf } from '../errors.js';
import { CLUSTER_KINDS, type Engine, loadAddon, type NativeImager } from '../native.js';
import { heldBy, inUse } from './backup-plan.js';
import type { Run } from './manifest.js';
import { DIGEST, sha256, type Tree } from './tree.js';

const BATCH = 64;
/** Bytes that are written last. */
const HEAD = 2 ** 20;
/** Bytes of zeros that are asked for at once. */
const ZEROS = 2 ** 30;
/** Runs that are listed. */
const MOST = 10_000;

const SAME = CLUSTER_KINDS.indexOf('same');
const ZERO = CLUSTER_KINDS.indexOf('zero');

export interface RestoreJob {
  /** The whole disk of the point. */
  readonly disk: Disk;
  readonly tree: Tree | undefined;
  /** What of it is written, to byte 0 of the target on. */
  readonly start: number;
  readonly length: number;
  readonly clusterSize: number;
  readonly target: { readonly fd: number; readonly path: string };
  /** The target reads as zeros: a file that has just been emptied. */
  readonly blank: boolean;
  readonly engine: Engine;
  readonly imager: NativeImager;
  readonly parallel: number;
  /** Bytes a second; 0 is no limit. */
  readonly rate: number;
  /** Go on where the point cannot be read or is not what it was: such runs are listed. */
  readonly ignoreReadErrors: boolean;
  readonly progress: ((done: number) => void) | undefined;
  readonly signal: AbortSignal | undefined;
}

export interface Unsound {
  /** Bytes of the point's disk. */
  readonly offset: number;
  readonly length: number;
  readonly why: string;
}

export interface Written {
  /** Bytes of clusters that were written. */
  readonly written: number;
  readonly unsound: readonly Unsound[];
}

/** Clusters of the range that hold anything, rising. */
export function* clustersIn(
  { tree, clusterSize }: Pick<RestoreJob, 'tree' | 'clusterSize'>,
  source: BlockSource,
  start: number,
  length: number,
): Generator<number, void, undefined> {
  const first = Math.floor(start / clusterSize);
  const end = Math.ceil((start + length) / clusterSize);
  if (tree) {
    yield* heldBy(tree, first, end);
    return;
  }
  for (const run of inUse(source, clusterSize)) {
    if (run.first >= end) return;
    for (let c = Math.max(first, run.first); c < Math.min(end, run.end); c++) yield c;
  }
}

/** Throws DAMAGED for what of the point is not sound, RESTORE_FAILED for what else ends it. */
export async function writePoint(job: RestoreJob, sync: () => Promise<void>): Promise<Written> {
  return new Writing(job, sync).run();
}

class Writing {
  readonly #job: RestoreJob;
  readonly #sync: () => Promise<void>;
  readonly #flying = new Set<Promise<void>>();
  readonly #unsound: Unsound[] = [];
  readonly #began = performance.now();
  #written = 0;
  #started = 0;
  #failure: unknown;

  constructor(job: RestoreJob, sync: () => Promise<void>) {
    this.#job = job;
    this.#sync = sync;
  }

  async run(): Promise<Written> {
    const { disk, start, length, blank } = this.#job;
    const later: number[] = [];
    const head = Math.min(HEAD, length);
    if (!blank) await this.#zeros(0, head);
    await this.#sync();
    await this.#clusters(this.#rest(clustersIn(this.#job, disk.source, start, length), head, later));
    await this.#sync();
    await this.#clusters(later);
    await this.#sync();
    this.#unsound.sort((a, b) => a.offset - b.offset);
    return { written: this.#written, unsound: this.#unsound };
  }

  /** What lies behind the head; the gaps become zeros on the way. Clusters of the head are put aside. */
  async *#rest(clusters: Iterable<number>, head: number, later: number[]): AsyncGenerator<number> {
    const { start, length, clusterSize, blank } = this.#job;
    let done = head;
    for (const cluster of clusters) {
      const from = cluster * clusterSize - start;
      if (from < head) {
        later.push(cluster);
        // It may reach beyond the head.
        done = Math.max(done, from + clusterSize);
        continue;
      }
      if (!blank && from > done) await this.#zeros(done, from);
      done = from + clusterSize;
      yield cluster;
    }
    if (!blank && done < length) await this.#zeros(done, length);
  }

  async #zeros(from: number, to: number): Promise<void> {
    const { fd } = this.#job.target;
    for (let at = from; at < to; at += ZEROS) {
      this.#stopped();
      await loadAddon()
        .zeroRange(fd, at, Math.min(ZEROS, to - at))
        .catch((error: unknown) => {
          throw this.#writeFailed(error);
        });
    }
  }

  async #clusters(clusters: AsyncIterable<number> | Iterable<number>): Promise<void> {
    try {
      let batch: number[] = [];
      for await (const cluster of clusters) {
        if (this.#failure !== undefined) break;
        if (!this.#isWhole(cluster)) {
          await this.#edge(cluster);
          continue;
        }
        batch.push(cluster);
        if (batch.length < BATCH) continue;
        await this.#start(batch);
        batch = [];
      }
      if (batch.length > 0) await this.#start(batch);
    } catch (error) {
      this.#failure ??= error;
    }
    await Promise.all(this.#flying);
    // Reads that JavaScript has still to answer end first.
    await setImmediate();
    if (this.#failure !== undefined) throw this.#failure;
  }

  #isWhole(cluster: number): boolean {
    const { start, length, clusterSize } = this.#job;
    const from = cluster * clusterSize - start;
    return from >= 0 && from + clusterSize <= length;
  }

  async #start(batch: readonly number[]): Promise<void> {
    const { clusterSize, parallel, rate, signal } = this.#job;
    this.#stopped();
    if (rate > 0) {
      const wait = (this.#started / rate) * 1000 - (performance.now() - this.#began);
      if (wait > 0) await setTimeout(wait, undefined, { signal }).catch(() => {});
      this.#stopped();
    }
    while (this.#flying.size >= parallel) await Promise.race(this.#flying);
    if (this.#failure !== undefined) return;
    this.#started += batch.length * clusterSize;
    const work: Promise<void> = this.#copy(batch)
      .catch((error: unknown) => {
        this.#failure ??= error;
      })
      .finally(() => this.#flying.delete(work));
    this.#flying.add(work);
  }

  async #copy(batch: readonly number[]): Promise<void> {
    const { blank, clusterSize, disk, imager, start, target } = this.#job;
    const found = await imager
      .prepare(disk.native, Float64Array.from(batch), null, 0)
      .catch((error: unknown) => {
        throw this.#readFailed(error);
      });
    try {
      batch.forEach((cluster, i) => {
        this.#judge(cluster, found.digests.subarray(i * DIGEST, (i + 1) * DIGEST), found.bad);
      });
      const offsets = Float64Array.from(batch, cluster => cluster * clusterSize - start);
      await imager.store(found.id, target.fd, offsets).catch((error: unknown) => {
        throw this.#writeFailed(error);
      });
      for (let i = 0; !blank && i < batch.length; i++) {
        if (found.kinds[i] === ZERO) await this.#zeros(offsets[i]!, offsets[i]! + clusterSize);
      }
    } finally {
      imager.free(found.id);
    }
    this.#count(batch.length * clusterSize);
  }

  /** A cluster of which the target takes a part: where the range, or the disk, begins or ends within it. */
  async #edge(cluster: number): Promise<void> {
    const { clusterSize, disk, start, length, target } = this.#job;
    const at = cluster * clusterSize;
    const bytes = Buffer.alloc(clusterSize);
    const bad: number[] = [];
    const sector = disk.source.sectorSize;
    const end = Math.min(clusterSize, disk.size - at);
    const read = async (offset: number, size: number) => {
      try {
        (await disk.read(at + offset, size)).copy(bytes, offset);
        return true;
      } catch (error) {
        if (!(error instanceof AsofError) || error.code !== 'DAMAGED') throw this.#readFailed(error);
        return false;
      }
    };
    if (!(await read(0, end))) {
      for (let offset = 0; offset < end; offset += sector) {
        const size = Math.min(sector, end - offset);
        if (!(await read(offset, size))) bad.push(at + offset, size);
      }
    }
    this.#judge(cluster, sha256(bytes), Float64Array.from(bad));
    const from = Math.max(start, at);
    const stop = Math.min(start + length, at + clusterSize);
    try {
      writeAll(target.fd, bytes.subarray(from - at, stop - at), from - start);
    } catch (error) {
      throw this.#writeFailed(error);
    }
    this.#count(stop - from);
  }

  /** Throws DAMAGED where the cluster is not what it was, or notes that. */
  #judge(cluster: number, digest: Uint8Array, bad: Float64Array): void {
    const { clusterSize, disk, ignoreReadErrors, tree } = this.#job;
    const offset = cluster * clusterSize;
    const length = Math.min(clusterSize, disk.size - offset);
    const note = (one: Unsound) => {
      if (!ignoreReadErrors) {
        const hint = '--ignore-read-errors goes on, and lists what is not sound';
        throw new AsofError('DAMAGED', `${one.length} bytes at ${one.offset} of the point: ${one.why}`, hint);
      }
      if (this.#unsound.length < MOST) this.#unsound.push(one);
    };
    let unread = false;
    for (let i = 0; i < bad.length; i += 2) {
      const [from = 0, size = 0] = [bad[i], bad[i + 1]];
      if (from + size <= offset || from >= offset + length) continue;
      unread = true;
      const known = disk.defects().find(one => one.offset < from + size && one.offset + one.length > from);
      note({ offset: from, length: size, why: known?.why ?? 'it cannot be read' });
    }
    if (unread || !tree || tree.digest(cluster).equals(digest)) return;
    note({ offset, length, why: 'its bytes are not those that were read from the source' });
  }

  #count(bytes: number): void {
    this.#written += bytes;
    this.#job.progress?.(this.#written);
  }

  #stopped(): void {
    if (this.#job.signal?.aborted) throw new AsofError('RESTORE_FAILED', 'the restore was stopped');
  }

  #readFailed(error: unknown): unknown {
    const errno = errnoOf(error);
    if (!errno || error instanceof AsofError) return error;
    return new AsofError('RESTORE_FAILED', `the point cannot be read: ${errno}`, '', { cause: error });
  }

  #writeFailed(error: unknown): unknown {
    const errno = errnoOf(error);
    if (!errno || error instanceof AsofError) return error;
    return new AsofError('RESTORE_FAILED', `cannot write ${this.#job.target.path}: ${errno}`, '', {
      cause: error,
    });
  }
}

export function writeAll(fd: number, bytes: Uint8Array, offset: number): void {
  for (let done = 0; done < bytes.length; ) {
    done += writeSync(fd, bytes, done, bytes.length - done, offset + done);
  }
}

/**
 * Reads back what `writePoint` wrote, past the kernel's memory as far as that lets itself be emptied, and compares it with
 * the hash tree, or with the point itself where there is none. Bytes compared. Throws RESTORE_FAILED where they differ;
 * clusters that are known to be unsound are left out.
 */
export async function readBack(job: RestoreJob, unsound: readonly Unsound[]): Promise<number> {
  const { clusterSize, disk, engine, imager, tree, start, length } = job;
  loadAddon().dropCache(job.target.fd);
  const file = ImageFile.open(job.target.path);
  const there = new Disk(engine, placed(file, disk.source, start, length));
  const skipped = new Set<number>();
  for (const one of unsound) {
    for (let c = Math.floor(one.offset / clusterSize); c * clusterSize < one.offset + one.length; c++)
      skipped.add(c);
  }
  const differs = (offset: number) => {
    const hint = 'the device may be failing; its log is in dmesg';
    const what = `what was read back of ${job.target.path} at byte ${offset - start} is not what was written`;
    return new AsofError('RESTORE_FAILED', what, hint);
  };
  let bytes = 0;
  let failure: unknown;
  const flying = new Set<Promise<void>>();
  const look = async (batch: readonly number[]) => {
    const clusters = Float64Array.from(batch);
    let expected = Buffer.alloc(batch.length * DIGEST);
    if (tree) {
      batch.forEach((cluster, i) => {
        tree.digest(cluster).copy(expected, i * DIGEST);
      });
    } else expected = Buffer.from((await imager.prepare(disk.native, clusters, null, -1)).digests);
    const found = await imager.prepare(there.native, clusters, expected, -1);
    batch.forEach((cluster, i) => {
      if (found.kinds[i] !== SAME || found.bad.length > 0) throw differs(cluster * clusterSize);
    });
    bytes += batch.length * clusterSize;
    job.progress?.(bytes);
  };
  const edge = async (cluster: number) => {
    const from = Math.max(start, cluster * clusterSize);
    const size = Math.min(start + length, (cluster + 1) * clusterSize) - from;
    const [a, b] = await Promise.all([disk.read(from, size), there.read(from, size)]);
    if (!a.equals(b)) throw differs(from);
    bytes += size;
  };
  try {
    let batch: number[] = [];
    const begin = async () => {
      const now = batch;
      batch = [];
      while (flying.size >= job.parallel) await Promise.race(flying);
      const work: Promise<void> = look(now)
        .catch((error: unknown) => {
          failure ??= error;
        })
        .finally(() => flying.delete(work));
      flying.add(work);
    };
    const wanted = clustersIn(job, disk.source, start, length);
    const held = clustersIn({ tree: undefined, clusterSize }, there.source, start, length);
    for (const cluster of union(wanted, held)) {
      if (job.signal?.aborted) throw new AsofError('RESTORE_FAILED', 'reading back was stopped');
      if (failure !== undefined) break;
      if (skipped.has(cluster)) continue;
      const from = cluster * clusterSize - start;
      if (from < 0 || from + clusterSize > length) await edge(cluster);
      else batch.push(cluster);
      if (batch.length === BATCH) await begin();
    }
    if (batch.length > 0) await begin();
    await Promise.all(flying);
    await setImmediate();
  } catch (error) {
    failure ??= error;
  } finally {
    await Promise.allSettled(flying);
    there.close();
    file.close();
  }
  if (failure === undefined) return bytes;
  if (failure instanceof AsofError) throw failure;
  const errno = errnoOf(failure);
  if (!errno) throw failure;
  throw new AsofError('RESTORE_FAILED', `${job.target.path} cannot be read back: ${errno}`);
}

/** The first `length` bytes of the target as the bytes of the point from `start` on, in a disk like the point's. */
function placed(
  file: ImageFile,
  { size, sectorSize }: BlockSource,
  start: number,
  length: number,
): BlockSource {
  const whole = stack([rawLayer(file)], 512);
  return {
    size,
    sectorSize,
    *extents(offset, wanted) {
      checkRange(size, offset, wanted);
      const end = offset + wanted;
      const [from, to] = [Math.max(offset, start), Math.min(end, start + length)];
      if (to <= from) {
        if (wanted > 0) yield { kind: 'zero', length: wanted };
        return;
      }
      if (from > offset) yield { kind: 'zero', length: from - offset };
      yield* whole.extents(from - start, to - from);
      if (end > to) yield { kind: 'zero', length: end - to };
    },
    close() {},
  };
}

/** Numbers of both, rising, each once. */
export function* union(a: Iterable<number>, b: Iterable<number>): Generator<number, void, undefined> {
  const [left, right] = [a[Symbol.iterator](), b[Symbol.iterator]()];
  let [one, other] = [left.next(), right.next()];
  while (!one.done || !other.done) {
    const x = one.done ? Number.POSITIVE_INFINITY : one.value;
    const y = other.done ? Number.POSITIVE_INFINITY : other.value;
    yield Math.min(x, y);
    if (x <= y) one = left.next();
    if (y <= x) other = right.next();
  }
}

/** Bytes that a sparse file of the range needs at most. */
export function bytesHeld(
  job: Pick<RestoreJob, 'disk' | 'tree' | 'clusterSize' | 'start' | 'length'>,
): number {
  let bytes = 0;
  for (const _ of clustersIn(job, job.disk.source, job.start, job.length)) bytes += job.clusterSize;
  return Math.min(bytes, job.length);
}

/** Runs of `runs` within the range. */
export function within(runs: readonly Run[], start: number, length: number): Run[] {
  return runs
    .map(([offset, size]): Run => {
      const from = Math.max(offset, start);
      return [from, Math.min(offset + size, start + length) - from];
    })
    .filter(([, size]) => size > 0);
}
