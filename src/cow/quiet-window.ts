/**
 * The quiet window: a moment in which nobody was writing, found by waiting for one. No write may have reached any volume of
 * the group for the whole window; a write to any of them begins it anew.
 *
 * Counters are looked at, never a writer stopped. Looking at intervals sees every write, because a counter only grows; it
 * sees it late, by an interval at most, so the window then counts from the look, not from the write: it is never too short.
 * Who takes the snapshot compares the counters once more, at the switch.
 */
import { AsofError } from '../errors.js';
import type { Clock } from './clock.js';

/** Milliseconds. */
export const QUIET_MS = 5000;
export const QUIET_DEADLINE_MS = 60_000;

/** Looks in a window; no window is looked at more often than this, milliseconds. */
const LOOKS = 50;
const OFTEN_MS = 10;

export interface QuietOptions {
  readonly clock: Clock;
  readonly windowMs: number;
  readonly deadlineMs: number;
  /** What becomes of it at the deadline: an error, or a moment that is not quiet. */
  readonly outcome: 'fail' | 'crash';
  /** Writes so far, a number a volume. */
  readonly writes: () => readonly number[];
  /** When the waiting began, on the clock, where it is not the first window that is waited for; now unless given. */
  readonly began?: number | undefined;
  /** Nobody waits any longer. */
  readonly stopping?: AbortSignal | undefined;
}

export interface Quiet {
  /** The counters that have stood still; undefined where the deadline came first. */
  readonly writes: readonly number[] | undefined;
  readonly waitedMs: number;
  /** How often a write began the window anew. */
  readonly restarts: number;
}

/** Throws QUIET_MISSED where the outcome is `fail`. */
export async function waitForQuiet(options: QuietOptions): Promise<Quiet> {
  const { clock, windowMs, deadlineMs, outcome } = options;
  const began = options.began ?? clock.now();
  const deadline = began + deadlineMs;
  const interval = Math.max(OFTEN_MS, windowMs / LOOKS);
  let since = clock.now();
  let last = options.writes();
  for (let restarts = 0; ; ) {
    options.stopping?.throwIfAborted();
    const now = clock.now();
    const writes = options.writes();
    if (!same(writes, last)) {
      last = writes;
      since = now;
      restarts++;
    } else if (now - since >= windowMs) return { writes, waitedMs: now - began, restarts };
    if (now >= deadline) {
      if (outcome === 'crash') return { writes: undefined, waitedMs: now - began, restarts };
      throw new AsofError(
        'QUIET_MISSED',
        `no ${windowMs / 1000} s without a write came within ${deadlineMs / 1000} s; writes began the window anew ${restarts} times`,
        'a longer --quiet-deadline, a shorter --quiet, or --quiet-missed crash',
      );
    }
    const next = Math.min(since + windowMs - now, deadline - now, interval);
    await pause(clock, Math.max(1, next), options.stopping);
  }
}

/** Over at once when `stopping` is aborted. */
async function pause(clock: Clock, ms: number, stopping: AbortSignal | undefined): Promise<void> {
  let cancel = () => {};
  let stop = () => {};
  await new Promise<void>(done => {
    cancel = clock.after(ms, done);
    stop = done;
    stopping?.addEventListener('abort', stop);
  });
  cancel();
  stopping?.removeEventListener('abort', stop);
}

export function same(one: readonly number[], other: readonly number[]): boolean {
  return one.length === other.length && one.every((value, i) => value === other[i]);
}
