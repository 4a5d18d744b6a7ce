/** Which points the rules keep: examples by hand, and restic's own algorithm written down a second time. */
import t from 'tap';
import { KEEP_RULES, type Keep, keptBy } from '../../src/image/retention.js';
import { random } from './history-lab.js';

const times = (...texts: string[]) => texts.map(text => new Date(text));
const kept = (list: readonly Date[], keep: Keep) =>
  keptBy(list, keep).flatMap((rules, i) => (rules.length > 0 ? [list[i]!.toISOString().slice(0, 13)] : []));

t.test('by hand', async t => {
  const list = times(
    '2025-12-28T10:00:00Z', // a Sunday: the last day of ISO week 52
    '2025-12-29T10:00:00Z', // a Monday: week 1 of 2026
    '2026-01-01T10:00:00Z', // still week 1
    '2026-01-01T23:59:59Z',
    '2026-01-05T00:00:00Z', // week 2
  );
  t.same(kept(list, { last: 2 }), ['2026-01-01T23', '2026-01-05T00']);
  t.same(kept(list, { daily: 2 }), ['2026-01-01T23', '2026-01-05T00']);
  t.same(kept(list, { weekly: 3 }), ['2025-12-28T10', '2026-01-01T23', '2026-01-05T00']);
  t.same(kept(list, { yearly: 1 }), ['2026-01-05T00']);
  t.same(kept(list, { monthly: 2 }), ['2025-12-29T10', '2026-01-05T00']);
  t.same(kept(list, { yearly: 9 }), ['2025-12-28T10', '2025-12-29T10', '2026-01-05T00'], 'and the oldest');
  t.same(kept(list, {}), []);
  t.same(kept([], { last: 3 }), []);
});

t.test('as restic does', async t => {
  const next = random(7);
  for (let round = 0; round < 200; round++) {
    let at = Date.UTC(2025, next(12), 1 + next(28));
    const list = Array.from({ length: next(40) }, () => {
      at += next(3) === 0 ? next(40 * 86_400_000) : next(7_200_000);
      return new Date(at);
    });
    const keep = Object.fromEntries(KEEP_RULES.filter(() => next(2) === 0).map(rule => [rule, next(6)]));
    t.same(kept(list, keep), model(list, keep), JSON.stringify(keep));
  }
});

/** internal/restic/snapshot_policy.go, ApplyPolicy: newest first, one walk, all buckets at each snapshot. */
function model(list: readonly Date[], keep: Keep): string[] {
  const buckets = KEEP_RULES.map(rule => ({ rule, count: keep[rule] ?? 0, last: -1 }));
  const newest = list.toReversed();
  const found: string[] = [];
  newest.forEach((time, nr) => {
    let any = false;
    for (const bucket of buckets) {
      if (bucket.count <= 0) continue;
      const value = number(bucket.rule, time, nr);
      if (value === bucket.last && nr !== newest.length - 1) continue;
      any = true;
      bucket.last = value;
      bucket.count--;
    }
    if (any) found.unshift(time.toISOString().slice(0, 13));
  });
  return found;
}

function number(rule: string, time: Date, nr: number): number {
  const [year, month, day] = [time.getUTCFullYear(), time.getUTCMonth() + 1, time.getUTCDate()];
  switch (rule) {
    case 'last':
      return nr;
    case 'hourly':
      return year * 1_000_000 + month * 10_000 + day * 100 + time.getUTCHours();
    case 'daily':
      return year * 10_000 + month * 100 + day;
    case 'weekly':
      // Weeks begin on Mondays; 1970-01-05 was one.
      return Math.floor((time.getTime() / 86_400_000 - 4) / 7);
    case 'monthly':
      return year * 100 + month;
    default:
      return year;
  }
}
