/**
 * What was written to a volume between two moments, as its engine and its snapshots tell it: piece by piece, so that an answer
 * takes bounded memory, and never less than what changed.
 */
import type { NativeCowVolume } from '../native.js';
import { providerNamed } from './providers.js';
import type { SnapshotEpoch, SnapshotInfo } from './snapshot.js';

/** Runs that are asked of the engine at once: what an answer holds in memory, whatever the size of the volume. */
const RUNS_AT_ONCE = 8192;

/** What stands at the end of an answer. */
export interface ChangesEnd {
  /** How they were found: the tracker told, or nothing could, and everything counts as changed. */
  readonly method: 'tracked' | 'none';
  readonly exact: boolean;
  readonly why: string;
}

/** Runs, piece by piece: start and length in bytes alternate. They never hold less than what changed. */
export type Changes = AsyncGenerator<Float64Array, ChangesEnd, undefined>;

/** Since `since` (undefined: since the volume was added), up to the live snapshot `until` (undefined: up to now). */
export async function* changedBetween(
  native: NativeCowVolume,
  size: number,
  since: SnapshotEpoch | undefined,
  until: SnapshotInfo | undefined,
): Changes {
  const rough = [since, until].find(one => one !== undefined && !providerNamed(one.provider).can.tracked);
  const why = new Set<string>();
  if (rough) {
    why.add(`a snapshot of ${rough.provider} does not split what was written before it from what came after`);
  }
  if (since?.lost !== undefined) {
    yield Float64Array.of(0, size);
    return { method: 'none', exact: false, why: since.lost };
  }
  // A snapshot that closed no epoch lies somewhere in it: what was written before or after in it counts as well.
  const from = since === undefined ? 0 : rough === since ? Math.max(0, since.epoch - 1) : since.epoch;
  const to = until === undefined || !providerNamed(until.provider).can.tracked ? 0 : until.epoch;
  let exact = rough === undefined;
  if (until && native.snapshots().some(one => one.id === until.id && one.releasedChunks > 0)) {
    exact = false;
    why.add(`what was released of the snapshot ${until.id} counts as changed where it was written later`);
  }
  let everything = false;
  // A run may go on in the next piece.
  let open: [start: number, length: number] | undefined;
  for (let at = 0; at < size; ) {
    const piece = await native.changes(from, to, at, RUNS_AT_ONCE);
    if (piece.why !== '') why.add(piece.why);
    if (!piece.exact) exact = false;
    const { runs } = piece;
    if (at === 0) everything = !piece.exact && runs.length === 2 && runs[0] === 0 && runs[1] === size;
    at = piece.next;
    if (runs.length === 0) continue;
    if (open && open[0] + open[1] === runs[0]) {
      runs[0] = open[0];
      runs[1]! += open[1];
    } else if (open) yield Float64Array.from(open);
    open = [runs.at(-2)!, runs.at(-1)!];
    if (runs.length > 2) yield runs.subarray(0, -2);
  }
  if (open) yield Float64Array.from(open);
  return { method: everything ? 'none' : 'tracked', exact, why: [...why].join('; ') };
}
