#!/usr/bin/env node
/**
 * npm run fuzz [-- COUNT [FIRST [WORD]]]: the fuzz targets for COUNT seeds (5000) from FIRST (the time) on, then as many
 * cases of damage for each image of test/image/preys.ts, or only for those whose name has WORD. Exits 1 at a breach; the
 * seed in its line brings it back.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { hunt, newHunt, study } from '../dist/test/image/campaign.js';
import { changed, newTally, runCase, samples } from '../dist/test/image/fuzz.js';
import { preys } from '../dist/test/image/preys.js';

const count = Number(process.argv[2] ?? 5000);
const first = Number(process.argv[3] ?? Math.floor(Date.now() / 1000) % 1e9);
const word = process.argv[4];
const dir = mkdtempSync(join(tmpdir(), 'asof-fuzz-'));
try {
  if (word === undefined) fuzz();
  damage();
} finally {
  rmSync(dir, { recursive: true, force: true });
}

/** The formats that the peer reads, compared with it. */
function fuzz() {
  const sound = samples(dir);
  const tally = newTally();
  run('fuzz', tally, seed => runCase(dir, changed(sound, seed), tally));
}

/** Every format, compared with what its image was made from. */
function damage() {
  const made = mkdtempSync(join(dir, 'made-'));
  for (const { prey, wanted } of preys(made)) {
    if (word !== undefined && !prey.name.includes(word)) continue;
    const sound = study(dir, prey, wanted);
    const tally = newHunt();
    run(prey.name, tally, seed => hunt(dir, sound, seed, tally));
  }
}

function run(name, tally, one) {
  let told = 0;
  for (let seed = first; seed < first + count; seed++) {
    one(seed);
    for (; told < tally.faults.length; told++) console.error(tally.faults[told]);
  }
  const { faults, ...rest } = tally;
  console.log(JSON.stringify({ name, first, ...rest, faults: faults.length }));
  if (faults.length > 0) process.exitCode = 1;
}
