/**
 * The "temperature" of a volume: what was written, how fast the store fills, and when it will be full if that goes on.
 *
 * Rates are over a window of samples: long enough that one burst is no trend, short enough that a new load shows.
 */
import type { CowActivity } from '../native.js';

/** Milliseconds between two samples, and how many are kept. */
export const SAMPLE_MS = 1000;
const KEPT = 300;

/** A forecast wants at least this much of the past, milliseconds. */
const LEAST_MS = 5000;

/** Bytes a second below which the store counts as standing still. */
const STILL = 1;

interface Sample {
  /** Milliseconds of a clock that never goes back. */
  readonly at: number;
  readonly activity: CowActivity;
}

export interface Rates {
  /** Of the last `seconds`, each a second. */
  readonly seconds: number;
  readonly writes: number;
  readonly bytes: number;
  readonly firstWrites: number;
  /** Bytes by which the store grows. */
  readonly store: number;
}

export interface Forecast {
  /** Bytes that still fit: up to the limit, or what the file system of the store has left, whichever is less. */
  readonly left: number;
  /** Seconds until the store is full at the rate of the window; null where it does not fill, or not enough is known. */
  readonly fullInSeconds: number | null;
  readonly why: string;
}

export class Activity {
  #samples: Sample[] = [];

  /** Notes the counters of now. */
  add(activity: CowActivity, at = performance.now()): void {
    this.#samples.push({ at, activity });
    if (this.#samples.length > KEPT) this.#samples = this.#samples.slice(-KEPT);
  }

  /** Over all samples that are kept; zeros where there is one or none. */
  rates(): Rates {
    const first = this.#samples[0];
    const last = this.#samples.at(-1);
    const seconds = first && last ? (last.at - first.at) / 1000 : 0;
    if (!first || !last || seconds <= 0) return { seconds: 0, writes: 0, bytes: 0, firstWrites: 0, store: 0 };
    const of = (name: 'writes' | 'bytes' | 'firstWrites' | 'storeUsed') =>
      (last.activity[name] - first.activity[name]) / seconds;
    return {
      seconds,
      writes: of('writes'),
      bytes: of('bytes'),
      firstWrites: of('firstWrites'),
      store: of('storeUsed'),
    };
  }

  forecast(): Forecast {
    const now = this.#samples.at(-1)?.activity;
    if (!now) return { left: 0, fullInSeconds: null, why: 'nothing is known yet' };
    const { storeUsed, storeLimit, storeHeld, storeFree } = now;
    // What the file holds and does not use can be filled without the file system.
    const physical = storeFree + Math.max(0, storeHeld - storeUsed);
    const left = Math.max(0, storeLimit > 0 ? Math.min(storeLimit - storeUsed, physical) : physical);
    const { seconds, store } = this.rates();
    if (seconds * 1000 < LEAST_MS) return { left, fullInSeconds: null, why: 'not enough is known yet' };
    if (store < STILL) return { left, fullInSeconds: null, why: 'the store does not fill' };
    return { left, fullInSeconds: Math.round(left / store), why: '' };
  }
}
