/** When schedules run, on a clock that the test sets: missed slots, overlaps, sleep, a clock that is set, restarts, retention. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { Schedule } from '../../src/cow/schedule.js';
import { Scheduler, type Work } from '../../src/cow/scheduler.js';
import { type TimingRequest, timingOf } from '../../src/cow/timing.js';
import { LOG, scratch } from './lab.js';
import { WallClock } from './wall-clock.js';

t.setTimeout(120_000);

const HOUR = 3_600_000;

/** Takes a point at once, or when it is told. */
class Volumes implements Work {
  readonly runs: string[] = [];
  readonly points_ = new Map<string, { job: string; good: boolean; empty: boolean }>();
  readonly inUse = new Set<string>();
  readonly #clock: WallClock;
  fails = '';
  marks: string[] = [];
  warnings: string[] = [];
  /** Nothing is preserved. */
  none = false;
  /** Where it is there, a run waits for it. */
  gate: Promise<void> | undefined;
  #count = 0;

  constructor(clock: WallClock) {
    this.#clock = clock;
  }

  async take({ name }: Schedule, job: string) {
    this.runs.push(`${name} ${new Date(this.#clock.time()).toISOString().slice(5, 16)}`);
    await this.gate;
    if (this.fails) throw new Error(this.fails);
    const group = `g${++this.#count}`;
    this.points_.set(group, { job, good: !this.none, empty: this.none });
    return { groups: [group], marks: this.marks, warnings: this.warnings };
  }

  points(wanted: { readonly groups: readonly string[] } | { readonly job: string }) {
    const all = [...this.points_].map(([group, point]) => ({ group, ...point }));
    return all.filter(one => ('job' in wanted ? one.job === wanted.job : wanted.groups.includes(one.group)));
  }

  async delete(group: string) {
    if (this.inUse.has(group)) throw new Error('it is in use');
    this.points_.delete(group);
  }

  exposure() {
    return [];
  }
}

interface Setting {
  readonly clock: WallClock;
  readonly volumes: Volumes;
  readonly folder: string;
  readonly serve: (...schedules: readonly Schedule[]) => Scheduler;
}

function setting(t: Test, start: string): Setting {
  const folder = scratch(t);
  const clock = new WallClock(start);
  const volumes = new Volumes(clock);
  return {
    clock,
    volumes,
    folder,
    serve(...schedules) {
      const scheduler = new Scheduler({ folder, schedules, clock, log: LOG, work: volumes });
      scheduler.start();
      return scheduler;
    },
  };
}

function schedule(request: TimingRequest, more: Partial<Schedule> = {}): Schedule {
  const timeZone = request.cron === undefined ? {} : { timeZone: 'Europe/Berlin' };
  return { name: 's', volumes: ['a'], timing: timingOf({ ...timeZone, ...request }), request: {}, ...more };
}

const NIGHTLY = schedule({ cron: '30 2 * * *' });
const OFTEN = schedule({ every: 15 });

t.test('each slot once', async t => {
  const { clock, volumes, serve } = setting(t, '2026-06-01T10:00Z');
  const scheduler = serve(NIGHTLY);
  t.match(scheduler.show('s'), { state: 'waiting', next: '2026-06-02T00:30:00.000Z', last: null });
  await clock.to('2026-06-04T10:00Z');
  t.same(volumes.runs, ['s 06-02T00:30', 's 06-03T00:30', 's 06-04T00:30']);
  t.match(scheduler.show('s'), {
    next: '2026-06-05T00:30:00.000Z',
    last: { slot: '2026-06-04T00:30:00.000Z', outcome: 'done', groups: ['g3'] },
    groups: ['g1', 'g2', 'g3'],
  });
});

t.test('every: at once, then by the period; what a run takes moves nothing', async t => {
  const { clock, volumes, serve } = setting(t, '2026-06-01T10:02Z');
  serve(OFTEN);
  await clock.to('2026-06-01T10:40Z');
  t.same(volumes.runs, ['s 06-01T10:02', 's 06-01T10:17', 's 06-01T10:32']);
});

for (const [name, one] of [
  ['cron', schedule({ cron: '*/15 * * * *' })],
  ['nightly', NIGHTLY],
  ['every', OFTEN],
] as const) {
  t.test(`missed while nobody was there, or while the machine slept: made up for once (${name})`, async t => {
    const { clock, volumes, serve } = setting(t, '2026-06-01T10:00Z');
    const first = serve(one);
    await clock.to('2026-06-01T10:05Z');
    first.stop();
    volumes.runs.length = 0;
    await clock.to('2026-06-04T10:05Z');
    t.same(volumes.runs, []);
    const second = serve(one);
    await clock.to('2026-06-04T10:06Z');
    t.same(volumes.runs, ['s 06-04T10:05']);
    const { last } = second.show('s');
    t.equal(last?.slot, name === 'nightly' ? '2026-06-04T00:30:00.000Z' : '2026-06-04T10:00:00.000Z');
    volumes.runs.length = 0;
    clock.set(50 * HOUR);
    await clock.to('2026-06-06T12:08Z');
    t.same(
      volumes.runs.length,
      1,
      'within a minute of waking up, although timers stood still, and once for all that was missed',
    );
  });
}

t.test('put back behind a slot: it does not come again', async t => {
  const { clock, volumes, serve } = setting(t, '2026-06-01T22:00Z');
  serve(NIGHTLY);
  await clock.to('2026-06-02T00:31Z');
  clock.set(-2 * HOUR);
  await clock.to('2026-06-02T12:00Z');
  t.same(volumes.runs, ['s 06-02T00:30']);
  await clock.to('2026-06-03T12:00Z');
  t.same(volumes.runs, ['s 06-02T00:30', 's 06-03T00:30']);
});

t.test('put back while the daemon was down: likewise', async t => {
  const { clock, volumes, serve } = setting(t, '2026-06-01T22:00Z');
  const first = serve(NIGHTLY);
  await clock.to('2026-06-02T00:31Z');
  first.stop();
  clock.set(-HOUR);
  serve(NIGHTLY);
  await clock.to('2026-06-03T12:00Z');
  t.same(volumes.runs, ['s 06-02T00:30', 's 06-03T00:30']);
});

t.test('a clock that was years ahead does not stop schedules for years', async t => {
  const { clock, volumes, serve } = setting(t, '2037-06-01T22:00Z');
  const scheduler = serve(NIGHTLY, { ...OFTEN, name: 'often' });
  await clock.to('2037-06-02T00:31Z');
  volumes.runs.length = 0;
  clock.set(Date.parse('2026-06-01T22:00Z') - clock.time());
  await clock.to('2026-06-02T00:31Z');
  t.ok(volumes.runs.includes('s 06-02T00:30'), 'the next night');
  t.equal(
    volumes.runs.filter(one => one.startsWith('often')).length,
    10,
    'every quarter of an hour all the time',
  );
  t.equal(scheduler.show('s').next, '2026-06-03T00:30:00.000Z');
});

t.test('every, and of every hour: they go on as time goes on when the clock is put back', async t => {
  const { clock, volumes, serve } = setting(t, '2026-06-01T10:00Z');
  serve(OFTEN, schedule({ cron: '0 * * * *' }, { name: 'hourly' }));
  await clock.to('2026-06-01T11:05Z');
  t.same(volumes.runs.slice(-2).sort(), ['hourly 06-01T11:00', 's 06-01T11:00']);
  volumes.runs.length = 0;
  clock.set(-3 * HOUR);
  await clock.to('2026-06-01T09:01Z');
  t.same(
    volumes.runs.filter(one => one.startsWith('s')),
    ['s 06-01T08:15', 's 06-01T08:30', 's 06-01T08:45', 's 06-01T09:00'],
  );
  t.same(
    volumes.runs.filter(one => one.startsWith('h')),
    ['hourly 06-01T09:00'],
  );
});

t.test('set forward: what is left out is made up for once', async t => {
  const { clock, volumes, serve } = setting(t, '2026-06-01T22:00Z');
  serve(NIGHTLY);
  await clock.to('2026-06-01T22:10Z');
  clock.set(5 * HOUR);
  await clock.to('2026-06-02T20:00Z');
  t.same(volumes.runs.length, 1);
});

t.test('summer time comes and goes', async t => {
  const { clock, volumes, serve } = setting(t, '2026-03-28T12:00Z');
  serve(NIGHTLY);
  await clock.to('2026-03-30T12:00Z');
  t.same(volumes.runs, ['s 03-29T01:00', 's 03-30T00:30']);
  volumes.runs.length = 0;
  const autumn = setting(t, '2026-10-24T12:00Z');
  autumn.serve(NIGHTLY);
  await autumn.clock.to('2026-10-26T12:00Z');
  t.same(autumn.volumes.runs, ['s 10-25T00:30', 's 10-26T01:30']);
});

t.test('never overlaps itself: the slot is skipped, and that is recorded', async t => {
  const { clock, volumes, serve } = setting(t, '2026-06-01T10:00Z');
  let open = () => {};
  volumes.gate = new Promise(done => {
    open = done;
  });
  const scheduler = serve(OFTEN, { ...OFTEN, name: 'other' });
  await clock.to('2026-06-01T10:31Z');
  t.same(volumes.runs, ['s 06-01T10:00', 'other 06-01T10:00']);
  t.match(scheduler.show('s'), {
    state: 'running',
    skips: 2,
    skipped: {
      slot: '2026-06-01T10:30:00.000Z',
      why: 'the run of 2026-06-01T10:00:00.000Z was still going',
    },
  });
  await t.rejects(scheduler.run('s'), { code: 'SCHEDULE_RUNNING' });
  open();
  await clock.to('2026-06-01T10:46Z');
  t.same(volumes.runs.slice(2).sort(), ['other 06-01T10:45', 's 06-01T10:45']);
  t.match(scheduler.show('s'), { state: 'waiting', skips: 2, last: { outcome: 'done' } });
});

t.test('moments of which nothing was preserved do not pile up, nor count as good ones', async t => {
  const { clock, volumes, serve } = setting(t, '2026-01-01T00:00:00Z');
  const scheduler = serve(schedule({ every: '1h' }, { keep: 2 }));
  const left = () => [...volumes.points_.keys()];
  await clock.to('2026-01-01T00:30Z');
  volumes.none = true;
  volumes.warnings = ['none: nothing was preserved'];
  await clock.to('2026-01-01T05:30Z');
  t.same(left(), ['g1', 'g5', 'g6'], 'the good one, and the newest of the others');
  t.same(scheduler.show('s').last!.warnings, ['none: nothing was preserved']);
  volumes.none = false;
  await clock.to('2026-01-01T07:30Z');
  t.same(left(), ['g7', 'g8']);
  scheduler.stop();
});

t.test('a failure is recorded, and the next slot tries again', async t => {
  const { clock, volumes, serve } = setting(t, '2026-06-01T22:00Z');
  const scheduler = serve(NIGHTLY);
  volumes.fails = 'the store is full';
  await clock.to('2026-06-03T12:00Z');
  t.match(scheduler.show('s'), {
    failures: 2,
    lastGood: null,
    last: { outcome: 'failed', why: 'the store is full', slot: '2026-06-03T00:30:00.000Z' },
  });
  await t.rejects(scheduler.run('s'), /the store is full/);
  t.match(scheduler.show('s'), { failures: 3, last: { slot: null } });
  volumes.fails = '';
  volumes.marks = ['the command AFTER_BACKUP failed: it ended with 1'];
  await clock.to('2026-06-04T12:00Z');
  t.match(scheduler.show('s'), {
    failures: 0,
    last: { outcome: 'marked', why: /AFTER_BACKUP/ },
    lastGood: { outcome: 'marked' },
  });
});

t.test(
  'a run that the daemon did not survive: it is known, made up for once, and its points are its own',
  async t => {
    const { clock, volumes, folder, serve } = setting(t, '2026-06-01T22:00Z');
    serve(NIGHTLY);
    volumes.gate = new Promise(() => {});
    await clock.to('2026-06-02T00:31Z');
    const { body } = JSON.parse(readFileSync(join(folder, 'schedules.json'), 'utf8'));
    // Its snapshot was there when the daemon was killed.
    volumes.points_.set('left', { job: body.schedules.s.running.job, good: true, empty: false });
    volumes.points_.set('manual', { job: 'another', good: true, empty: false });
    const second = serve(NIGHTLY);
    t.match(second.show('s'), {
      state: 'running',
      failures: 1,
      groups: ['left'],
      last: { outcome: 'interrupted' },
    });
    t.equal(volumes.runs.length, 2);
    // Killed again.
    volumes.gate = undefined;
    const third = serve(NIGHTLY);
    await clock.to('2026-06-02T12:00Z');
    t.equal(volumes.runs.length, 2, 'not for ever');
    t.match(third.show('s'), { state: 'waiting', failures: 2, next: '2026-06-03T00:30:00.000Z' });
  },
);

t.test('a clean stop in the middle of a run counts as interrupted', async t => {
  const { clock, volumes, serve } = setting(t, '2026-06-01T22:00Z');
  const first = serve(NIGHTLY);
  let open = () => {};
  volumes.gate = new Promise(done => {
    open = done;
  });
  await clock.to('2026-06-02T00:31Z');
  volumes.fails = 'the daemon is being stopped';
  first.stop();
  open();
  await first.settled();
  volumes.fails = '';
  const second = serve(NIGHTLY);
  await second.settled();
  t.match(second.show('s'), { last: { outcome: 'done', slot: '2026-06-02T00:30:00.000Z' }, groups: ['g1'] });
});

t.test('paused: not even what was missed; it survives a restart', async t => {
  const { clock, volumes, serve } = setting(t, '2026-06-01T22:00Z');
  const first = serve(NIGHTLY);
  t.match(first.pause('s'), { state: 'paused', next: null });
  await clock.to('2026-06-02T12:00Z');
  first.stop();
  const second = serve(NIGHTLY);
  await clock.to('2026-06-03T12:00Z');
  t.same(volumes.runs, []);
  t.match(await second.run('s'), { state: 'paused', last: { slot: null, outcome: 'done' } });
  t.match(second.resume('s'), { state: 'waiting', next: '2026-06-04T00:30:00.000Z' });
  await clock.to('2026-06-04T00:31Z');
  t.same(volumes.runs, ['s 06-03T12:00', 's 06-04T00:30']);
  t.throws(() => second.pause('x'), { code: 'SCHEDULE_UNKNOWN', hint: 'there are s' });
});

t.test('keeps the newest of its own that can be read', async t => {
  const { clock, volumes, serve } = setting(t, '2026-06-01T10:00Z');
  volumes.points_.set('manual', { job: 'x', good: true, empty: false });
  const scheduler = serve({ ...NIGHTLY, keep: 2 }, { ...NIGHTLY, name: 'other' });
  const groups = () => scheduler.show('s').groups;
  const others = scheduler.show('other').groups.length;
  t.equal(others, 0);
  for (let i = 0; i < 3; i++) await scheduler.run('s');
  t.same(groups(), ['g2', 'g3']);
  volumes.points_.get('g3')!.good = false;
  await scheduler.run('s');
  t.same(groups(), ['g2', 'g3', 'g4'], 'a broken one is no point: g2 is the second newest');
  volumes.inUse.add('g2');
  t.match(await scheduler.run('s'), {
    last: { outcome: 'done', warnings: ['g2 could not be deleted: it is in use'] },
  });
  t.same(groups(), ['g2', 'g4', 'g5']);
  volumes.inUse.clear();
  volumes.points_.delete('g5');
  t.match(await scheduler.run('s'), { last: { warnings: [] } });
  t.same(groups(), ['g4', 'g6'], 'somebody else deleted one');
  volumes.fails = 'no';
  await t.rejects(scheduler.run('s'));
  t.same(groups(), ['g4', 'g6'], 'who fails deletes nothing');
  t.ok(volumes.points_.has('manual'));
  await clock.to('2026-06-01T10:01Z');
});

t.test('another time in the configuration: slots of the new one were not missed', async t => {
  const { clock, volumes, serve } = setting(t, '2026-06-01T10:00Z');
  serve(NIGHTLY).stop();
  await clock.to('2026-06-03T10:00Z');
  serve(schedule({ cron: '0 9 * * *' }));
  await clock.to('2026-06-03T11:00Z');
  t.same(volumes.runs, []);
});

t.test('a damaged record is told, and schedules go on; a schedule that is gone comes back', async t => {
  const { clock, folder, volumes, serve } = setting(t, '2026-06-01T10:00Z');
  const first = serve({ ...NIGHTLY, name: 'constructor' }, NIGHTLY);
  await first.run('s');
  first.stop();
  serve({ ...NIGHTLY, name: 'constructor' }).stop();
  const third = serve(NIGHTLY);
  t.same(third.show('s').groups, ['g1']);
  third.stop();
  writeFileSync(join(folder, 'schedules.json'), '{}');
  const fourth = serve(NIGHTLY);
  t.match(fourth.show('s'), { trouble: /damaged/, groups: [], last: null });
  await clock.to('2026-06-02T01:00Z');
  t.same(volumes.runs.slice(1), ['s 06-02T00:30']);
});

t.test('every: what is allowed', t => {
  for (const every of [0, '0m', '30s', '367d', '', 'x', '1h30m'] as const) {
    t.throws(() => timingOf({ every }), { code: 'USAGE' }, String(every));
  }
  t.throws(() => timingOf({}), { code: 'USAGE' });
  t.throws(() => timingOf({ every: 1, cron: '@daily' }), { code: 'USAGE' });
  t.throws(() => timingOf({ every: 1, timeZone: 'UTC' }), { code: 'USAGE' });
  t.equal(timingOf({ every: '6h' }).next(0), 6 * HOUR);
  t.end();
});

t.test('years away: the newest slot, and soon found', t => {
  const timing = timingOf({ cron: '* * * * *', timeZone: 'Europe/Berlin' });
  const now = Date.parse('2026-06-01T10:00:30Z');
  t.equal(timing.due(Date.parse('2006-01-01T00:00Z'), now), now - 30_000);
  const yearly = timingOf({ cron: '@yearly', timeZone: 'UTC' });
  t.equal(yearly.due(Date.parse('2006-06-01T00:00Z'), now), Date.parse('2026-01-01T00:00Z'));
  t.end();
});
