/**
 * What crontab lines mean, day by day against a model that looks at every minute, and over the change to summer time and
 * back, where the rules are stated by hand.
 */
import t from 'tap';
import { Cron } from '../../src/cow/cron.js';
import { LOCAL_ZONE, zoneNamed } from '../../src/cow/zone.js';

const BERLIN = zoneNamed('Europe/Berlin');
const UTC = zoneNamed('UTC');

function runs(text: string, from: string, count: number, zone = BERLIN): string[] {
  const cron = new Cron(text);
  const found: string[] = [];
  for (let at = Date.parse(from); found.length < count; ) {
    at = cron.next(at, zone);
    found.push(new Date(at).toISOString().replace(':00.000Z', 'Z'));
  }
  return found;
}

t.test('a model that looks at every minute agrees', t => {
  const start = Date.UTC(2026, 1, 24, 23, 57);
  const minutes = 6 * 1440;
  type Test = (date: Date) => boolean;
  const lines: readonly [string, Test][] = [
    ['*/7 3-5 * * *', d => d.getUTCMinutes() % 7 === 0 && d.getUTCHours() >= 3 && d.getUTCHours() <= 5],
    [
      '5,10-12,58/2 */6 * * *',
      d => [5, 10, 11, 12, 58].includes(d.getUTCMinutes()) && d.getUTCHours() % 6 === 0,
    ],
    ['0 0 * mar MON-wed', d => atMidnight(d) && d.getUTCMonth() === 2 && [1, 2, 3].includes(d.getUTCDay())],
    // Either of the two days will do, where both are restricted.
    ['0 0 26 * 7', d => atMidnight(d) && (d.getUTCDate() === 26 || d.getUTCDay() === 0)],
    ['0 0 */2 * 0', d => atMidnight(d) && d.getUTCDate() % 2 === 1 && d.getUTCDay() === 0],
    ['@hourly', d => d.getUTCMinutes() === 0],
    ['@Weekly', d => atMidnight(d) && d.getUTCDay() === 0],
    ['  30   2  * * *  ', d => d.getUTCHours() === 2 && d.getUTCMinutes() === 30],
  ];
  for (const [text, means] of lines) {
    const model: number[] = [];
    for (let i = 1; i <= minutes; i++) {
      const time = start + i * 60_000;
      if (means(new Date(time))) model.push(time);
    }
    const cron = new Cron(text);
    const found: number[] = [];
    for (let at = cron.next(start, UTC); at <= start + minutes * 60_000; at = cron.next(at, UTC))
      found.push(at);
    t.same(found, model, text);
  }
  t.end();
});

function atMidnight(date: Date): boolean {
  return date.getUTCHours() === 0 && date.getUTCMinutes() === 0;
}

t.test('into summer time: what does not exist comes once, at the next moment', t => {
  // 2026-03-29, 01:00 UTC: from 02:00 to 03:00 in Berlin.
  t.same(runs('30 2 * * *', '2026-03-28T12:00Z', 2), ['2026-03-29T01:00Z', '2026-03-30T00:30Z']);
  t.same(runs('0,30 2 * * *', '2026-03-28T12:00Z', 2), ['2026-03-29T01:00Z', '2026-03-30T00:00Z']);
  t.same(runs('0 */2 * * *', '2026-03-28T23:30Z', 2), ['2026-03-29T01:00Z', '2026-03-29T02:00Z']);
  t.same(runs('30 2 29 3 *', '2026-03-28T12:00Z', 2), ['2026-03-29T01:00Z', '2027-03-29T00:30Z']);
  // Of every hour, the one that is left out is no hour.
  t.same(runs('30 * * * *', '2026-03-28T23:45Z', 3), [
    '2026-03-29T00:30Z',
    '2026-03-29T01:30Z',
    '2026-03-29T02:30Z',
  ]);
  t.end();
});

t.test('back from it: what exists twice comes once', t => {
  // 2026-10-25, 01:00 UTC: from 03:00 to 02:00 in Berlin.
  t.same(runs('30 2 * * *', '2026-10-24T12:00Z', 2), ['2026-10-25T00:30Z', '2026-10-26T01:30Z']);
  t.same(runs('0,59 2 * * *', '2026-10-24T12:00Z', 3), [
    '2026-10-25T00:00Z',
    '2026-10-25T00:59Z',
    '2026-10-26T01:00Z',
  ]);
  t.same(runs('30 * * * *', '2026-10-24T23:45Z', 4), [
    '2026-10-25T00:30Z',
    '2026-10-25T01:30Z',
    '2026-10-25T02:30Z',
    '2026-10-25T03:30Z',
  ]);
  t.end();
});

t.test('changes of half an hour, at midnight, and of a whole day', t => {
  // Lord Howe: 02:00 to 02:30 on 2026-10-04.
  t.same(runs('15 2 * * *', '2026-10-03T00:00Z', 2, zoneNamed('Australia/Lord_Howe')), [
    '2026-10-03T15:30Z',
    '2026-10-04T15:15Z',
  ]);
  // Cairo: 00:00 to 01:00 on 2026-04-24.
  t.same(runs('@daily', '2026-04-23T00:00Z', 2, zoneNamed('Africa/Cairo')), [
    '2026-04-23T22:00Z',
    '2026-04-24T21:00Z',
  ]);
  // Samoa had no 30 December 2011: it is the first moment of the 31st.
  t.same(runs('0 12 30 12 *', '2011-12-01T00:00Z', 1, zoneNamed('Pacific/Apia')), ['2011-12-30T10:00Z']);
  t.end();
});

t.test('the zone of this machine', t => {
  const before = process.env['TZ'];
  t.teardown(() => {
    if (before === undefined) delete process.env['TZ'];
    else process.env['TZ'] = before;
  });
  process.env['TZ'] = 'Europe/Berlin';
  for (const from of ['2026-03-28T12:00Z', '2026-10-24T12:00Z', '2026-06-01T00:00Z']) {
    for (const text of ['30 2 * * *', '*/20 * * * *', '0 */3 * * *']) {
      t.same(runs(text, from, 40, LOCAL_ZONE), runs(text, from, 40), `${text} from ${from}`);
    }
  }
  t.end();
});

t.test('29 February waits for its year', t => {
  t.same(runs('0 0 29 2 *', '2026-01-01T00:00Z', 2, UTC), ['2028-02-29T00:00Z', '2032-02-29T00:00Z']);
  t.end();
});

t.test('what is not allowed is told', t => {
  const wrong: readonly [string, RegExp][] = [
    ['', /it has 1 fields and not 5/],
    ['* * * *', /4 fields/],
    ['* * * * * *', /6 fields/],
    ['60 * * * *', /the minute "60" is not allowed: numbers from 0 to 59/],
    ['* 24 * * *', /the hour "24"/],
    ['* * 0 * *', /the day of the month "0"/],
    ['* * * foo *', /the month "foo" is not allowed: numbers from 1 to 12, or jan to dec/],
    ['* * * * 8', /the day of the week "8"/],
    ['*/0 * * * *', /step of 0/],
    ['5-1 * * * *', /ends before it begins/],
    ['1,,2 * * * *', /is not understood/],
    ['* * L * *', /the day of the month "l"/],
    ['0 0 30 2 *', /that day never comes/],
    ['@reboot', /there are @yearly/],
    ['constructor', /1 fields/],
    ['@constructor', /there are @yearly/],
  ];
  for (const [text, message] of wrong) t.throws(() => new Cron(text), { code: 'USAGE', message }, text);
  t.throws(() => zoneNamed('Europe/Nowhere'), { code: 'USAGE' });
  t.end();
});
