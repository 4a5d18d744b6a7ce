/** The quiet window on a clock of its own: how long it waits for which writers, and that no write goes unnoticed. */
import t from 'tap';
import { waitForQuiet } from '../../src/cow/quiet-window.js';
import { AsofError } from '../../src/errors.js';
import { FakeClock } from './fake-clock.js';

/** Writers of two volumes, each with the times at which it writes. */
function group(clock: FakeClock, ...times: readonly (readonly number[])[]): () => number[] {
  return () => times.map(each => each.filter(at => at <= clock.now()).length);
}

const every = (ms: number, until: number) =>
  Array.from({ length: Math.floor(until / ms) }, (_, i) => (i + 1) * ms);

function wait(writes: (clock: FakeClock) => () => number[], outcome: 'fail' | 'crash' = 'fail') {
  const clock = new FakeClock();
  const options = { clock, windowMs: 5000, deadlineMs: 60_000, outcome, writes: writes(clock) };
  return clock.until(waitForQuiet(options));
}

t.test('nobody writes: the window, and no longer', async t => {
  t.match(await wait(clock => group(clock, [], [])), { waitedMs: 5000, restarts: 0, writes: [0, 0] });
});

t.test('a write to any member begins it anew', async t => {
  for (const writers of [
    [[4000], []],
    [[], [4000]],
  ]) {
    const quiet = await wait(clock => group(clock, ...writers));
    t.equal(quiet.restarts, 1);
    t.ok(quiet.waitedMs >= 9000, 'a whole window after the write');
    t.ok(quiet.waitedMs <= 9000 + 100, 'and no more than one look longer');
    t.same(
      quiet.writes,
      writers.map(each => each.length),
    );
  }
});

t.test('writes that take turns keep it open', async t => {
  const quiet = await wait(clock => group(clock, [3000, 9000], [6000, 12_000]));
  t.equal(quiet.restarts, 4);
  t.ok(quiet.waitedMs >= 17_000 && quiet.waitedMs <= 17_100);
});

t.test('a writer every 4.9 s: the deadline, and the outcome that was chosen', async t => {
  const writer = (clock: FakeClock) => group(clock, every(4900, 100_000), []);
  await t.rejects(wait(writer), { code: 'QUIET_MISSED', message: /12 times/ });
  t.match(await wait(writer, 'crash'), { writes: undefined, waitedMs: 60_000 });
});

t.test('a writer every 5.2 s leaves a window', async t => {
  const quiet = await wait(clock => group(clock, every(5200, 100_000)));
  t.equal(quiet.restarts, 0);
});

t.test('a daemon that stops waits no longer', async t => {
  const clock = new FakeClock();
  const stopping = new AbortController();
  const waiting = waitForQuiet({
    clock,
    windowMs: 5000,
    deadlineMs: 60_000,
    outcome: 'fail',
    writes: () => [0],
    stopping: stopping.signal,
  });
  await clock.step();
  stopping.abort(new AsofError('DAEMON_MISSING', 'the daemon is being stopped'));
  await t.rejects(waiting, { code: 'DAEMON_MISSING' }, 'without another look');
});
