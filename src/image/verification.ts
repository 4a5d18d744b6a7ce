/**
 * What was found when a point was verified, kept beside it: `<stem>.verified`, sealed JSON, replaced at each run. A
 * manifest never changes for it.
 */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { AsofError, errnoOf } from '../errors.js';
import type { Found } from './catalogue.js';
import type { History } from './history.js';
import type { HistoryPoint } from './listing.js';
import type { Run } from './manifest.js';
import { readSealed, writeSealed } from './sealed.js';

const KIND = 'verification';
/** Results that are kept: a month of samples. */
const KEPT = 31;

export interface StoredDefect {
  readonly offset: number;
  readonly length: number;
  readonly why: string;
}

export interface Verified {
  readonly time: string;
  /** `stored`: what its own image holds; `deep`: the whole disk through its chain. */
  readonly depth: 'stored' | 'deep';
  /** Part N of T, where not all was looked at. */
  readonly sample: readonly [number, number] | null;
  readonly sound: boolean;
  /** Bytes of clusters whose digest was compared. */
  readonly bytes: number;
  /** Why the image, the manifest or the tree as a whole cannot be vouched for; a sentence each. */
  readonly faults: readonly string[];
  readonly defects: readonly StoredDefect[];
}

/** The newest result of the point that is called `stem`; null where nobody has looked, or it is damaged. */
export function newestOf(folder: string, stem: string): Found | null {
  const newest = resultsOf({ path: folder }, { stem }).at(-1);
  return newest ? { time: newest.time, sound: newest.sound } : null;
}

export function resultsOf(
  history: Pick<History, 'path'>,
  point: Pick<HistoryPoint, 'stem'>,
): readonly Verified[] {
  try {
    return readSealed<{ results: Verified[] }>(pathOf(history, point), KIND).results;
  } catch (error) {
    // Results can be made again; damaged ones say nothing.
    if (error instanceof AsofError) return [];
    throw error;
  }
}

/** Throws IO. */
export function keepResult(
  history: Pick<History, 'path'>,
  point: Pick<HistoryPoint, 'stem'>,
  result: Verified,
): void {
  const results = [...resultsOf(history, point), result].slice(-KEPT);
  const path = pathOf(history, point);
  const temporary = `${path}.${process.pid}.new`;
  try {
    writeSealed(path, temporary, KIND, { results });
  } catch (error) {
    rmSync(temporary, { force: true });
    throw new AsofError('IO', `cannot keep the result in ${path}: ${errnoOf(error) || String(error)}`, '', {
      cause: error,
    });
  }
}

/** Runs of the disk that images of the chain were found not to hold right, and no image above them holds. */
export function storedDefects(history: History, chain: readonly HistoryPoint[]): Run[] {
  const found: Run[] = [];
  chain.forEach((point, i) => {
    for (const { defects } of resultsOf(history, point)) {
      for (const { offset, length } of defects) {
        const covered = chain.slice(0, i).some(above => holds(history, above, offset, length));
        if (!covered) found.push([offset, length]);
      }
    }
  });
  return found;
}

export function holds(history: History, point: HistoryPoint, offset: number, length: number): boolean {
  for (const run of history.layer(point).extents(offset, length)) if (run.kind === 'absent') return false;
  return true;
}

function pathOf(history: Pick<History, 'path'>, point: Pick<HistoryPoint, 'stem'>): string {
  return join(history.path, `${point.stem}.verified`);
}
