/**
 * Verifies a point: that its image, its tree and its manifest belong together, and that what is stored has the digests
 * that were taken when the source was read. A new image is verified by the same code before it gets its name: that is
 * its proof.
 *
 * `stored` reads what the image itself holds: over all points of a history, every stored byte once. `deep` reads the
 * whole disk through its chain, as a mount shows it.
 */
import { setImmediate } from 'node:timers/promises';
import { Disk } from '../block/disk.js';
import type { LayerExtent } from '../block/extent.js';
import type { BlockSource, Layer } from '../block/source.js';
import { stack } from '../block/stack.js';
import { AsofError } from '../errors.js';
import { CLUSTER_KINDS, type Engine, loadAddon, type NativeImager } from '../native.js';
import { heldBy } from './backup-plan.js';
import type { History, HistoryPoint } from './history.js';
import { metadataDigest } from './qcow2-metadata.js';
import { DIGEST, FANOUT, type Tree } from './tree.js';
import type { StoredDefect, Verified } from './verification.js';

const BATCH = 64;
const SAME = CLUSTER_KINDS.indexOf('same');
/** Clusters in a row that belong to one part of a sample. */
const STRIDE = 64;
/** Defects that are listed. */
const MOST = 10_000;

export interface VerifyOptions {
  readonly engine: Engine;
  readonly imager: NativeImager;
  /** Batches at a time. */
  readonly parallel: number;
  readonly deep: boolean;
  /** Part N (from 1) of T. */
  readonly sample: readonly [number, number] | null;
  readonly progress?: ((bytes: number) => void) | undefined;
}

/** Never throws for what is wrong with the point; that is the result. */
export async function verifyPoint(
  history: History,
  point: HistoryPoint,
  options: VerifyOptions,
): Promise<Verified> {
  const faults: string[] = [];
  const defects: StoredDefect[] = [];
  let bytes = 0;
  const attempt = async (work: () => Promise<void> | void) => {
    try {
      await work();
    } catch (error) {
      if (!(error instanceof AsofError)) throw error;
      faults.push(error.message);
    }
  };
  await attempt(async () => {
    history.chain(point);
    const tree = history.tree(point);
    const image = history.image(point);
    await attempt(() => tree.check());
    const found = metadataDigest(image.file);
    if (found !== point.manifest.image.metadata) {
      faults.push(`${image.file.path}: its metadata is not what was written`);
    }
    await attempt(() => {
      history.leftOut(point);
    });
    for (const trouble of image.troubles) faults.push(`${image.file.path}: ${trouble}`);
    loadAddon().dropCache(image.file.fd);
    // Filled places have digests like any other: a mount shows errors there, here they are compared.
    const source = options.deep ? wholeOf(history, point) : storedOf(history, point);
    bytes = await digests(source, looked(history, point, tree, options), tree, options, defect => {
      if (defects.length < MOST) defects.push(defect);
    });
  });
  return {
    time: new Date().toISOString(),
    depth: options.deep ? 'deep' : 'stored',
    sample: options.sample,
    sound: faults.length === 0 && defects.length === 0,
    bytes,
    faults,
    defects,
  };
}

function storedOf(history: History, point: HistoryPoint): BlockSource {
  return clipped(stack([history.layer(point)], 512), point.manifest.disk.size);
}

function wholeOf(history: History, point: HistoryPoint): BlockSource {
  const layers = history.chain(point).map(one => history.layer(one));
  return clipped(stack(layers, 512), point.manifest.disk.size);
}

/** The first `size` bytes: an image's own size is a whole number of sectors. */
function clipped(source: BlockSource, size: number): BlockSource {
  return { ...source, size, extents: (offset, length) => source.extents(offset, length), close() {} };
}

/** Clusters to look at: what is there, and what should be. */
function* looked(
  history: History,
  point: HistoryPoint,
  tree: Tree,
  { deep, sample }: VerifyOptions,
): Generator<number, void, undefined> {
  const { size, clusterSize } = point.manifest.disk;
  const layer = deep ? wholeOf(history, point) : history.layer(point);
  const all = point.manifest.base && !deep ? own(history, point, tree, layer) : whole(tree, layer, size);
  for (const cluster of all) {
    const part = Math.floor(cluster / STRIDE);
    if (sample === null || part % sample[1] === sample[0] - 1) {
      if (cluster * clusterSize < size) yield cluster;
    }
  }
}

/** Of a disk without a base: what holds anything, and what the tree knows to hold something. */
function* whole(tree: Tree, layer: Layer, size: number): Generator<number, void, undefined> {
  let done = 0;
  for (const [first, end] of held(layer, size, tree.clusterSize, run => run === 'absent' || run === 'zero')) {
    yield* heldBy(tree, done, first);
    for (let cluster = first; cluster < end; cluster++) yield cluster;
    done = end;
  }
  yield* heldBy(tree, done, Math.ceil(size / tree.clusterSize));
}

/** Of an image over a base: what it says anything of, and what its tree says to have changed. */
function* own(
  history: History,
  point: HistoryPoint,
  tree: Tree,
  layer: Layer,
): Generator<number, void, undefined> {
  const { clusterSize } = tree;
  for (const [first, end] of held(layer, layer.size, clusterSize, run => run === 'absent')) {
    for (let cluster = first; cluster < end; cluster++) yield cluster;
  }
  const before = history.tree(history.chain(point)[1]!);
  for (const index of tree.files[0]!.pages(0)) {
    const [page, old] = [tree.page(0, index), before.page(0, index)];
    for (let i = 0; i < FANOUT; i++) {
      if (page.compare(old, i * DIGEST, (i + 1) * DIGEST, i * DIGEST, (i + 1) * DIGEST) === 0) continue;
      const cluster = index * FANOUT + i;
      const [run] = layer.extents(
        cluster * clusterSize,
        Math.min(clusterSize, layer.size - cluster * clusterSize),
      );
      if (run?.kind === 'absent') yield cluster;
    }
  }
}

/** Runs of clusters, first and behind the last, that are not left out; clusters of a run are whole. */
export function* held(
  layer: Layer,
  size: number,
  clusterSize: number,
  leftOut: (kind: LayerExtent['kind']) => boolean,
): Generator<readonly [number, number], void, undefined> {
  let offset = 0;
  let done = 0;
  for (const run of layer.extents(0, size)) {
    const first = Math.max(done, Math.floor(offset / clusterSize));
    offset += run.length;
    if (leftOut(run.kind)) continue;
    done = Math.ceil(offset / clusterSize);
    if (done > first) yield [first, done];
  }
}

/** Reads clusters and compares them with what the tree says; the bytes that were. */
export async function digests(
  source: BlockSource,
  clusters: Iterable<number>,
  tree: Tree,
  options: Pick<VerifyOptions, 'engine' | 'imager' | 'parallel' | 'progress'>,
  defect: (found: StoredDefect) => void,
): Promise<number> {
  const { engine, imager, parallel, progress } = options;
  const { clusterSize } = tree;
  const disk = new Disk(engine, source);
  const flying = new Set<Promise<void>>();
  let bytes = 0;
  let failure: unknown;
  const look = async (batch: readonly number[]) => {
    const expected = Buffer.alloc(batch.length * DIGEST);
    batch.forEach((cluster, i) => {
      expected.set(tree.digest(cluster), i * DIGEST);
    });
    const found = await imager.prepare(disk.native, Float64Array.from(batch), expected, -1);
    imager.free(found.id);
    batch.forEach((cluster, i) => {
      const offset = cluster * clusterSize;
      const length = Math.min(clusterSize, source.size - offset);
      bytes += length;
      const bad = unreadable(found.bad, offset, length);
      if (found.kinds[i] === SAME && !bad) return;
      const why = bad
        ? (disk.defects().find(one => one.offset < offset + length && one.offset + one.length > offset)
            ?.why ?? 'it cannot be read')
        : 'its bytes are not those that were read from the source';
      defect({ offset, length, why });
    });
    progress?.(bytes);
  };
  const start = async (batch: readonly number[]) => {
    while (flying.size >= parallel) await Promise.race(flying);
    const work: Promise<void> = look(batch)
      .catch((error: unknown) => {
        failure ??= error;
      })
      .finally(() => flying.delete(work));
    flying.add(work);
  };
  try {
    let batch: number[] = [];
    for (const cluster of clusters) {
      batch.push(cluster);
      if (batch.length < BATCH) continue;
      await start(batch);
      batch = [];
      if (failure !== undefined) break;
    }
    if (batch.length > 0 && failure === undefined) await start(batch);
    await Promise.all(flying);
    // Reads that JavaScript has still to answer end first.
    await setImmediate();
  } finally {
    await Promise.allSettled(flying);
    disk.close();
  }
  if (failure !== undefined) throw failure;
  return bytes;
}

function unreadable(bad: Float64Array, offset: number, length: number): boolean {
  for (let i = 0; i < bad.length; i += 2) {
    if (bad[i]! < offset + length && bad[i]! + bad[i + 1]! > offset) return true;
  }
  return false;
}
