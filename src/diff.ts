/**
 * Composition of `asof diff`: two points side by side, by sectors or by the files of their file systems. Sectors of two points
 * of histories are compared by their hash trees, and only what differs in those is read.
 */
import { availableParallelism } from 'node:os';
import { Disk } from './block/disk.js';
import { partitionOf } from './block/partitions.js';
import { window } from './block/window.js';
import { compare, type Readable, type Difference as Unlike } from './image/compare.js';
import { unlikeRuns } from './image/compare-trees.js';
import { firstBehind } from './image/left-out.js';
import { joinRuns, type Run } from './image/manifest.js';
import type { NamedPoint } from './named-point.js';
import { Engine } from './native.js';
import { partitioned } from './restore.js';

export { type ComparedFile, compareFiles } from './compare-files.js';
export { FileView } from './file-view.js';
export { type NamedPoint, openPoint } from './named-point.js';

/** `left-out`: one of the points does not say what its source had here: unused space, or swap. */
export interface Difference extends Omit<Unlike, 'kind'> {
  readonly kind: Unlike['kind'] | 'left-out';
}

const CACHE = 64 * 2 ** 20;
const MAP_BYTES = 32 * 2 ** 20;

export interface Sectors {
  /** `digests`: only what differs is read. `bytes`: what does not live at one place is read, of both. */
  readonly method: 'digests' | 'bytes';
  /** Bytes that both have. */
  readonly both: number;
  /** In order, of the disks or of the partition. */
  readonly differences: AsyncIterable<Difference>;
  close(): void;
}

/** The points stay open, and belong to the caller. Throws PARTITION_UNKNOWN. */
export async function compareSectors(
  left: NamedPoint,
  right: NamedPoint,
  partition: number | undefined,
): Promise<Sectors> {
  const engine = new Engine({ cacheBytes: CACHE, mapBytes: MAP_BYTES, threads: availableParallelism() });
  const disks = [left, right].map(point => new Disk(engine, { ...point.source, close() {} }));
  const close = () => {
    for (const disk of disks) disk.close();
    engine.close();
  };
  try {
    const [one, other] = await Promise.all([
      rangeOf(disks[0]!, left, partition),
      rangeOf(disks[1]!, right, partition),
    ]);
    const both = Math.min(one.length, other.length);
    const { tree: a, bad } = left;
    const b = right.tree;
    const known = a && b && a.clusterSize === b.clusterSize && one.start === other.start;
    const part = (disk: Disk, start: number, length: number): Readable => ({
      source: window(disk.source, start, length),
      read: (offset, size) => disk.read(start + offset, size),
    });
    async function* byDigests() {
      for (const [start, length] of unlikeRuns(a!, b!, [...bad, ...right.bad], one.start, both)) {
        for await (const found of compare(part(disks[0]!, start, length), part(disks[1]!, start, length))) {
          yield { ...found, offset: found.offset + start - one.start };
        }
      }
      if (one.length > both) yield { kind: 'only-a', offset: both, length: one.length - both } as const;
      if (other.length > both) yield { kind: 'only-b', offset: both, length: other.length - both } as const;
    }
    const whole = () =>
      compare(part(disks[0]!, one.start, one.length), part(disks[1]!, other.start, other.length));
    const leftOut = joinRuns([...from(left.leftOut(), one.start), ...from(right.leftOut(), other.start)]);
    const differences = apart(known ? byDigests() : whole(), leftOut);
    return { method: known ? 'digests' : 'bytes', both, differences, close };
  } catch (error) {
    close();
    throw error;
  }
}

/** The same, counted from `start`. */
const from = (runs: readonly Run[], start: number) => runs.map(([at, length]): Run => [at - start, length]);

/** What differs and is left out by one of the two is no difference. */
async function* apart(
  found: AsyncIterable<Unlike>,
  leftOut: readonly Run[],
): AsyncGenerator<Difference, void, undefined> {
  for await (const one of found) {
    let { offset } = one;
    const end = offset + one.length;
    for (let i = firstBehind(leftOut, offset); one.kind === 'different' && offset < end; i++) {
      const [start, length] = leftOut[i] ?? [end, 0];
      if (start >= end) break;
      if (start > offset) yield { ...one, offset, length: start - offset };
      const first = Math.max(start, offset);
      offset = Math.min(end, start + length);
      yield { kind: 'left-out', offset: first, length: offset - first };
    }
    if (offset < end) yield { ...one, offset, length: end - offset };
  }
}

async function rangeOf(disk: Disk, { label }: NamedPoint, partition: number | undefined) {
  if (partition === undefined) return { start: 0, length: disk.size };
  const { start, size } = await partitionOf(partitioned(disk), partition, label);
  return { start, length: size };
}
