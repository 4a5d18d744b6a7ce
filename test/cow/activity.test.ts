/** The forecast of when a store is full. */
import t from 'tap';
import { Activity } from '../../src/cow/activity.js';
import type { CowActivity } from '../../src/native.js';

const idle: CowActivity = {
  writes: 0,
  bytes: 0,
  firstWrites: 0,
  copies: 0,
  waits: 0,
  flushes: 0,
  notes: 0,
  syncs: 0,
  preserved: 0,
  storeUsed: 0,
  storeLimit: 0,
  storeHeld: 0,
  storeFree: 0,
  epoch: 1,
};

function over(seconds: number, at: (second: number) => Partial<CowActivity>): Activity {
  const activity = new Activity();
  for (let second = 0; second <= seconds; second++) activity.add({ ...idle, ...at(second) }, second * 1000);
  return activity;
}

t.test('a steady load: what is left by its rate', async t => {
  const limited = over(60, second => ({
    storeUsed: second * 100,
    storeLimit: 16_000,
    storeFree: 1e9,
    writes: second * 7,
  }));
  t.match(limited.rates(), { seconds: 60, store: 100, writes: 7 });
  t.same(limited.forecast(), { left: 10_000, fullInSeconds: 100, why: '' });
  const free = over(60, second => ({ storeUsed: second * 100, storeHeld: second * 100, storeFree: 5000 }));
  t.match(free.forecast(), { left: 5000, fullInSeconds: 50 }, 'without a limit the file system is one');
  const both = over(60, second => ({
    storeUsed: second * 100,
    storeHeld: 6000,
    storeLimit: 1e9,
    storeFree: 300,
  }));
  t.match(both.forecast(), { left: 300, fullInSeconds: 3 }, 'whichever is less');
});

t.test('no forecast where there is nothing to go by', async t => {
  t.match(new Activity().forecast(), { fullInSeconds: null });
  t.match(over(2, second => ({ storeUsed: second })).forecast(), { fullInSeconds: null, why: /not enough/ });
  t.match(over(60, () => ({ storeUsed: 5, storeLimit: 10, storeFree: 100 })).forecast(), {
    left: 5,
    fullInSeconds: null,
  });
  t.match(
    over(60, second => ({ storeUsed: 600 - second * 10 })).forecast(),
    { fullInSeconds: null },
    'a store that empties',
  );
  t.match(
    over(60, second => ({ storeUsed: second * 2, storeLimit: 100 })).forecast(),
    { left: 0, fullInSeconds: 0 },
    'a full one',
  );
});

t.test('a load that has ended is forgotten', async t => {
  const activity = over(700, second => ({
    storeUsed: Math.min(second, 100) * 1000,
    storeLimit: 1e9,
    storeFree: 1e12,
  }));
  t.match(activity.forecast(), { fullInSeconds: null, why: /does not fill/ });
});
