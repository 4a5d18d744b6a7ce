/**
 * Who has what of a volume: a consumer (a backup, most often) has a moment, and asks what changed since.
 *
 * The tracker keeps for each chunk the epoch in which it was last written for the first time, so that what changed since any
 * moment is one comparison: a consumer is the name of a moment, and costs nothing while volumes are written, however many
 * there are. Its moment outlives the snapshot that it was. A marker moves when the consumer says so and never by itself: an
 * image that failed loses no change.
 *
 * States: tracked → unknown (tracking was lost: everything counts as changed, until the next mark).
 */
import { AsofError } from '../errors.js';
import type { SnapshotEpoch } from './snapshot.js';

/** Of state.json. */
export interface Marker {
  readonly consumer: string;
  /** The moment that it has. */
  readonly has: SnapshotEpoch;
  /** Milliseconds since 1970: when it said so. */
  readonly marked: number;
}

/** As it is told to people and programs. */
export interface MarkerInfo {
  readonly consumer: string;
  /** Id of the snapshot, which may be deleted. */
  readonly snapshot: string;
  /** ISO 8601: of the snapshot, and of the mark. */
  readonly at: string;
  readonly marked: string;
  /** `unknown`: everything counts as changed since, and why. */
  readonly state: 'tracked' | 'unknown';
  readonly why: string;
}

/** Letters, digits and what file names may have: it stands in a path of the API. */
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;

/** Markers of one volume; each costs a few hundred bytes in a file that is written anew at each change. */
const MOST = 1024;

/** `markers` with that one. Throws USAGE. */
export function withMarker(markers: readonly Marker[], marker: Marker): Marker[] {
  const { consumer } = marker;
  if (!NAME.test(consumer)) {
    throw new AsofError(
      'USAGE',
      `the consumer's name ${JSON.stringify(consumer)} is not allowed`,
      'allowed are up to 63 letters, digits, dots, dashes and underscores, beginning with a letter or a digit',
    );
  }
  const others = markers.filter(one => one.consumer !== consumer);
  if (others.length >= MOST) {
    throw new AsofError(
      'USAGE',
      `a volume has at most ${MOST} consumers`,
      'asof volume unmark NAME CONSUMER',
    );
  }
  return [...others, marker].sort((a, b) => (a.consumer < b.consumer ? -1 : 1));
}

/** Throws CONSUMER_UNKNOWN. */
export function markerOf(markers: readonly Marker[], consumer: string, volume: string): Marker {
  const marker = markers.find(one => one.consumer === consumer);
  if (marker) return marker;
  const known = markers.map(one => one.consumer).join(', ');
  throw new AsofError(
    'CONSUMER_UNKNOWN',
    `the volume ${volume} has no consumer ${JSON.stringify(consumer)}${known ? `; it has ${known}` : ''}`,
    `asof volume mark ${volume} CONSUMER ID, once it has the snapshot ID`,
  );
}

export function markerInfo({ consumer, has, marked }: Marker): MarkerInfo {
  const why = has.lost ?? '';
  return {
    consumer,
    snapshot: has.id,
    at: new Date(has.time).toISOString(),
    marked: new Date(marked).toISOString(),
    state: why === '' ? 'tracked' : 'unknown',
    why,
  };
}
