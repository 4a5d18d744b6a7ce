/**
 * The points of a chain: every moment of the disk that its files hold. Each member's current state is one, at the
 * time when its file was last written, and so is each internal snapshot of each member.
 */
import { basename } from 'node:path';
import type { BlockSource, Layer } from '../block/source.js';
import { stack } from '../block/stack.js';
import { AsofError } from '../errors.js';
import { endOfTime, momentOf } from '../moment.js';
import { badRunsBeside, withBad } from './bad-runs.js';
import type { Chain } from './chain.js';
import type { StoredDigest } from './format.js';
import { type ShadowInfo, shadowPointsOf } from './shadow-points.js';

export interface Point {
  /** Unique within the chain and the same at every opening: the file's name, or `FILE#ID` for a snapshot. */
  readonly id: string;
  /** The tag of a snapshot, the name of a file. */
  readonly name: string;
  readonly time: Date;
  readonly kind: 'image' | 'snapshot' | 'shadow copy';
  /** Bytes of the disk at that moment. */
  readonly size: number;
  /** Path of the member that holds it. */
  readonly member: string;
  /** Bytes of saved machine state beside the disk; 0 where there is none. */
  readonly vmStateSize: number;
  /** The name of its folder in a mount, such as 2026-11-21T10-15-00Z; unique within the chain. */
  readonly moment: string;
  /** Digests of the disk at that moment that the image carries. */
  readonly digests: readonly StoredDigest[];
  /** Of a shadow copy: where it comes from, and what it says of itself. */
  readonly shadow?: ShadowInfo;
  /** The disk of that moment. Closing it closes no file: the chain owns them. */
  open(): BlockSource;
}

/** Before folders are named. */
export type UnnamedPoint = Omit<Point, 'moment'>;

/**
 * The points of `chain`, newest first as the chain is built: the named image, its snapshots, the shadow copies inside it,
 * its parent, and so on. (The times of files say less: a copy may have changed them.) The first is the newest.
 */
export function points(chain: Chain, shadows = shadowPointsOf(chain)): Point[] {
  const { members } = chain;
  const found: UnnamedPoint[] = [];
  const ids = new Map<string, number>();
  members.forEach((member, i) => {
    const file = basename(member.file.path);
    const open = (layer: Layer) => () =>
      stack([layer, ...members.slice(i + 1).map(below => below.layer)], member.sectorSize);
    found.push({
      id: unique(file, '~', ids),
      name: file,
      time: member.file.modified,
      kind: 'image',
      size: member.size,
      member: member.file.path,
      vmStateSize: 0,
      digests: member.digests ?? [],
      open: () => withBad(open(member.layer)(), badRunsBeside(member.file)),
    });
    const byTime = [...member.snapshots].sort((a, b) => b.time.getTime() - a.time.getTime());
    for (const snapshot of byTime) {
      found.push({
        id: unique(`${file}#${snapshot.id}`, '~', ids),
        name: snapshot.name || snapshot.id,
        time: snapshot.time,
        kind: 'snapshot',
        size: snapshot.size,
        member: member.file.path,
        vmStateSize: snapshot.vmStateSize,
        digests: [],
        open: open(snapshot.layer),
      });
    }
    if (i > 0) return;
    for (const shadow of shadows.points) found.push({ ...shadow, id: unique(shadow.id, '~', ids) });
  });
  // The oldest of a second has the plain name, so that a new point renames no other.
  const moments = new Map<string, number>();
  const named = found.reverse().map(point => ({
    ...point,
    moment: unique(point.shadow ? point.name : momentOf(point.time), '-', moments),
  }));
  return named.reverse();
}

/** `name`, with `mark` and a number behind it where it has been given before. */
function unique(name: string, mark: string, given: Map<string, number>): string {
  let count = (given.get(name) ?? 0) + 1;
  let text = count === 1 ? name : `${name}${mark}${count}`;
  while (count > 1 && given.has(text)) text = `${name}${mark}${++count}`;
  given.set(name, count);
  if (text !== name) given.set(text, 1);
  return text;
}

/**
 * The newest point at or before `time`; of two at the same time the first.
 * Throws POINT_UNKNOWN where every point is later.
 */
export function pointAt(all: readonly Point[], time: Date): Point {
  let best: Point | undefined;
  for (const point of all) {
    // A partition is no moment of the disk.
    if (point.shadow && point.shadow.partition !== null) continue;
    if (point.time <= time && (!best || point.time > best.time)) best = point;
  }
  if (best) return best;
  throw unknown(`no point is at or before ${time.toISOString()}`, all);
}

/**
 * The point that `text` means: an id, a name, a moment, or `@` and a time.
 * Throws POINT_UNKNOWN where none or more than one is meant.
 */
export function findPoint(all: readonly Point[], text: string): Point {
  if (text.startsWith('@')) {
    const time = endOfTime(text.slice(1));
    if (!time)
      throw unknown(`${JSON.stringify(text)} is not @ and a time such as @2026-11-21T10:15:00Z`, all);
    return pointAt(all, time);
  }
  const exact = all.find(point => point.id === text) ?? all.find(point => point.moment === text);
  if (exact) return exact;
  const named = all.filter(point => point.name === text);
  if (named.length > 1) throw unknown(`${named.length} points have the name ${JSON.stringify(text)}`, named);
  if (named[0]) return named[0];
  throw unknown(`no point is called ${JSON.stringify(text)}`, all);
}

function unknown(what: string, all: readonly Point[]): AsofError {
  const shown = all.slice(0, 20).map(({ id, name }) => (id === name ? id : `${id} (${name})`));
  const more = all.length > shown.length ? `, and ${all.length - shown.length} more` : '';
  return new AsofError(
    'POINT_UNKNOWN',
    `${what}; there are: ${shown.join(', ')}${more}`,
    'asof points FILE lists them',
  );
}
