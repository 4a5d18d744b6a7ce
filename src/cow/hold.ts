/**
 * The moment of a snapshot that is taken below a live device, by somebody who knows nothing of it: writers are held at the
 * live device, what they wrote is synced, and only then is the snapshot taken. Without that it would have a later write and
 * not an earlier one.
 */
import { loadAddon } from '../native.js';
import type { ProviderVolume, Taken } from './provider.js';

/** Milliseconds that writes under way may take to end. */
export const DRAIN_MS = 10_000;

/** `work` gets the time of the moment and is over before writers go on, or this rejects: then it is no moment. */
export async function whileHeld(
  volumes: readonly ProviderVolume[],
  timeoutMs: number,
  work: (time: number) => Promise<void>,
): Promise<Taken> {
  const began = process.hrtime.bigint();
  const passed = () => Number(process.hrtime.bigint() - began);
  const hold = await loadAddon().CowVolume.hold(
    volumes.map(({ native }) => native),
    Math.min(DRAIN_MS, timeoutMs),
    timeoutMs,
  );
  const switchBegan = passed();
  let inTime = false;
  try {
    await work(hold.time);
  } finally {
    inTime = hold.end();
  }
  const holdNs = passed();
  if (!inTime) {
    throw new Error(`writers were let go after ${timeoutMs / 1000} s, before the snapshot was there`);
  }
  const { time, epochs, writes } = hold;
  return { time, holdNs, switchNs: holdNs - switchBegan, epochs, writes };
}
