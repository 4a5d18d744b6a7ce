/**
 * Whatever fails or hangs, at whichever step: who was told to hold is released exactly once, the last first, within the
 * deadline, and what was taken is there or is not. Every step of every holder and provider fails, hangs, or answers late.
 */
import t, { type Test } from 'tap';
import { type Holder, runSequence, type Taker } from '../../src/cow/sequence.js';
import { Timeline } from '../../src/cow/timeline.js';
import { AsofError } from '../../src/errors.js';
import { FakeClock } from './fake-clock.js';
import { LOG } from './lab.js';

const STOPPED = new AsofError('DAEMON_MISSING', 'the daemon is being stopped');

type Fault = 'fail' | 'hang' | 'late';

interface Scene {
  /** "prepare W2", "take cow" … → what goes wrong there. */
  readonly faults: Readonly<Record<string, Fault>>;
  readonly takers?: readonly string[];
  /** Goes on whoever is lost. */
  readonly tolerant?: boolean;
  readonly judge?: string;
  /** At this step the daemon is to end; it hangs. */
  readonly stopAt?: string;
}

const PREPARE_MS = 40_000;
const HOLD_MS = 30_000;

async function play({ faults, takers = ['cow', 'reflink'], tolerant = false, judge, stopAt }: Scene) {
  const clock = new FakeClock();
  const stopping = new AbortController();
  const told: string[] = [];
  const times = new Map<string, number>();
  const act = (what: string, signal?: AbortSignal): Promise<void> => {
    told.push(what);
    times.set(what, clock.now());
    const fault = what === stopAt ? 'hang' : faults[what];
    if (what === stopAt) setImmediate(() => stopping.abort(STOPPED));
    if (fault === 'fail') return Promise.reject(new Error(`${what} failed`));
    if (fault === 'hang') return new Promise(() => {});
    if (fault === 'late') {
      return new Promise(done => {
        // It answers when it is told that nobody waits any more; a provider, which is not told, after a long time.
        if (signal) signal.addEventListener('abort', () => done());
        else clock.after(3_600_000, done);
      });
    }
    return Promise.resolve();
  };
  const holder = (name: string, prepares: boolean): Holder => ({
    name,
    ...(prepares && { prepare: signal => act(`prepare ${name}`, signal) }),
    hold: signal => act(`hold ${name}`, signal),
    release: signal => act(`release ${name}`, signal),
  });
  const exists = new Set<string>();
  const taker = (name: string): Taker<string> => ({
    name,
    async take() {
      await act(`take ${name}`);
      exists.add(name);
      return name;
    },
    async undo() {
      await act(`undo ${name}`);
      exists.delete(name);
    },
  });
  const timeline = new Timeline(clock, LOG);
  const work = runSequence<string>({
    clock,
    timeline,
    writers: [holder('W1', true), holder('W2', true)],
    fileSystems: [holder('F1', false), holder('F2', false)],
    takers: takers.map(taker),
    prepareMs: PREPARE_MS,
    holdMs: HOLD_MS,
    worth: () => tolerant,
    judge: () => judge,
    stopping: stopping.signal,
    exclusively: run => run(),
  });
  let ended = 0;
  const answer = await clock.until(
    work.then(
      reached => {
        ended = clock.now();
        return { reached, error: undefined };
      },
      (error: unknown) => {
        ended = clock.now();
        return { reached: undefined, error };
      },
    ),
  );
  const toldAtEnd = [...told];
  // What comes too late comes now.
  while (clock.next !== undefined) await clock.step();
  const states = timeline.transitions.map(({ state }) => state);
  return { ...answer, told, toldAtEnd, times, exists, states, ended, timeline };
}

type Played = Awaited<ReturnType<typeof play>>;

function checkPromises(t: Test, played: Played, name: string): void {
  const { told, toldAtEnd, times, exists, reached, error, states } = played;
  const begun: string[] = [];
  for (const what of told) {
    const match = /^(?:prepare|hold) (\w+)$/.exec(what);
    if (match && !begun.includes(match[1]!)) begun.push(match[1]!);
  }
  const released = told.filter(what => what.startsWith('release ')).map(what => what.slice(8));
  t.same(released, begun.reverse(), `${name}: exactly those, once, the last first`);
  t.same(
    toldAtEnd.filter(what => what.startsWith('release ')),
    released.map(one => `release ${one}`),
    `${name}: before the requester is told`,
  );
  const firstHold = Math.min(...told.filter(what => what.startsWith('hold ')).map(what => times.get(what)!));
  for (const one of released) {
    const at = times.get(`release ${one}`)!;
    t.ok(
      at <= (Number.isFinite(firstHold) ? firstHold + HOLD_MS : PREPARE_MS + HOLD_MS / 3),
      `${name}: ${one} is told within the deadline (${at})`,
    );
  }
  t.ok(
    told.findLastIndex(what => what.startsWith('hold ')) <
      told.findIndex(what => what.startsWith('release ')),
  );
  if (error) {
    t.ok(error instanceof AsofError, `${name}: ${String(error)}`);
    t.equal(states.at(-1), 'failed');
    t.same([...exists], [], `${name}: nothing is left of it`);
  } else {
    t.equal(states.at(-1), 'told');
    t.same([...exists], [reached!.taken], `${name}: it is there, and no other`);
  }
}

t.test('the sequence as it should be', async t => {
  const played = await play({ faults: {} });
  t.same(played.told, [
    'prepare W1',
    'prepare W2',
    'hold W1',
    'hold W2',
    'hold F1',
    'hold F2',
    'take cow',
    'release F2',
    'release F1',
    'release W2',
    'release W1',
  ]);
  t.same(played.states, [
    'requested',
    'preparing',
    'ready',
    'holding',
    'held',
    'taking',
    'taken',
    'releasing',
    'released',
    'ending',
    'over',
    'told',
  ]);
  checkPromises(t, played, 'sound');
  t.same(played.reached!.tried, [{ name: 'cow', why: '' }]);
  t.equal(played.timeline.steps.length, played.told.length, 'each step has its line');
});

const HOLDS = ['prepare W1', 'prepare W2', 'hold W1', 'hold W2', 'hold F1', 'hold F2'];
const RELEASES = ['release F2', 'release F1', 'release W2', 'release W1'];
const FAULTS: readonly Fault[] = ['fail', 'hang', 'late'];

for (const fault of FAULTS) {
  for (const step of HOLDS) {
    t.test(`${step}: ${fault}; the requester wants no less`, async t => {
      const played = await play({ faults: { [step]: fault } });
      checkPromises(t, played, step);
      t.match(played.error, { code: 'CONSISTENCY_UNMET' });
      t.notOk(played.told.includes('take cow'));
    });
    t.test(`${step}: ${fault}; the requester takes what there is`, async t => {
      const played = await play({ faults: { [step]: fault }, tolerant: true });
      checkPromises(t, played, step);
      t.equal(played.reached!.lost.length, 1, 'and learns what it is not');
    });
    for (const release of RELEASES) {
      t.test(`${step}: ${fault}, then ${release}: ${fault}`, async t => {
        for (const tolerant of [true, false]) {
          const played = await play({ faults: { [step]: fault, [release]: fault }, tolerant });
          checkPromises(t, played, `${step}, ${release}`);
        }
      });
    }
  }

  for (const release of RELEASES) {
    t.test(`${release}: ${fault}`, async t => {
      const played = await play({ faults: { [release]: fault }, tolerant: true });
      checkPromises(t, played, release);
      t.equal(played.reached!.lost.length, 1, 'who did not say that he held cannot be counted');
      const refused = await play({ faults: { [release]: fault }, judge: 'not good enough' });
      checkPromises(t, refused, release);
      t.match(refused.error, { code: 'CONSISTENCY_UNMET', message: /not good enough/ });
    });
  }

  t.test(`take: ${fault}; the next provider takes it`, async t => {
    const played = await play({ faults: { 'take cow': fault } });
    checkPromises(t, played, 'take');
    t.equal(played.reached!.taken, 'reflink');
    t.match(played.reached!.tried, [
      { name: 'cow', why: /./ },
      { name: 'reflink', why: '' },
    ]);
    t.equal(played.told.includes('undo cow'), fault !== 'hang', 'the first is undone, as soon as it answers');
  });

  for (const second of FAULTS) {
    t.test(`take: ${fault}, and ${second} of the last provider`, async t => {
      const played = await play({ faults: { 'take cow': fault, 'take reflink': second } });
      checkPromises(t, played, 'take');
      t.match(played.error, { code: 'SNAPSHOT_FAILED' });
      if (fault !== 'late') t.match((played.error as Error).message, /cow: .*; reflink: /, 'all causes');
    });
  }

  t.test(`undo: ${fault} keeps nobody held`, async t => {
    const played = await play({ faults: { 'take cow': 'fail', 'undo cow': fault } });
    t.equal(
      played.reached?.taken ?? 'none',
      fault === 'fail' ? 'reflink' : (played.reached?.taken ?? 'none'),
    );
    const last = Math.max(...RELEASES.map(one => played.times.get(one)!));
    t.ok(last <= HOLD_MS, `all are told by ${last}`);
  });
}

for (const step of [...HOLDS, 'take cow']) {
  t.test(`the daemon is to end during ${step}`, async t => {
    for (const tolerant of [true, false]) {
      const played = await play({ faults: {}, tolerant, stopAt: step });
      checkPromises(t, played, step);
      t.equal(played.error, STOPPED);
      t.equal(played.times.get(step), 0);
      t.equal(played.ended, 0, 'nothing is waited for');
      t.notOk(played.told.includes('take reflink'), 'nor tried');
    }
  });
}

t.test('everything hangs', async t => {
  const all = Object.fromEntries([...HOLDS, ...RELEASES, 'take cow'].map(step => [step, 'hang' as const]));
  for (const tolerant of [true, false]) checkPromises(t, await play({ faults: all, tolerant }), 'all');
});

t.test('nothing waits for quiet where it does not come', async t => {
  const clock = new FakeClock();
  const told: string[] = [];
  const timeline = new Timeline(clock, LOG);
  await t.rejects(
    runSequence<string>({
      clock,
      timeline,
      writers: [
        {
          name: 'W',
          prepare: async () => void told.push('prepare'),
          hold: async () => {},
          release: async () => {},
        },
      ],
      fileSystems: [],
      takers: [],
      prepareMs: 1000,
      holdMs: 1000,
      wait: () => Promise.reject(new AsofError('QUIET_MISSED', 'no quiet')),
      worth: () => true,
      judge: () => undefined,
      exclusively: run => run(),
    }),
    { code: 'QUIET_MISSED' },
  );
  t.same(told, [], 'nobody was told anything');
  t.same(
    timeline.transitions.map(({ state }) => state),
    ['requested', 'waiting', 'failing', 'failed'],
  );
});
