/**
 * `npm run test:power-cut -- [--cuts N] [--first SEED] [--seed SEED]`: pulls the plug of the model's machine N times (5,000
 * where nothing is said), over all policies and over groups of volumes (test/cow/power-cut.ts). Ends at the first cut that
 * contradicts something, with its seed; --seed runs one again, as often as need be, as the threads of each run are their own.
 */
import { parseArgs } from 'node:util';
import { livesOf, scenarioOf } from '../dist/test/cow/power-cut.js';

const { values } = parseArgs({
  options: {
    cuts: { type: 'string', default: '5000' },
    first: { type: 'string', default: '1' },
    seed: { type: 'string' },
  },
});
const number = name => {
  const value = Number(values[name]);
  if (Number.isSafeInteger(value) && value >= 0) return value;
  throw new Error(`--${name} is a number, not ${values[name]}`);
};

/** Rounds of a seed that is run again. */
const AGAIN = 50;

async function main() {
  const wanted = values.seed === undefined ? number('cuts') : Number.POSITIVE_INFINITY;
  const first = number(values.seed === undefined ? 'first' : 'seed');
  const kinds = new Map();
  let cuts = 0;
  let compared = 0;
  let rounds = 0;
  for (; cuts < wanted && (values.seed === undefined || rounds < AGAIN); rounds++) {
    const seed = values.seed === undefined ? first + rounds : first;
    const scenario = scenarioOf(seed);
    const outcome = await livesOf(seed);
    cuts += outcome.cuts;
    compared += outcome.compared;
    const kind = `${scenario.durability}, ${scenario.onError}, store ${scenario.store}, volumes ${scenario.volumes}`;
    kinds.set(kind, (kinds.get(kind) ?? 0) + outcome.cuts);
    if (outcome.wrong !== '') {
      console.log(`seed ${seed}: ${outcome.wrong}\n${JSON.stringify(scenario)}`);
      console.log(`npm run test:power-cut -- --seed ${seed}`);
      return 1;
    }
    if (rounds % 100 === 99) console.log(`seeds ${first} to ${seed}: ${cuts} cuts`);
  }
  for (const [kind, count] of [...kinds].sort()) console.log(`${String(count).padStart(6)} cuts: ${kind}`);
  const last = values.seed === undefined ? first + rounds - 1 : first;
  console.log(
    `${cuts} cuts, ${compared} snapshots compared, seeds ${first} to ${last}: nothing contradicted`,
  );
  return 0;
}

process.exitCode = await main();
