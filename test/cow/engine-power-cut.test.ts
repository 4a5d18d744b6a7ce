/**
 * The plug is pulled, again and again: whatever of the unsynced sectors a disk may keep, in any order, torn, the origin
 * holds every acknowledged flush, each snapshot is exact or says that it is invalid, and no change since one is missed.
 * Then each class of syncs in turn is taken away, and that must be found out. `npm run test:power-cut` goes on for longer.
 */
import t from 'tap';
import { livesOf, type Sabotage, type Scenario, scenarioOf } from './power-cut.js';

const SECONDS = Number(process.env['ASOF_COW_CUT_SECONDS'] ?? 15);
const FIRST = Number(process.env['ASOF_COW_CUT_SEED'] ?? 1);

t.setTimeout(240_000);

t.test('flushes, snapshots and changes outlast a power cut', async t => {
  const end = Date.now() + SECONDS * 1000;
  let cuts = 0;
  let compared = 0;
  for (let seed = FIRST; Date.now() < end || cuts < 30; seed++) {
    const outcome = await livesOf(seed);
    cuts += outcome.cuts;
    compared += outcome.compared;
    if (outcome.wrong === '') continue;
    t.fail(`seed ${seed}: ${outcome.wrong} ${JSON.stringify(scenarioOf(seed))}`);
    return;
  }
  t.ok(compared > 0, `${cuts} cuts, ${compared} snapshots compared`);
});

const PLAIN: Scenario = {
  volumes: 1,
  durability: 'power',
  onError: 'break-snapshot',
  store: 'file',
  timeoutMs: 0,
  limit: 0,
};

const CLASSES: readonly (readonly [name: string, sabotage: Sabotage, found: RegExp])[] = [
  ['preserved chunks', { file: 'store', faults: { unsynced: 'copies' } }, /snapshot (cannot|has)|not told/],
  ['records of the journal', { file: 'store', faults: { unsynced: 'records' } }, /gone|back|broken/],
  ['flushes of the origin', { file: 'origin', faults: { dropSync: true } }, /flushed/],
  ['notes of the tracker', { file: 'tracker', faults: { dropSync: true } }, /not told/],
];

for (const [name, sabotage, found] of CLASSES) {
  t.test(`the test notices when syncs do nothing for ${name}`, async t => {
    let noticed = '';
    let seed = 0;
    while (seed < 400 && noticed === '') noticed = (await livesOf(++seed, PLAIN, sabotage)).wrong;
    t.match(noticed, found, `seed ${seed}: ${noticed}`);
  });
}
