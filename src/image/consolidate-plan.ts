/**
 * How points leave a history: which are deleted, which are merged into the one point that stands on them, in which order,
 * and which stay although nobody wants them, because several points stand on them. Pure. The oldest are merged first: so
 * each image is copied once.
 */
import type { HistoryPoint } from './history.js';

export interface Action {
  readonly point: HistoryPoint;
  /** The point that it becomes one with; null where it is deleted. */
  readonly into: HistoryPoint | null;
}

export interface Stays {
  readonly point: HistoryPoint;
  readonly why: string;
}

export interface ConsolidationPlan {
  readonly actions: readonly Action[];
  readonly stays: readonly Stays[];
}

/** `points` are oldest first; `going` are the ids of those that are to leave. */
export function planConsolidation(
  points: readonly HistoryPoint[],
  going: ReadonlySet<string>,
): ConsolidationPlan {
  const byId = new Map(points.map(point => [point.manifest.id, point]));
  const base = new Map(points.map(({ manifest }) => [manifest.id, manifest.base?.id]));
  const above = new Map<string, Set<string>>();
  for (const [id, below] of base) {
    if (below === undefined) continue;
    const set = above.get(below) ?? new Set();
    above.set(below, set.add(id));
  }
  const actions: Action[] = [];
  const left = points.filter(({ manifest }) => going.has(manifest.id));
  const standsOn = (id: string) => above.get(id) ?? new Set<string>();
  const leave = (point: HistoryPoint, into: HistoryPoint | null) => {
    const { id } = point.manifest;
    const below = base.get(id);
    if (below !== undefined) above.get(below)?.delete(id);
    if (into) {
      base.set(into.manifest.id, below);
      if (below !== undefined) above.get(below)?.add(into.manifest.id);
    }
    actions.push({ point, into });
    left.splice(left.indexOf(point), 1);
  };
  for (let before = -1; before !== actions.length; ) {
    before = actions.length;
    for (const point of left.toReversed()) if (standsOn(point.manifest.id).size === 0) leave(point, null);
    for (const point of [...left]) {
      const [only, ...others] = standsOn(point.manifest.id);
      const into = only === undefined ? undefined : byId.get(only);
      if (into && others.length === 0 && sameDisk(point, into)) leave(point, into);
    }
  }
  const stays = left.map(point => {
    const count = standsOn(point.manifest.id).size;
    const why = count > 1 ? `${count} points stand on it` : 'the disk of the point on it has another size';
    return { point, why };
  });
  return { actions, stays };
}

function sameDisk({ manifest: { disk: a } }: HistoryPoint, { manifest: { disk: b } }: HistoryPoint): boolean {
  return a.size === b.size && a.clusterSize === b.clusterSize;
}
