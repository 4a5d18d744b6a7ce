/**
 * A bounded share of the damage campaigns, for every format; `npm run fuzz` runs them for longer.
 */
import t from 'tap';
import { hunt, newHunt, study } from './campaign.js';
import { folder } from './peer.js';
import { preys } from './preys.js';

t.setTimeout(240_000);
const CASES = Number(process.env['ASOF_CASES'] ?? 60);

const dir = folder(t);
for (const { prey, wanted } of preys(folder(t))) {
  t.test(prey.name, async t => {
    const sound = study(dir, prey, wanted);
    const found = newHunt();
    for (let seed = 1; seed <= CASES; seed++) hunt(dir, sound, seed, found);
    t.same(found.faults, []);
    t.comment(JSON.stringify(found));
    t.ok(found.refused + found.bad > 0, 'damage was noticed');
    t.ok(found.bad + found.whole > 0, 'something could be read');
  });
}
