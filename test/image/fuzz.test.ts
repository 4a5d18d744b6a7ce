/**
 * A bounded run of the fuzz target; `npm run fuzz` runs it for longer.
 */
import t from 'tap';
import type { BlockSource } from '../../src/block/source.js';
import { changed, newTally, runCase, samples } from './fuzz.js';
import { folder } from './peer.js';
import { type Content, readAll } from './reader.js';

const CASES = 120;

const dir = folder(t);
const sound = samples(dir);

t.test('sound images are read whole', async t => {
  const tally = newTally();
  for (const sample of sound) runCase(dir, { ...sample, label: sample.name }, tally);
  t.same(tally.faults, []);
  t.equal(tally.refused, 0);
  t.equal(tally.bad, 0);
  t.ok(tally.compared >= sound.length);
});

t.test('changed images give the right bytes, or bad, or are refused', async t => {
  const tally = newTally();
  for (let seed = 1; seed <= CASES; seed++) {
    runCase(dir, changed(sound, seed), tally);
  }
  t.same(tally.faults, []);
  t.comment(JSON.stringify(tally));
  t.ok(tally.compared > CASES / 3, 'many files could be compared');
  t.ok(tally.same > tally.bad, 'most sectors were compared, not given up');
});

/** Readers that are wrong on purpose: the target must notice each. */
const WRONG: Record<string, (source: BlockSource) => Content> = {
  'zeros in place of data': source =>
    readAll({
      ...source,
      *extents(offset, length) {
        for (const run of source.extents(offset, length))
          yield run.kind === 'data' ? { kind: 'zero', length: run.length } : run;
      },
    }),
  'the neighbour in place of data': source =>
    readAll({
      ...source,
      *extents(offset, length) {
        for (const run of source.extents(offset, length))
          yield run.kind === 'data' ? { ...run, offset: Math.max(0, run.offset - 512) } : run;
      },
    }),
  'zeros in place of what is bad': source =>
    readAll({
      ...source,
      *extents(offset, length) {
        for (const run of source.extents(offset, length))
          yield run.kind === 'bad' ? { kind: 'zero', length: run.length } : run;
      },
    }),
};

for (const [name, reader] of Object.entries(WRONG)) {
  t.test(`notices ${name}`, async t => {
    const tally = newTally();
    for (let seed = 1; seed <= CASES && tally.faults.length === 0; seed++) {
      runCase(dir, changed(sound, seed), tally, reader);
    }
    t.not(tally.faults.length, 0);
  });
}
