/**
 * The clusters of a disk, and those of a target that is to equal it: which differ, written, read back.
 *
 * Native threads read, compare and write by the batch; here it is decided which and where. Of a point of a history the target
 * alone is read to compare: its digests have to be those of the hash tree, as has everything that is read to be written.
 * What is zeros is not written but given back.
 *
 * Some clusters are not for these passes (`except`): those that src/mirror.ts writes by itself, of which the bytes are not
 * simply those of the source. All others lie within the source as a whole.
 */
import type { Disk } from '../block/disk.js';
import type { BlockSource } from '../block/source.js';
import { AsofError, errnoOf } from '../errors.js';
import { CLUSTER_KINDS, loadAddon, type NativeImager } from '../native.js';
import { tracked } from './backup-plan.js';
import { ClusterSet } from './cluster-set.js';
import { type FlightOptions, fly } from './flight.js';
import type { Run } from './manifest.js';
import { clustersIn, union } from './restore.js';
import { DIGEST, sha256, type Tree, zeroDigest } from './tree.js';

const SAME = CLUSTER_KINDS.indexOf('same');
const ZERO = CLUSTER_KINDS.indexOf('zero');
const PLAIN = CLUSTER_KINDS.indexOf('plain');

export interface MirrorJob extends Pick<FlightOptions, 'clusterSize' | 'parallel' | 'rate' | 'signal'> {
  /** The source. */
  readonly disk: Disk;
  /** What vouches for every byte of it. */
  readonly tree: Tree | undefined;
  readonly except: { has(cluster: number): boolean };
  readonly imager: NativeImager;
  readonly target: { readonly fd: number; readonly path: string };
  /** Bytes of the pass so far. */
  readonly progress: ((done: number) => void) | undefined;
}

export interface Differing {
  readonly clusters: ClusterSet;
  /** Bytes that were looked at, by clusters; and those of them that are no zeros in one of the two. */
  readonly compared: number;
  readonly held: number;
}

/**
 * `there` is what the target holds, as a disk of the source's size. `extents` is what may differ, undefined where all may.
 * Throws DAMAGED where the source cannot be read, MIRROR_FAILED for what else ends it.
 */
export async function differing(
  job: MirrorJob,
  there: Disk,
  extents: readonly Run[] | undefined,
): Promise<Differing> {
  const { clusterSize, disk, except, tree } = job;
  const clusters = new ClusterSet(Math.ceil(disk.size / clusterSize));
  const zero = zeroDigest(clusterSize);
  let [compared, held] = [0, 0];
  await pass(job, wanted(job, there.source, extents, except), async batch => {
    const kinds = await matches(job, there, batch);
    batch.forEach((cluster, i) => {
      const same = kinds[i] !== PLAIN;
      if (!same) clusters.add(cluster);
      const zeros = tree ? tree.digest(cluster).equals(zero) : kinds[i] === ZERO;
      if (!same || !zeros) held += clusterSize;
    });
    compared += batch.length * clusterSize;
    job.progress?.(compared);
  });
  return { clusters, compared, held };
}

function* wanted(
  { clusterSize, disk, tree }: MirrorJob,
  there: BlockSource,
  extents: readonly Run[] | undefined,
  except: MirrorJob['except'],
): Generator<number, void, undefined> {
  if (extents) {
    for (const { first, end } of tracked(extents, disk.size, clusterSize)) {
      for (let cluster = first; cluster < end; cluster++) if (!except.has(cluster)) yield cluster;
    }
    return;
  }
  const ours = clustersIn({ tree, clusterSize }, disk.source, 0, disk.size);
  const theirs = clustersIn({ tree: undefined, clusterSize }, there, 0, there.size);
  for (const cluster of union(ours, theirs)) if (!except.has(cluster)) yield cluster;
}

/** Of each cluster `plain` where the two differ, else `same`, or `zero` where that is known. */
async function matches(job: MirrorJob, there: Disk, batch: readonly number[]): Promise<Uint8Array> {
  const { clusterSize, disk, imager, tree } = job;
  const numbers = Float64Array.from(batch);
  if (!tree) {
    const { kinds, bad } = await imager.compare(disk.native, there.native, numbers);
    refuseBad(job, bad);
    return kinds;
  }
  const expected = Buffer.alloc(batch.length * DIGEST);
  batch.forEach((cluster, i) => {
    tree.digest(cluster).copy(expected, i * DIGEST);
  });
  const { kinds, bad } = await imager.prepare(there.native, numbers, expected, -1);
  return kinds.map((kind, i) => {
    const start = batch[i]! * clusterSize;
    return kind === SAME && !touches(bad, start, clusterSize) ? SAME : PLAIN;
  });
}

export interface MirrorWritten {
  /** Bytes: written, and made zeros. */
  readonly written: number;
  readonly zeroed: number;
}

/** Writes the source's clusters over those of the target. Throws as `differing`. */
export async function writeClusters(job: MirrorJob, clusters: ClusterSet): Promise<MirrorWritten> {
  const { clusterSize, disk, imager, target, tree } = job;
  let [written, zeroed] = [0, 0];
  await pass(job, clusters, async batch => {
    const found = await imager.prepare(disk.native, Float64Array.from(batch), null, 0);
    try {
      refuseBad(job, found.bad);
      batch.forEach((cluster, i) => {
        const digest = found.digests.subarray(i * DIGEST, (i + 1) * DIGEST);
        if (tree && !tree.digest(cluster).equals(digest)) throw notWhatItWas(cluster, clusterSize);
      });
      const offsets = Float64Array.from(batch, cluster => cluster * clusterSize);
      await imager.store(found.id, target.fd, offsets).catch(cannotWrite(target.path));
    } finally {
      imager.free(found.id);
    }
    const zeros = batch.filter((_, i) => found.kinds[i] === ZERO);
    for (const [first, end] of joined(zeros)) {
      await zeroRange(target, first * clusterSize, (end - first) * clusterSize);
    }
    zeroed += zeros.length * clusterSize;
    written += (batch.length - zeros.length) * clusterSize;
    job.progress?.(written + zeroed);
  });
  return { written, zeroed };
}

/** Reads them back: `there` is opened after they were written. Bytes. Throws MIRROR_FAILED where they are not the source's. */
export async function readBackClusters(job: MirrorJob, there: Disk, clusters: ClusterSet): Promise<number> {
  let bytes = 0;
  await pass(job, clusters, async batch => {
    const kinds = await matches(job, there, batch);
    const wrong = batch.find((_, i) => kinds[i] === PLAIN);
    if (wrong !== undefined) throw notWhatWasWritten(job.target.path, wrong * job.clusterSize);
    bytes += batch.length * job.clusterSize;
    job.progress?.(bytes);
  });
  return bytes;
}

/** The bytes of one cluster of the source, up to its end, as the tree vouches for them. Throws DAMAGED. */
export async function soundCluster(job: MirrorJob, cluster: number): Promise<Buffer> {
  const { clusterSize, disk, tree } = job;
  const start = cluster * clusterSize;
  const bytes = await disk.read(start, Math.min(clusterSize, disk.size - start));
  if (tree && !tree.digest(cluster).equals(sha256(bytes, Buffer.alloc(clusterSize - bytes.length)))) {
    throw notWhatItWas(cluster, clusterSize);
  }
  return bytes;
}

export async function zeroRange(
  { fd, path }: MirrorJob['target'],
  offset: number,
  length: number,
): Promise<void> {
  await loadAddon().zeroRange(fd, offset, length).catch(cannotWrite(path));
}

export function notWhatWasWritten(path: string, offset: number): AsofError {
  const what = `what was read back of ${path} at byte ${offset} is not what was written`;
  return new AsofError('MIRROR_FAILED', what, 'the device may be failing; its log is in dmesg');
}

/** For `catch` of a write. */
export function cannotWrite(path: string): (error: unknown) => never {
  return error => {
    const errno = errnoOf(error);
    if (!errno || error instanceof AsofError) throw error;
    throw new AsofError('MIRROR_FAILED', `cannot write ${path}: ${errno}`, '', { cause: error });
  };
}

async function pass(
  job: MirrorJob,
  clusters: Iterable<number>,
  work: (batch: readonly number[]) => Promise<void>,
): Promise<void> {
  const stopped = () => new AsofError('MIRROR_FAILED', 'the mirror was stopped');
  try {
    await fly(clusters, work, { ...job, stopped });
  } catch (error) {
    const errno = errnoOf(error);
    if (!errno || error instanceof AsofError) throw error;
    throw new AsofError('MIRROR_FAILED', `the source or ${job.target.path} cannot be read: ${errno}`, '', {
      cause: error,
    });
  }
}

function refuseBad({ disk }: MirrorJob, bad: Float64Array): void {
  const [offset, length] = bad;
  if (offset === undefined || length === undefined) return;
  const known = disk.defects().find(one => one.offset <= offset && offset < one.offset + one.length);
  throw new AsofError(
    'DAMAGED',
    `${length} bytes at ${offset} of the source cannot be read${known ? `: ${known.why}` : ''}`,
  );
}

function notWhatItWas(cluster: number, clusterSize: number): AsofError {
  const what = `${clusterSize} bytes at ${cluster * clusterSize} of the source are not those that were backed up`;
  return new AsofError('DAMAGED', what, 'asof verify DIR says what of the history is sound');
}

function touches(runs: Float64Array, start: number, length: number): boolean {
  for (let i = 0; i < runs.length; i += 2) {
    if (runs[i]! < start + length && runs[i]! + runs[i + 1]! > start) return true;
  }
  return false;
}

/** Runs of numbers that follow each other: first, and the one behind the last. */
function* joined(numbers: readonly number[]): Generator<[number, number], void, undefined> {
  for (let i = 0, next = 0; i < numbers.length; i = next) {
    for (next = i + 1; next < numbers.length && numbers[next] === numbers[next - 1]! + 1; ) next++;
    yield [numbers[i]!, numbers[next - 1]! + 1];
  }
}
