/**
 * A snapshot: a moment of one volume. What is recorded of it, and what is told of it.
 *
 * States: live → broken (a copy failed: the provider says so, for good) · unknown (somebody else wrote to the origin, or
 * what was recorded is lost) → deleted. Deleted ones leave their epoch behind, so that what changed since can be told. `none`
 * is what the provider of that name leaves: a moment of which nothing was preserved.
 */
import type { OverlayInfo } from '../block/overlay.js';
import { AsofError } from '../errors.js';
import { momentOf } from '../moment.js';
import type { Worth } from './consistency.js';

export type SnapshotState = 'live' | 'broken' | 'unknown' | 'none';

/** Of state.json. */
export interface SnapshotRecord {
  readonly id: string;
  /** Of the volumes that were taken together; its own id where it was alone. */
  readonly group: string;
  /** How many volumes the group was to have. */
  readonly groupSize: number;
  readonly provider: string;
  /** Milliseconds since 1970. */
  readonly time: number;
  /** The name of its folder: unique within the volume. */
  readonly moment: string;
  /** What it was, not what was hoped for. */
  readonly consistency: Worth;
  /** Nanoseconds for which writers were held, and of them the switch alone. */
  readonly holdNs: number;
  readonly switchNs: number;
  /** The epoch of the volume that it closed (cow), or in which it was made. */
  readonly epoch: number;
  /** Not live for a reason that the provider does not know. */
  readonly state: SnapshotState;
  readonly why: string;
  /** Why what changed since is unknown: tracking was lost. Of tracked snapshots it is absent. */
  readonly lost?: string;
  /** Commands of its job that failed when it was there already. */
  readonly marks?: readonly string[];
  /** It belongs to a lease, which gives ranges of it back, and goes with it. */
  readonly temporary?: true;
}

/** A deleted one. */
export interface SnapshotEpoch {
  readonly id: string;
  readonly group: string;
  readonly provider: string;
  readonly time: number;
  readonly epoch: number;
  readonly lost?: string;
}

export function epochOf({ id, group, provider, time, epoch, lost }: SnapshotEpoch): SnapshotEpoch {
  return { id, group, provider, time, epoch, ...(lost === undefined ? {} : { lost }) };
}

/** As it is told to people and programs. */
export interface SnapshotInfo extends Omit<SnapshotRecord, 'lost'> {
  readonly volume: string;
  readonly volumeId: string;
  /** ISO 8601. */
  readonly at: string;
  /** Bytes. */
  readonly size: number;
  readonly sectorSize: number;
  /** Why its group is not whole any more: members that are broken or gone; '' where it is. */
  readonly groupWhy: string;
  /** Its writable view; null where it has none. */
  readonly overlay: OverlayInfo | null;
}

/** A name for `time` that none of `taken` is: the second, and a number where it is not the first of it. */
export function freeMoment(time: number, taken: Iterable<string>): string {
  const others = new Set(taken);
  const name = momentOf(new Date(time));
  let text = name;
  for (let count = 2; others.has(text); count++) text = `${name}-${count}`;
  return text;
}

interface Identified {
  readonly id: string;
  readonly group: string;
}

/** Of an id as people type it: the beginning will do. */
const SHORTEST = 4;

/**
 * What `text` means among `all`: one by its id, all of a group by the group's, either by a beginning that is unique.
 * Throws SNAPSHOT_UNKNOWN.
 */
export function findSnapshots<T extends Identified>(all: readonly T[], text: string): T[] {
  const wanted = text.toLowerCase();
  const exact = all.filter(one => one.id === wanted);
  if (exact.length > 0) return exact;
  const grouped = all.filter(one => one.group === wanted);
  if (grouped.length > 0) return grouped;
  const starting = wanted.length >= SHORTEST ? all.filter(one => one.id.startsWith(wanted)) : [];
  const groups = wanted.length >= SHORTEST ? all.filter(one => one.group.startsWith(wanted)) : [];
  const meant = starting.length > 0 ? starting : groups;
  const distinct = new Set(meant.map(one => (starting.length > 0 ? one.id : one.group)));
  if (distinct.size === 1) return meant;
  const why = distinct.size > 1 ? `${distinct.size} snapshots begin with` : 'no snapshot has the id';
  throw new AsofError('SNAPSHOT_UNKNOWN', `${why} ${JSON.stringify(text)}`, 'asof snapshot list');
}
