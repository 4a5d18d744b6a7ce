/**
 * Backups that came to nothing, kept beside the history: `.asof-failures`, sealed JSON of the last of them (docs/formats.md).
 * It says why there is no point of a time at which there should be one; the points themselves never depend on it.
 *
 * It is written by whoever has the folder's lock. A run that is killed cannot write: its intent says who it was, and the next
 * run writes that down.
 */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { AsofError, errnoOf } from '../errors.js';
import { readSealed, writeSealed } from './sealed.js';

export const FAILURES = '.asof-failures';
export const FAILURES_TEMPORARY = `${FAILURES}.new`;
const KIND = 'failures';
/** The newest ones stay. */
const KEPT = 100;

export interface Failure {
  /** ISO 8601: when it was known, and when the run began. */
  readonly time: string;
  readonly began: string;
  /** `interrupted`: it was killed, or could not even write down why it failed. */
  readonly outcome: 'failed' | 'interrupted';
  /** The id is null where the run did not come so far as to learn it. */
  readonly volume: { readonly id: string | null; readonly name: string };
  /** As in docs/errors.md; '' for one that was interrupted, and BUG for what is none of ours. */
  readonly code: string;
  readonly why: string;
}

/** Errors that stand in a record already, on their way up. */
const noted = new WeakSet<object>();

/** Oldest first. `trouble`: why they cannot be told; '' where they are, or there are none. */
export function readFailures(folder: string): {
  readonly failures: readonly Failure[];
  readonly trouble: string;
} {
  try {
    return {
      failures: readSealed<{ failures: Failure[] }>(join(folder, FAILURES), KIND).failures,
      trouble: '',
    };
  } catch (error) {
    if (!(error instanceof AsofError)) throw error;
    return { failures: [], trouble: error.code === 'NOT_FOUND' ? '' : error.message };
  }
}

/** The caller has the folder's lock. Whether it is on stable storage: a folder may be full, or gone. */
export function addFailures(folder: string, more: readonly Failure[]): boolean {
  const failures = [...readFailures(folder).failures, ...more].slice(-KEPT);
  const temporary = join(folder, FAILURES_TEMPORARY);
  try {
    writeSealed(join(folder, FAILURES), temporary, KIND, { failures });
    return true;
  } catch {
    try {
      rmSync(temporary, { force: true });
    } catch {
      // The next run takes it away.
    }
    return false;
  }
}

export function failureOf(error: unknown, volume: Failure['volume'], began: Date): Failure {
  const known = error instanceof AsofError;
  const errno = errnoOf(error);
  return {
    time: new Date().toISOString(),
    began: began.toISOString(),
    outcome: 'failed',
    volume,
    code: known ? error.code : errno ? 'IO' : 'BUG',
    why: error instanceof Error ? error.message : String(error),
  };
}

export function markNoted(error: unknown): void {
  if (typeof error === 'object' && error !== null) noted.add(error);
}

export function isNoted(error: unknown): boolean {
  return typeof error === 'object' && error !== null && noted.has(error);
}
