#!/usr/bin/env node
/**
 * npm run fuzz [-- COUNT [FIRST]]: the fuzz targets for COUNT seeds (5000) from FIRST (the time) on. Exits 1 at a
 * breach; the seed in its line brings it back.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { changed, newTally, runCase, samples } from '../dist/test/image/fuzz.js';

const count = Number(process.argv[2] ?? 5000);
const first = Number(process.argv[3] ?? Math.floor(Date.now() / 1000) % 1e9);
const dir = mkdtempSync(join(tmpdir(), 'asof-fuzz-'));
try {
  const sound = samples(dir);
  const tally = newTally();
  let told = 0;
  for (let seed = first; seed < first + count; seed++) {
    runCase(dir, changed(sound, seed), tally);
    for (; told < tally.faults.length; told++) console.error(tally.faults[told]);
  }
  const { faults, ...rest } = tally;
  console.log(JSON.stringify({ first, ...rest, faults: faults.length }));
  process.exitCode = faults.length === 0 ? 0 : 1;
} finally {
  rmSync(dir, { recursive: true, force: true });
}
