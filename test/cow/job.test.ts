/**
 * Commands around a moment: what they are told, in which order they run, and what becomes of a job when one of them ends
 * with 1 or 255, is killed, or hangs; at each of the four stages.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { type Commands, STAGES, type Stage } from '../../src/cow/commands.js';
import { runJob } from '../../src/cow/job.js';
import { wordsOf } from '../../src/cow/program.js';
import { AsofError } from '../../src/errors.js';
import { eventually, running } from '../cli/asof.js';
import { FakeClock } from './fake-clock.js';
import { codeOf, LOG, scratch } from './lab.js';

const A = { name: 'a', id: '01234567-89ab-4cde-8f01-23456789abcd' };
const B = { name: 'b', id: 'fedcba98-7654-4321-8fed-cba987654321' };
const KEYS = {
  BEFORE_BACKUP: 'beforeBackup',
  BEFORE_SNAPSHOT: 'beforeSnapshot',
  AFTER_SNAPSHOT: 'afterSnapshot',
  AFTER_BACKUP: 'afterBackup',
} as const;

type Sets = readonly (readonly (typeof A)[])[];

/** Each command writes what it was told to a file; the job its own steps as well. */
async function play(t: Test, sets: Sets, special: Partial<Record<Stage, string>> = {}, fails = false) {
  const folder = scratch(t);
  const trace = join(folder, 'trace');
  const line = `printf '%s %s %s %s\\n%s\\n' "$R_CALLBACK_STAGE" "$R_VOLUME_NAMES" "$R_VOLUME_GUIDS" "$R_CALLBACK_UID" "$ASOF_JOB" >> ${trace}`;
  const commands: Commands = {
    ...Object.fromEntries(STAGES.map(stage => [KEYS[stage], `${line}; ${special[stage] ?? ''}`])),
    shell: true,
    timeoutMs: 5000,
  };
  const steps: string[] = [];
  const clock = new FakeClock();
  const said = () => (existsSync(trace) ? readFileSync(trace, 'utf8').trim().split('\n') : []);
  const stages = () =>
    said()
      .filter((_, i) => i % 2 === 0)
      .map(one => one.split(' ')[0]);
  const job = runJob<typeof A, string>({
    clock,
    log: LOG,
    commands,
    sets,
    async take(set) {
      steps.push(`take after ${stages().length} calls`);
      if (fails) throw new Error('no moment');
      return set.map(({ name }) => name).join('+');
    },
    publish: async taken => void steps.push(`publish ${taken.join()} after ${stages().length} calls`),
    discard: async taken => void steps.push(`discard ${taken.join()}`),
    work: async () => void steps.push(`work after ${stages().length} calls`),
  });
  job.catch(() => {}); // it may end before the test looks at it
  return { job, clock, steps, said, stages, folder };
}

const golden = (uid: string, ...calls: readonly (readonly [Stage, ...(typeof A)[]])[]) =>
  calls.flatMap(([stage, ...set]) => [
    `${stage} ${set.map(one => one.name).join(',')} ${set.map(one => `{${one.id}}`).join(',')} ${uid}`,
    JSON.stringify({ uid, stage, volumes: set.map(({ name, id }) => ({ name, guid: id })) }),
  ]);

t.test('two volumes together: four calls', async t => {
  const { job, said, steps } = await play(t, [[A, B]]);
  const { uid, marks } = await job;
  t.match(uid, /^[0-9a-f-]{36}$/);
  t.same(
    said(),
    golden(
      uid,
      ['BEFORE_BACKUP', A, B],
      ['BEFORE_SNAPSHOT', A, B],
      ['AFTER_SNAPSHOT', A, B],
      ['AFTER_BACKUP', A, B],
    ),
  );
  t.same(steps, ['take after 2 calls', 'publish a+b after 3 calls', 'work after 3 calls']);
  t.same(marks, []);
});

t.test('two volumes separately: six calls, and nothing is shown before all is there', async t => {
  const { job, said, steps } = await play(t, [[B], [A]]);
  const { uid } = await job;
  t.same(
    said(),
    golden(
      uid,
      ['BEFORE_BACKUP', B, A],
      ['BEFORE_SNAPSHOT', B],
      ['AFTER_SNAPSHOT', B],
      ['BEFORE_SNAPSHOT', A],
      ['AFTER_SNAPSHOT', A],
      ['AFTER_BACKUP', B, A],
    ),
  );
  t.same(steps, [
    'take after 2 calls',
    'take after 4 calls',
    'publish b,a after 5 calls',
    'work after 5 calls',
  ]);
});

t.test('each job has an id of its own', async t => {
  const uids = [];
  for (let i = 0; i < 2; i++) uids.push((await (await play(t, [[A]])).job).uid);
  t.not(uids[0], uids[1]);
});

t.test('blank commands run nothing', async t => {
  for (const blank of ['', '  ', undefined]) {
    const commands = blank === undefined ? {} : Object.fromEntries(STAGES.map(stage => [KEYS[stage], blank]));
    const job = await runJob({
      clock: new FakeClock(),
      log: LOG,
      commands,
      sets: [[A]],
      take: async () => 'a',
      publish: async () => {},
      discard: async () => {},
    });
    t.same(job.commands, []);
  }
});

/** What stops at a failing stage has still these calls. */
const STILL: Record<Stage, readonly Stage[]> = {
  BEFORE_BACKUP: ['BEFORE_BACKUP', 'AFTER_SNAPSHOT', 'AFTER_BACKUP'],
  BEFORE_SNAPSHOT: STAGES,
  AFTER_SNAPSHOT: STAGES,
  AFTER_BACKUP: STAGES,
};

const WAYS = { '1': 'exit 1', '255': 'exit 255', killed: 'kill -9 $$', hangs: 'sleep 1000' } as const;

for (const stage of STAGES) {
  t.test(`${stage} ends with 0`, async t => {
    const { job, stages } = await play(t, [[A]], { [stage]: 'echo done; exit 0' });
    const { commands, marks } = await job;
    t.same(stages(), STAGES);
    t.same(marks, []);
    t.match(
      commands.find(one => one.stage === stage),
      { code: 0, why: '', output: 'done\n' },
    );
  });

  for (const [way, command] of Object.entries(WAYS)) {
    t.test(`${stage}: ${way}`, async t => {
      const pidFile = join(scratch(t), 'pid');
      const hang = `sleep 1000 & echo $! > ${pidFile}; echo begun; wait`;
      const played = await play(t, [[A]], { [stage]: way === 'hangs' ? hang : `echo begun; ${command}` });
      if (way === 'hangs') {
        await eventually(
          () => existsSync(pidFile) && readFileSync(pidFile, 'utf8').endsWith('\n'),
          'it hangs',
        );
        // The time-out of this one: it is the oldest timer.
        await played.clock.step();
      }
      const before = stage.startsWith('BEFORE');
      const ended = await played.job.then(
        job => ({ job, error: undefined }),
        (error: unknown) => ({ job: undefined, error }),
      );
      t.same(played.stages(), STILL[stage]);
      if (before) {
        t.match(ended.error, { code: 'COMMAND_FAILED', message: new RegExp(stage) });
        t.same(played.steps, [], 'nothing was taken');
      } else {
        t.equal(ended.job!.marks.length, 1);
        t.match(ended.job!.marks[0], stage);
        t.ok(played.steps.includes('work after 3 calls'), 'the moment is there');
        const ran = ended.job!.commands.find(one => one.stage === stage);
        const how =
          way === 'killed'
            ? { code: null, signal: 'SIGKILL' }
            : way === 'hangs'
              ? { why: /did not end within 5 s/ }
              : { code: Number(way) };
        t.match(ran, { ...how, output: 'begun\n' });
      }
      if (way === 'hangs') {
        const pid = Number(readFileSync(pidFile, 'utf8'));
        await eventually(() => !running(pid), 'nobody of its group is left');
      }
    });
  }
}

t.test('no moment: all after-commands run, and what was taken goes', async t => {
  const { job, stages, steps } = await play(t, [[A]], {}, true);
  await t.rejects(job, /no moment/);
  t.same(stages(), STAGES);
  t.same(steps, ['take after 2 calls']);
});

t.test('the second of two fails before its moment: the first goes as well', async t => {
  const second = 'test "$R_VOLUME_NAMES" != b';
  const { job, steps, stages } = await play(t, [[A], [B]], { BEFORE_SNAPSHOT: second });
  await t.rejects(job, { code: 'COMMAND_FAILED' });
  t.same(steps, ['take after 2 calls', 'discard a']);
  t.same(stages(), [
    'BEFORE_BACKUP',
    'BEFORE_SNAPSHOT',
    'AFTER_SNAPSHOT',
    'BEFORE_SNAPSHOT',
    'AFTER_SNAPSHOT',
    'AFTER_BACKUP',
  ]);
});

t.test(
  'the first of two fails: after-commands run for what was never reached, too, and learn that it failed',
  async t => {
    const failed = 'printf "failed: %s\\n" "$ASOF_JOB_FAILED"';
    for (const stage of ['BEFORE_BACKUP', 'BEFORE_SNAPSHOT'] as const) {
      const { job, said, steps } = await play(t, [[A], [B]], {
        [stage]: 'exit 1',
        AFTER_SNAPSHOT: failed,
        AFTER_BACKUP: failed,
      });
      await t.rejects(job, { code: 'COMMAND_FAILED' });
      t.same(steps, [], 'nothing was taken');
      t.same(
        said()
          .filter(line => /^[A-Z]/.test(line))
          .map(line => line.split(' ').slice(0, 2).join(' ')),
        [
          'BEFORE_BACKUP a,b',
          ...(stage === 'BEFORE_SNAPSHOT' ? ['BEFORE_SNAPSHOT a'] : []),
          'AFTER_SNAPSHOT a',
          'AFTER_SNAPSHOT b',
          'AFTER_BACKUP a,b',
        ],
      );
    }
    const { job } = await play(t, [[A]], { AFTER_BACKUP: failed, AFTER_SNAPSHOT: failed });
    t.same(
      (await job).commands.map(({ output }) => output),
      ['', '', 'failed: \n', 'failed: \n'],
    );
    const told: string[] = [];
    const commands = { afterSnapshot: failed, shell: true };
    await runJob({
      clock: new FakeClock(),
      log: LOG,
      commands,
      sets: [[A]],
      take: () => Promise.reject(new Error('no moment')),
      publish: async () => {},
      discard: async () => {},
      journal: {
        begins: (stage, command, volumes, began) => ({
          stage,
          command,
          volumes,
          began,
          attempts: 1,
          ran: null,
        }),
        keep: () => void told.push('kept'),
      },
    }).catch(() => undefined);
    t.same(told, ['kept']);
  },
);

for (const stage of STAGES) {
  t.test(`the daemon is to end while ${stage} hangs`, async t => {
    const stopping = new AbortController();
    const clock = new FakeClock();
    const ready = join(scratch(t), 'ready');
    const stages: string[] = [];
    const commands: Commands = {
      ...Object.fromEntries(
        STAGES.map(one => [KEYS[one], one === stage ? `touch ${ready}; sleep 1000` : 'true']),
      ),
      shell: true,
      timeoutMs: 1_000_000,
    };
    const job = runJob<typeof A, string>({
      clock,
      log: LOG,
      commands,
      sets: [[A]],
      stopping: stopping.signal,
      take: async () => 'a',
      publish: async () => void stages.push('publish'),
      discard: async () => void stages.push('discard'),
      journal: {
        begins: (stage, command, volumes, began) => {
          stages.push(stage);
          return { stage, command, volumes, began, attempts: 1, ran: null };
        },
        keep: () => {},
      },
    });
    job.catch(() => {});
    await eventually(() => existsSync(ready), 'it hangs');
    stopping.abort(new AsofError('DAEMON_MISSING', 'the daemon is being stopped'));
    // A before-command is ended at once; an after-command has a little time, which the clock gives it.
    if (stage.startsWith('AFTER')) {
      t.equal(clock.next, 10_000, 'long before its own time is over');
      await clock.step();
    }
    const why = /it was ended: the daemon is being stopped/;
    if (stage === 'AFTER_BACKUP') t.match((await job).marks, [why]);
    else await t.rejects(job, { code: 'DAEMON_MISSING' });
    const before = STAGES.slice(0, STAGES.indexOf(stage) + 1).filter(one => one.startsWith('BEFORE'));
    t.same(
      stages.filter(one => /^[A-Z]/.test(one)),
      [...before, 'AFTER_SNAPSHOT', 'AFTER_BACKUP'],
    );
    t.same(
      stages.filter(one => /^[a-z]/.test(one)),
      stage === 'AFTER_BACKUP' ? ['publish'] : stage === 'AFTER_SNAPSHOT' ? ['discard'] : [],
    );
  });
}

t.test('output is kept, and bounded', async t => {
  const flood =
    'i=0; while [ $i -lt 4000 ]; do echo "line $i of the flood"; i=$((i+1)); done; echo err >&2; exit 3';
  const { commands } = await (await play(t, [[A]], { AFTER_SNAPSHOT: flood })).job;
  const { output } = commands.find(({ stage }) => stage === 'AFTER_SNAPSHOT')!;
  t.ok(output.length < 20_000);
  t.match(output, /^line 0 of the flood\n/);
  t.match(output, /bytes left out/);
  t.match(output, /line 3999 of the flood\n/);
});

t.test('a program without a shell, and one that is not there', async t => {
  const commands = { beforeBackup: '/bin/echo "two words" $HOME', afterBackup: '/no/such/program now' };
  const job = await runJob({
    clock: new FakeClock(),
    log: LOG,
    commands,
    sets: [[A]],
    take: async () => 'a',
    publish: async () => {},
    discard: async () => {},
  });
  t.match(job.commands, [
    { output: 'two words $HOME\n', code: 0 },
    { code: null, why: /does not start/ },
  ]);
  t.equal(job.marks.length, 1);
});

t.test('the words of a command line', async t => {
  for (const [line, words] of [
    ['a b  c', ['a', 'b', 'c']],
    [' "a b" \'c "d"\' e\\ f ', ['a b', 'c "d"', 'e f']],
    ['"a\\"b\\\\" \'\' x""y', ['a"b\\', '', 'xy']],
    ["'$HOME' *", ['$HOME', '*']],
    ['', []],
  ] as const) {
    t.same(wordsOf(line), words, line);
  }
  t.equal(await codeOf(() => wordsOf('a "b')), 'USAGE');
});
