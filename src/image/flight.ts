/**
 * Batches of clusters under way: several at a time, no more than so many bytes a second, until one fails or somebody stops it.
 */
import { setImmediate, setTimeout } from 'node:timers/promises';

/** Clusters of a batch: 4 MiB. */
export const BATCH = 64;

export interface FlightOptions {
  /** Batches at once. */
  readonly parallel: number;
  readonly clusterSize: number;
  /** Bytes a second; 0 is no limit. */
  readonly rate: number;
  readonly signal: AbortSignal | undefined;
  /** What is thrown where somebody stops it. */
  readonly stopped: () => Error;
}

/**
 * Calls `work` for batches of `clusters`, which are asked for as places get free. Returns when all have ended; throws what
 * the first of them threw, after which no other begins.
 */
export async function fly(
  clusters: Iterable<number>,
  work: (batch: readonly number[]) => Promise<void>,
  { parallel, clusterSize, rate, signal, stopped }: FlightOptions,
): Promise<void> {
  const began = performance.now();
  const flying = new Set<Promise<void>>();
  let started = 0;
  let failed = false;
  let failure: unknown;
  const fail = (error: unknown) => {
    if (!failed) failure = error;
    failed = true;
  };
  try {
    for (const batch of batchesOf(clusters)) {
      if (rate > 0) {
        const wait = (started / rate) * 1000 - (performance.now() - began);
        if (wait > 0) await setTimeout(wait, undefined, { signal }).catch(() => {});
      }
      while (flying.size >= parallel) await Promise.race(flying);
      if (signal?.aborted) throw stopped();
      if (failed) break;
      started += batch.length * clusterSize;
      const one: Promise<void> = work(batch)
        .catch(fail)
        .finally(() => flying.delete(one));
      flying.add(one);
    }
  } catch (error) {
    fail(error);
  }
  await Promise.all(flying);
  // Reads that JavaScript has still to answer end first.
  await setImmediate();
  if (failed) throw failure;
}

function* batchesOf(clusters: Iterable<number>): Generator<number[], void, undefined> {
  let batch: number[] = [];
  for (const cluster of clusters) {
    batch.push(cluster);
    if (batch.length < BATCH) continue;
    yield batch;
    batch = [];
  }
  if (batch.length > 0) yield batch;
}
