/** Time as what holds still for a moment sees it: injected, so that deadlines are tested without waiting for them. */

export interface Clock {
  /** Milliseconds of a clock that never goes back. */
  now(): number;
  /** Milliseconds since 1970. */
  time(): number;
  /** Calls back once, after `ms`; what it returns takes that back. */
  after(ms: number, call: () => void): () => void;
}

export const SYSTEM_CLOCK: Clock = {
  now: () => performance.now(),
  time: () => Date.now(),
  after(ms, call) {
    const timer = setTimeout(call, Math.min(ms, 2 ** 31 - 1));
    return () => clearTimeout(timer);
  },
};

/** Somebody has not answered in time. */
export class TimedOut extends Error {
  override readonly name = 'TimedOut';
}

/**
 * What `work` answers, or rejects with, if that comes within `ms`; else rejects with TimedOut, or why `stopping` was aborted,
 * and the signal tells `work`, whose late answer is nobody's.
 */
export async function within<T>(
  clock: Clock,
  ms: number,
  work: (signal: AbortSignal) => Promise<T>,
  stopping?: AbortSignal,
): Promise<T> {
  stopping?.throwIfAborted();
  const controller = new AbortController();
  let cancel = () => {};
  let stop = () => {};
  const late = new Promise<never>((_, failed) => {
    stop = () => {
      controller.abort(stopping!.reason);
      failed(stopping!.reason);
    };
    stopping?.addEventListener('abort', stop);
    cancel = clock.after(Math.max(0, ms), () => {
      const error = new TimedOut(`no answer within ${Math.max(0, Math.round(ms)) / 1000} s`);
      controller.abort(error);
      failed(error);
    });
  });
  try {
    return await Promise.race([Promise.resolve().then(() => work(controller.signal)), late]);
  } finally {
    cancel();
    stopping?.removeEventListener('abort', stop);
  }
}
