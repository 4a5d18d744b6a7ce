/**
 * Copies the clusters of a plan into an image and its hash tree: batches are read, digested, packed and written by
 * native threads, several at a time; here it is decided what is next and where it goes. Clusters may come in any order.
 */
import { setTimeout } from 'node:timers/promises';
import type { Disk } from '../block/disk.js';
import { AsofError, errnoOf } from '../errors.js';
import { CLUSTER_KINDS, type NativeImager, type PreparedClusters } from '../native.js';
import type { Plan } from './backup-plan.js';
import type { Run } from './manifest.js';
import type { Qcow2Writer } from './qcow2-writer.js';
import { DIGEST, type Tree, zeroDigest } from './tree.js';
import type { TreeWriter } from './tree-writer.js';

/** Clusters of a batch: 4 MiB. */
const BATCH = 64;

/** Clusters of zeros that are noted at once. */
const PIECE = 4096;

const SAME = CLUSTER_KINDS.indexOf('same');
const ZERO = CLUSTER_KINDS.indexOf('zero');

export interface CopyOptions {
  readonly disk: Disk;
  readonly clusterSize: number;
  readonly imager: NativeImager;
  readonly writer: Qcow2Writer;
  readonly tree: TreeWriter;
  readonly base: Tree | undefined;
  /** Bytes that are stored whatever the base has. */
  readonly distrusted: readonly Run[];
  /** Of zstd; 0 packs nothing. */
  readonly level: number;
  readonly parallel: number;
  readonly ignoreReadErrors: boolean;
  /** Bytes a second; 0 is no limit. */
  readonly rate: number;
  /** Digest the bytes of the whole disk too, unless something was urgent: then they do not come in their order. */
  readonly whole: boolean;
  /** What to read next, asked before each batch; what is not in the plan is passed over. Bytes. */
  readonly urgent: (() => readonly Run[]) | undefined;
  /** Told first: what is not in the plan, which nobody will read. Bytes. */
  readonly passed?: ((runs: Iterable<Run>) => void) | undefined;
  /** These clusters are in the image; the next batch waits for the answer no longer than for a free place. */
  readonly stored: ((clusters: readonly number[]) => Promise<void> | void) | undefined;
  readonly progress: ((done: CopyCount) => void) | undefined;
  readonly signal: AbortSignal | undefined;
}

export interface CopyCount {
  /** Bytes read of the source, and bytes of the image so far. */
  readonly read: number;
  readonly stored: number;
}

export interface Copied extends CopyCount {
  readonly bad: readonly Run[];
  readonly sha256: string | undefined;
}

/** Throws DAMAGED for a sector that cannot be read, BACKUP_FAILED for what else ends it. */
export async function copyClusters(plan: Plan, options: CopyOptions): Promise<Copied> {
  return new Copy(options).run(plan);
}

class Copy {
  readonly #options: CopyOptions;
  readonly #bad: Run[] = [];
  readonly #distrusted: ReadonlySet<number>;
  readonly #began = performance.now();
  readonly #flying = new Set<Promise<void>>();
  #read = 0;
  /** Bytes of the disk that the whole's digest has had. */
  #hashed = 0;
  /** Batches take their places in the image, and in the whole's digest, in their order. */
  #turn: Promise<void> = Promise.resolve();
  #hashing: Promise<void> = Promise.resolve();
  #whole: boolean;
  #failure: unknown;

  constructor(options: CopyOptions) {
    this.#options = options;
    this.#whole = options.whole;
    const { clusterSize } = options;
    const distrusted = new Set<number>();
    for (const [offset, length] of options.distrusted) {
      for (let c = Math.floor(offset / clusterSize); c * clusterSize < offset + length; c++)
        distrusted.add(c);
    }
    this.#distrusted = distrusted;
  }

  async run(plan: Plan): Promise<Copied> {
    const { imager, disk, writer } = this.#options;
    try {
      const batches = this.#batches(plan);
      for (;;) {
        // What is next is asked as late as can be: others may have made it another.
        await this.#pace();
        await this.#freePlace();
        if (this.#failure !== undefined) break;
        const { value: batch, done } = batches.next();
        if (done) break;
        this.#start(batch);
      }
    } catch (error) {
      this.#failure ??= error;
    }
    await Promise.all(this.#flying);
    if (this.#failure !== undefined) throw this.#failure;
    const sha256 =
      this.#whole && this.#bad.length === 0 ? await imager.wholeDigest(disk.size - this.#hashed) : undefined;
    this.#bad.sort((a, b) => a[0] - b[0]);
    return { read: this.#read, stored: writer.length, bad: this.#bad, sha256: sha256?.toString('hex') };
  }

  /** The plan in batches to be read; what it knows to be zeros is noted on the way. */
  *#batches(plan: Plan): Generator<number[], void, undefined> {
    const { urgent } = this.#options;
    if (urgent) yield* this.#anyOrder(plan, urgent);
    else yield* batchesOf(this.#reads(plan));
  }

  *#reads(plan: Plan): Generator<number, void, undefined> {
    for (const { kind, first, end } of plan) {
      if (kind === 'zero') this.#zeros(first, end);
      else for (let cluster = first; cluster < end; cluster++) yield cluster;
    }
  }

  /** What is urgent first, the rest in rising order. A bit a cluster says what is left. */
  *#anyOrder(plan: Plan, urgent: () => readonly Run[]): Generator<number[], void, undefined> {
    const { clusterSize, disk } = this.#options;
    const left = new Uint8Array(Math.ceil(disk.size / clusterSize / 8));
    const take = (cluster: number): boolean => {
      const bit = 1 << (cluster % 8);
      const at = Math.floor(cluster / 8);
      if ((left[at]! & bit) === 0) return false;
      left[at]! ^= bit;
      return true;
    };
    for (const cluster of this.#reads(plan)) left[Math.floor(cluster / 8)]! |= 1 << (cluster % 8);
    this.#options.passed?.(this.#unset(left));
    let next = 0;
    const clusters = left.length * 8;
    for (;;) {
      const batch: number[] = [];
      for (const [offset, length] of urgent()) {
        const end = Math.ceil((offset + length) / clusterSize);
        for (let c = Math.floor(offset / clusterSize); c < end; c++) if (take(c)) batch.push(c);
      }
      if (batch.length > 0) {
        this.#whole = false;
        yield* batchesOf(batch);
        continue;
      }
      for (; next < clusters && batch.length < BATCH; next++) if (take(next)) batch.push(next);
      if (batch.length === 0) return;
      yield batch;
    }
  }

  /** What no bit stands for, as runs of bytes. */
  *#unset(bits: Uint8Array): Generator<Run, void, undefined> {
    const { clusterSize, disk } = this.#options;
    const clusters = Math.ceil(disk.size / clusterSize);
    const run = (first: number, end: number): Run => [
      first * clusterSize,
      Math.min(end * clusterSize, disk.size) - first * clusterSize,
    ];
    let first = -1;
    for (let c = 0; c < clusters; c++) {
      const byte = bits[Math.floor(c / 8)]!;
      if (c % 8 === 0 && (byte === 0 ? first >= 0 : byte === 255 && first < 0)) {
        c += 7;
        continue;
      }
      if ((byte & (1 << (c % 8))) === 0) {
        if (first < 0) first = c;
      } else if (first >= 0) {
        yield run(first, c);
        first = -1;
      }
    }
    if (first >= 0) yield run(first, clusters);
  }

  #zeros(first: number, end: number): void {
    const { writer, tree, clusterSize } = this.#options;
    const digest = zeroDigest(clusterSize);
    const count = Math.min(PIECE, end - first);
    const kinds = new Uint8Array(count).fill(ZERO);
    const lengths = new Uint32Array(count);
    for (let from = first; from < end; from += PIECE) {
      const clusters = Array.from({ length: Math.min(PIECE, end - from) }, (_, i) => from + i);
      for (const cluster of clusters) tree.set(cluster, digest);
      writer.place(clusters, kinds, lengths);
    }
  }

  async #freePlace(): Promise<void> {
    while (this.#flying.size >= this.#options.parallel) await Promise.race(this.#flying);
  }

  #start(batch: readonly number[]): void {
    const { imager, disk, level } = this.#options;
    const ready = imager.prepare(disk.native, Float64Array.from(batch), this.#expected(batch), level);
    const before = this.#turn;
    let placed: () => void = () => {};
    this.#turn = new Promise(done => {
      placed = done;
    });
    const work = (async () => {
      const prepared = await ready.catch((error: unknown) => {
        throw this.#readFailed(error);
      });
      try {
        await before;
        // Behind one that failed nothing is stored: the image is lost.
        if (this.#failure !== undefined) return;
        const offsets = this.#place(batch, prepared);
        placed();
        await this.#store(batch, prepared, offsets);
      } finally {
        imager.free(prepared.id);
      }
    })()
      .catch((error: unknown) => {
        this.#failure ??= error;
      })
      .finally(placed);
    this.#flying.add(work);
    work.then(() => this.#flying.delete(work));
  }

  #expected(batch: readonly number[]): Uint8Array | null {
    const { base } = this.#options;
    if (!base) return null;
    const expected = Buffer.alloc(batch.length * DIGEST);
    batch.forEach((cluster, i) => {
      if (!this.#distrusted.has(cluster)) base.digest(cluster).copy(expected, i * DIGEST);
    });
    return expected;
  }

  #place(batch: readonly number[], { kinds, lengths, digests, bad }: PreparedClusters): Float64Array {
    const { base, tree, writer } = this.#options;
    if (bad.length > 0) this.#noteBad(bad);
    batch.forEach((cluster, i) => {
      if (kinds[i] === SAME || (kinds[i] === ZERO && !base)) return;
      tree.set(cluster, digests.subarray(i * DIGEST, (i + 1) * DIGEST));
    });
    return writer.place(batch, kinds, lengths);
  }

  async #store(batch: readonly number[], { id }: PreparedClusters, offsets: Float64Array): Promise<void> {
    const { imager, progress, stored, writer } = this.#options;
    const writing = imager.store(id, writer.fd, offsets).catch((error: unknown) => {
      throw this.#writeFailed(error);
    });
    if (this.#whole) this.#hashing = this.#hashing.then(() => this.#hash(batch, id));
    // Both only read the batch, and both must have ended before it is freed.
    const ended = await Promise.allSettled([writing, this.#hashing]);
    for (const one of ended) if (one.status === 'rejected') throw one.reason;
    this.#read += this.#bytesOf(batch);
    await stored?.(batch);
    progress?.({ read: this.#read, stored: writer.length });
  }

  async #hash(batch: readonly number[], id: number): Promise<void> {
    const { clusterSize, disk, imager } = this.#options;
    for (let i = 0, next = 0; i < batch.length; i = next) {
      for (next = i + 1; next < batch.length && batch[next] === batch[next - 1]! + 1; ) next++;
      const start = batch[i]! * clusterSize;
      const end = Math.min(disk.size, (batch[next - 1]! + 1) * clusterSize);
      await imager.hash(id, i, start - this.#hashed, end - start);
      this.#hashed = end;
    }
  }

  #bytesOf(batch: readonly number[]): number {
    const { clusterSize, disk } = this.#options;
    let bytes = 0;
    for (const cluster of batch) bytes += Math.min(clusterSize, disk.size - cluster * clusterSize);
    return bytes;
  }

  #noteBad(bad: Float64Array): void {
    const { disk, ignoreReadErrors } = this.#options;
    if (!ignoreReadErrors) {
      const [offset = 0, length = 0] = bad;
      const sector = disk.source.sectorSize;
      const known = disk.defects().find(one => one.offset <= offset && offset < one.offset + one.length);
      throw new AsofError(
        'DAMAGED',
        `sector ${Math.floor(offset / sector)} of the source (byte ${offset}) cannot be read${known ? `: ${known.why}` : ''}; ${length / sector} in a row`,
        '--ignore-read-errors goes on without such sectors, and lists them',
      );
    }
    for (let i = 0; i < bad.length; i += 2) this.#bad.push([bad[i]!, bad[i + 1]!]);
  }

  async #pace(): Promise<void> {
    const { clusterSize, rate, signal } = this.#options;
    if (rate > 0) {
      const due = ((this.#read + this.#flying.size * BATCH * clusterSize) / rate) * 1000;
      const wait = due - (performance.now() - this.#began);
      if (wait > 0) await setTimeout(wait, undefined, { signal }).catch(() => {});
    }
    if (signal?.aborted) throw new AsofError('BACKUP_FAILED', 'the backup was stopped');
  }

  #readFailed(error: unknown): unknown {
    const errno = errnoOf(error);
    if (!errno || error instanceof AsofError) return error;
    return new AsofError('BACKUP_FAILED', `the source cannot be read: ${errno}`, '', { cause: error });
  }

  #writeFailed(error: unknown): unknown {
    const errno = errnoOf(error);
    if (!errno) return error;
    return new AsofError(
      'BACKUP_FAILED',
      `cannot write ${this.#options.writer.path}: ${errno}`,
      spaceHint(errno),
      {
        cause: error,
      },
    );
  }
}

export function spaceHint(errno: string): string {
  return errno === 'ENOSPC' || errno === 'EDQUOT' ? 'make room there; the history is as it was' : '';
}

function* batchesOf(clusters: Iterable<number>): Generator<number[], void, undefined> {
  let batch: number[] = [];
  for (const cluster of clusters) {
    batch.push(cluster);
    if (batch.length < BATCH) continue;
    yield batch;
    batch = [];
  }
  if (batch.length > 0) yield batch;
}
