/** What a time covers: a day, a minute and a second to their ends, so that `@` of each is the newest moment within it. */
import t from 'tap';
import { endOfTime, parseTime } from '../src/moment.js';

const CASES: readonly (readonly [string, string])[] = [
  ['2026-11-20', '2026-11-20T23:59:59.999Z'],
  ['2026-11-20T10:15', '2026-11-20T10:15:59.999Z'],
  ['2026-11-20T10-15', '2026-11-20T10:15:59.999Z'],
  ['2026-11-20 10:15', '2026-11-20T10:15:59.999Z'],
  ['2026-11-20T10:15Z', '2026-11-20T10:15:59.999Z'],
  ['2026-11-20T10:15+02:00', '2026-11-20T08:15:59.999Z'],
  ['2026-11-20T10:15-0200', '2026-11-20T12:15:59.999Z'],
  ['2026-11-20T10:15:00', '2026-11-20T10:15:00.999Z'],
  ['2026-11-20 10:15:00', '2026-11-20T10:15:00.999Z'],
  ['2026-11-20T10-15-00Z', '2026-11-20T10:15:00.999Z'],
  ['2026-11-20T10:15:00+02:00', '2026-11-20T08:15:00.999Z'],
  ['2026-11-20T10:15:00.250Z', '2026-11-20T10:15:00.250Z'],
  ['1763632800', '2025-11-20T10:00:00.999Z'],
];

t.test('the end of what is named', async t => {
  for (const [text, end] of CASES) t.equal(endOfTime(text)?.toISOString(), end, text);
});

t.test('the beginning of it', async t => {
  t.equal(parseTime('2026-11-20')?.toISOString(), '2026-11-20T00:00:00.000Z');
  t.equal(parseTime('2026-11-20 10:15')?.toISOString(), '2026-11-20T10:15:00.000Z', 'UTC, with a space too');
});

t.test('no times', async t => {
  for (const text of ['', 'now', '2026-13-01', '2026-11-20T', '2026-11-20T25:00', 'x2026-11-20', '2026-11']) {
    t.equal(endOfTime(text), undefined, text);
  }
});
