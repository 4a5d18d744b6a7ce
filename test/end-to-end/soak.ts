/**
 * How long, and by which seed: `npm test` runs each property for a bounded count, `npm run soak` (scripts/soak.js) for as
 * long as it is told. In a soak SIGINT ends what is under way at the next step, so that everything is taken down.
 */
import t, { type Test } from 'tap';

const seconds = Number(process.env['ASOF_SOAK_SECONDS'] ?? 0);
const begun = Date.now();
let interrupted = false;

/** Whether this is a soak; a bounded test otherwise. */
export const soaking = seconds > 0;

const firstSeed = Number(process.env['ASOF_SOAK_SEED'] ?? 1) >>> 0;

if (soaking) {
  process.on('SIGINT', () => {
    interrupted = true;
  });
}

/** Rounds with a seed each: `bounded` of them in a test; in a soak until the time is over or something is wrong. */
export async function rounds(
  t: Test,
  bounded: number,
  one: (t: Test, seed: number) => Promise<void>,
): Promise<void> {
  const goesOn = (round: number) =>
    round < bounded || (soaking && !interrupted && Date.now() - begun < seconds * 1000);
  for (let round = 0; goesOn(round) && !interrupted && t.passing(); round++) {
    const seed = (firstSeed + round) >>> 0;
    progress(`seed ${seed}`);
    await t.test(`seed ${seed}`, t => one(t, seed));
    if (!t.passing()) progress(`wrong with --seed ${seed}`);
  }
}

/** Whether whoever runs the soak wants it to end. */
export function isInterrupted(): boolean {
  return interrupted;
}

/** A line for whoever watches a soak. */
export function progress(text: string): void {
  if (soaking) process.stderr.write(`${Math.round((Date.now() - begun) / 1000)} s: ${text}\n`);
}

/** What a test file of ours gives the runner as its limit, in milliseconds; a soak checks for a while after its time. */
export function limit(bounded: number): void {
  t.setTimeout(soaking ? Math.min((seconds + 7200) * 1000, 2 ** 31 - 1) : bounded);
}
