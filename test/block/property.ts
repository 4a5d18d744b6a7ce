/**
 * fast-check, with a fixed seed: a run is the same everywhere. ASOF_SEED tries another one, ASOF_RUNS more runs.
 */
import fc from 'fast-check';
import type { Test } from 'tap';

fc.configureGlobal({
  seed: Number(process.env['ASOF_SEED'] ?? 20),
  numRuns: Number(process.env['ASOF_RUNS'] ?? 100),
});

export { fc };

/** One assertion of `t`: the property holds for all that fast-check tries. */
export async function holds<T>(
  t: Test,
  name: string,
  property: fc.IProperty<T> | fc.IAsyncProperty<T>,
  numRuns?: number,
): Promise<void> {
  const runs = process.env['ASOF_RUNS'] === undefined && numRuns !== undefined ? { numRuns } : {};
  await t.resolves(async () => {
    await fc.assert(property, runs);
  }, name);
}
