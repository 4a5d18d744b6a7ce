/**
 * Which clusters a backup reads, and which it knows to be zeros without reading: runs in rising order, lazily, so that a
 * sparse disk of any size costs what its runs cost.
 */
import type { BlockSource } from '../block/source.js';
import { firstBehind } from './left-out.js';
import type { Run } from './manifest.js';
import { emptyPages, FANOUT, LEVELS, type Tree } from './tree.js';

/** Clusters [first, end): to be read, or zeros where the base has something else. */
export interface PlannedRun {
  readonly kind: 'read' | 'zero';
  readonly first: number;
  readonly end: number;
}

export type Plan = Iterable<PlannedRun>;

/** What the source says to hold anything. */
export function* inUse(source: BlockSource, cluster: number): Generator<PlannedRun, void, undefined> {
  let offset = 0;
  let first = 0;
  let end = 0;
  for (const run of source.extents(0, source.size)) {
    const from = Math.floor(offset / cluster);
    offset += run.length;
    if (run.kind === 'zero') continue;
    if (from > end) {
      if (end > first) yield { kind: 'read', first, end };
      first = from;
    }
    end = Math.ceil(offset / cluster);
  }
  if (end > first) yield { kind: 'read', first, end };
}

/** What the source says to hold anything; of the rest, what the base does not know as zeros. */
export function* whatMayDiffer(
  source: BlockSource,
  cluster: number,
  base: Tree,
): Generator<PlannedRun, void, undefined> {
  let done = 0;
  for (const run of inUse(source, cluster)) {
    yield* zeros(base, done, run.first);
    yield run;
    done = run.end;
  }
  yield* zeros(base, done, Math.ceil(source.size / cluster));
}

/** What a tracker named, and clusters that are to be read whatever it says. Runs are bytes. */
export function* tracked(
  extents: Iterable<Run>,
  size: number,
  cluster: number,
): Generator<PlannedRun, void, undefined> {
  const clusters = [...extents]
    .map(([offset, length]): [number, number] => [
      Math.floor(offset / cluster),
      Math.ceil(Math.min(size, offset + length) / cluster),
    ])
    .filter(([from, to]) => to > from)
    .sort((a, b) => a[0] - b[0]);
  let [first, end] = [0, 0];
  for (const [from, to] of clusters) {
    if (from > end) {
      if (end > first) yield { kind: 'read', first, end };
      first = from;
    }
    end = Math.max(end, to);
  }
  if (end > first) yield { kind: 'read', first, end };
}

/**
 * `plan`, of which clusters that lie in `runs` as a whole, which read as zeros, are not read: they are stored where the base has
 * other.
 */
export function* sparing(
  plan: Plan,
  runs: readonly Run[],
  size: number,
  base: Tree,
): Generator<PlannedRun, void, undefined> {
  const cluster = base.clusterSize;
  for (const one of plan) {
    let { first } = one;
    for (let i = firstBehind(runs, first * cluster); i < runs.length && first < one.end; i++) {
      const [start, length] = runs[i]!;
      const from = Math.max(first, Math.ceil(start / cluster));
      if (from >= one.end) break;
      const last = start + length;
      const end = Math.min(one.end, last === size ? Math.ceil(last / cluster) : Math.floor(last / cluster));
      if (end <= from) continue;
      if (from > first) yield { kind: 'read', first, end: from };
      yield* zeros(base, from, end);
      first = end;
    }
    if (first < one.end) yield { ...one, first };
  }
}

function* zeros(base: Tree, from: number, to: number): Generator<PlannedRun, void, undefined> {
  let run: { first: number; end: number } | undefined;
  for (const cluster of heldBy(base, from, to)) {
    if (run?.end === cluster) run.end++;
    else {
      if (run) yield { kind: 'zero', ...run };
      run = { first: cluster, end: cluster + 1 };
    }
  }
  if (run) yield { kind: 'zero', ...run };
}

/** Clusters of [from, to) that are no zeros: pages of nothing but zeros are passed over, however large. */
export function* heldBy(tree: Tree, from: number, to: number): Generator<number, void, undefined> {
  yield* within(tree, LEVELS - 1, 0, from, to);
}

function* within(
  tree: Tree,
  level: number,
  index: number,
  from: number,
  to: number,
): Generator<number, void, undefined> {
  const reach = FANOUT ** level;
  const start = index * FANOUT * reach;
  const page = tree.page(level, index);
  const empty = emptyPages(tree.clusterSize)[level]!;
  const first = Math.max(0, Math.floor((from - start) / reach));
  const last = Math.min(FANOUT, Math.ceil((to - start) / reach));
  for (let i = first; i < last; i++) {
    if (page.compare(empty, i * 32, i * 32 + 32, i * 32, i * 32 + 32) === 0) continue;
    if (level === 0) yield start + i;
    else yield* within(tree, level - 1, index * FANOUT + i, from, to);
  }
}
