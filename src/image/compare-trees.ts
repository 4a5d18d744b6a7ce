/**
 * Which clusters of two points differ, by their hash trees: pages that are the same are passed over whole, so that the cost
 * is that of what differs, and no byte of the disks is read.
 */

import type { Run } from './manifest.js';
import { union } from './restore.js';
import { DIGEST, FANOUT, LEVELS, type Tree } from './tree.js';

/** Clusters of [first, end), rising. Both trees have clusters of one size. Throws HISTORY_DAMAGED. */
export function* unlikeClusters(
  a: Tree,
  b: Tree,
  first: number,
  end: number,
): Generator<number, void, undefined> {
  yield* unlike(a, b, LEVELS - 1, 0, first, end);
}

function* unlike(
  a: Tree,
  b: Tree,
  level: number,
  index: number,
  first: number,
  end: number,
): Generator<number, void, undefined> {
  const [left, right] = [a.page(level, index), b.page(level, index)];
  if (left.equals(right)) return;
  const reach = FANOUT ** level;
  const start = index * FANOUT * reach;
  const from = Math.max(0, Math.floor((first - start) / reach));
  const to = Math.min(FANOUT, Math.ceil((end - start) / reach));
  for (let i = from; i < to; i++) {
    const at = i * DIGEST;
    if (left.compare(right, at, at + DIGEST, at, at + DIGEST) === 0) continue;
    if (level === 0) yield start + i;
    else yield* unlike(a, b, level - 1, index * FANOUT + i, first, end);
  }
}

/** Runs of bytes: the clusters that differ, and those in which either of the points has sectors that could not be read. */
export function* unlikeRuns(
  a: Tree,
  b: Tree,
  bad: readonly Run[],
  start: number,
  length: number,
): Generator<Run, void, undefined> {
  const size = a.clusterSize;
  const first = Math.floor(start / size);
  const end = Math.ceil((start + length) / size);
  let run: [number, number] | undefined;
  const clipped = ([from, to]: [number, number]): Run => {
    const begin = Math.max(start, from * size);
    return [begin, Math.min(start + length, to * size) - begin];
  };
  for (const cluster of union(unlikeClusters(a, b, first, end), clustersOf(bad, size, first, end))) {
    if (run?.[1] === cluster) run[1]++;
    else {
      if (run) yield clipped(run);
      run = [cluster, cluster + 1];
    }
  }
  if (run) yield clipped(run);
}

function* clustersOf(runs: readonly Run[], size: number, first: number, end: number): Generator<number> {
  let next = first;
  for (const [offset, length] of [...runs].sort((x, y) => x[0] - y[0])) {
    const from = Math.max(next, Math.floor(offset / size));
    next = Math.max(next, Math.min(end, Math.ceil((offset + length) / size)));
    for (let cluster = from; cluster < next; cluster++) yield cluster;
  }
}
