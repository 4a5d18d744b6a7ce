/** What is recorded of a moment is what it was; what is less than asked for is not taken. On real volumes, without a mount. */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { MomentRequest } from '../../src/cow/quiesce.js';
import type { Volumes } from '../../src/cow/volumes.js';
import { codeOf, emptyFile, MiB, openVolumes, scratch } from './lab.js';

async function two(t: Test) {
  const folder = scratch(t);
  const state = join(folder, 'state');
  const { volumes, close } = await openVolumes(t, state);
  for (const name of ['a', 'b']) {
    await volumes.add({ name, origin: emptyFile(join(folder, name), MiB), durability: 'process' });
  }
  const write = (name: string) => volumes.get(name).opened().live.native.write(0, Buffer.alloc(512, 1));
  const consistencies = async (request: MomentRequest) => {
    const made = await volumes.snapshot(['a', 'b'], 'cow', request);
    return made.map(one => ({ consistency: one.consistency, record: volumes.show(one.id)[0]!.record! }));
  };
  const clean = () => {
    t.same(volumes.snapshots(), [], 'nothing is listed');
    for (const name of ['a', 'b'])
      t.same(volumes.get(name).opened().native.snapshots(), [], 'nothing is kept');
  };
  return { folder, state, volumes, close, write, consistencies, clean };
}

const holds = (settings: Record<string, string> = {}) => [
  { kind: 'command', settings: { hold: 'true', release: 'true', shell: 'yes', ...settings } },
];

t.test('nobody to tell: crash', async t => {
  const { consistencies } = await two(t);
  for (const { consistency, record } of await consistencies({})) {
    t.equal(consistency, 'crash');
    t.match(record, { asked: 'crash', why: /nobody was there/, providers: [{ name: 'cow', why: '' }] });
    t.match(
      record.steps.map(({ what, who }) => `${what} ${who}`),
      ['take cow'],
    );
    t.equal(record.transitions.at(-1)!.state, 'told');
    t.equal(record.transitions[0]!.state, 'requested');
  }
});

t.test('less than asked for: nothing is taken', async t => {
  const { volumes, clean } = await two(t);
  for (const consistency of ['filesystem', 'application'] as const) {
    await t.rejects(volumes.snapshot(['a', 'b'], 'cow', { consistency }), {
      code: 'CONSISTENCY_UNMET',
      message: /a is crash/,
    });
    clean();
  }
});

t.test('a writer that holds: application; while it does, nothing can be read', async t => {
  const { folder, volumes, consistencies, state } = await two(t);
  const seen = join(folder, 'seen');
  const id = volumes.get('a').definition.id;
  const look = `ls ${state}/volumes/${id}/moments >> ${seen} 2>/dev/null; true`;
  const writers = holds({ release: look });
  const [one] = await consistencies({
    writers,
    commands: { afterSnapshot: look, beforeBackup: 'true', shell: true },
  });
  t.match(one, { consistency: 'application', record: { asked: 'application', warnings: [] } });
  t.match(
    one!.record.steps.map(({ what, who }) => `${what} ${who.split(' ')[0]}`),
    ['prepare command', 'hold command', 'take cow', 'release command'],
  );
  t.match(one!.record.commands, [{ stage: 'BEFORE_BACKUP' }, { stage: 'AFTER_SNAPSHOT' }]);
  t.ok(existsSync(seen));
  t.equal(readdirSync(join(state, 'volumes', id, 'moments')).length, 1);
});

async function clear(volumes: Volumes): Promise<void> {
  for (const group of new Set(volumes.snapshots().map(one => one.group))) await volumes.deleteSnapshot(group);
}

t.test('a writer that fails: refused, or taken for what it is', async t => {
  const { volumes, consistencies, clean } = await two(t);
  for (const writers of [
    holds({ hold: 'exit 3' }),
    holds({ release: 'exit 3' }),
    holds({ prepare: 'exit 3' }),
  ]) {
    await t.rejects(volumes.snapshot(['a', 'b'], 'cow', { writers }), {
      code: 'CONSISTENCY_UNMET',
      message: /3/,
    });
    clean();
    const made = await consistencies({ writers, consistency: 'crash' });
    for (const { consistency, record } of made) {
      t.equal(consistency, 'crash');
      t.match(record.warnings, [/ended with 3/]);
      t.match(record.why, /ended with 3/);
    }
    await clear(volumes);
  }
});

t.test('quiet, and a write between the window and the switch', async t => {
  const { consistencies, volumes, write, clean } = await two(t);
  const quietMs = 20;
  for (const { consistency } of await consistencies({ quietMs })) t.equal(consistency, 'quiet');
  await clear(volumes);
  for (const { consistency } of await consistencies({ consistency: 'quiet', quietMs }))
    t.equal(consistency, 'quiet');
  await clear(volumes);

  // The provider is the last to be asked before the switch: whoever writes then is noticed at it.
  const provider = (await import('../../src/cow/provider-cow.js')).cow;
  const take = provider.take;
  let disturbed = 0;
  let times = 0;
  provider.take = async (...args) => {
    if (disturbed++ < times) await write('b');
    return take.apply(provider, args);
  };
  t.teardown(() => {
    provider.take = take;
  });
  const during = (count: number) => {
    disturbed = 0;
    times = count;
  };
  for (const more of [{}, { consistency: 'quiet' }, { quietMissed: 'crash' }] as const) {
    during(2);
    for (const { consistency, record } of await consistencies({ quietMs, ...more })) {
      t.equal(consistency, 'quiet', 'the next window is waited for');
      t.equal(
        record.steps.filter(({ what }) => what === 'undo').length,
        2,
        'what was taken before it is gone',
      );
      t.equal(record.transitions.filter(({ state }) => state === 'waiting').length, 3);
    }
    t.same(
      ['a', 'b'].map(name => volumes.get(name).opened().native.snapshots().length),
      [1, 1],
    );
    await clear(volumes);
  }
  // No window is left alone: the deadline, and what was to become of it then.
  during(Number.POSITIVE_INFINITY);
  const quietDeadlineMs = 200;
  for (const more of [{}, { consistency: 'quiet' }] as const) {
    const wanted = volumes.snapshot(['a', 'b'], 'cow', { quietMs, quietDeadlineMs, ...more });
    await t.rejects(wanted, { code: 'QUIET_MISSED' });
    clean();
  }
  for (const { consistency } of await consistencies({ quietMs, quietDeadlineMs, quietMissed: 'crash' }))
    t.equal(consistency, 'crash');
  await clear(volumes);
  // What holds still anyhow is worth more than quiet: nobody waits for that.
  during(Number.POSITIVE_INFINITY);
  for (const { consistency, record } of await consistencies({ quietMs, writers: holds() })) {
    t.equal(consistency, 'application');
    t.equal(record.transitions.filter(({ state }) => state === 'waiting').length, 1);
  }
});

t.test('the record outlives the daemon, and goes with the snapshot', async t => {
  const { state, consistencies, volumes, close } = await two(t);
  const [made] = await consistencies({
    writers: holds(),
    commands: { afterBackup: '/bin/sh -c "echo late; exit 4"' },
  });
  t.same(made!.record.marks, ['the command AFTER_BACKUP failed: it ended with 4']);
  const id = volumes.get('a').definition.id;
  await close();
  const again = await openVolumes(t, state);
  const [kept] = again.volumes.snapshots('a');
  t.match(kept, { consistency: 'application', marks: [/AFTER_BACKUP/] });
  t.match(again.volumes.show(kept!.id), [
    { record: { commands: [{ stage: 'AFTER_BACKUP', output: 'late\n', code: 4 }] } },
  ]);
  await again.volumes.deleteSnapshot(kept!.group);
  t.same(readdirSync(join(state, 'volumes', id, 'moments')), []);
});

t.test('separately: a moment of each, and both or none', async t => {
  const { volumes, clean } = await two(t);
  const fails = { beforeSnapshot: '/bin/sh -c "test $R_VOLUME_NAMES = a"' };
  await t.rejects(volumes.snapshot(['a', 'b'], 'cow', { separately: true, commands: fails }), {
    code: 'COMMAND_FAILED',
  });
  clean();
  const made = await volumes.snapshot(['a', 'b'], 'cow', { separately: true });
  t.not(made[0]!.group, made[1]!.group);
});

t.test('requests that make no sense are refused before anything runs', async t => {
  const { folder, volumes } = await two(t);
  const ran = join(folder, 'ran');
  const commands = { beforeBackup: `touch ${ran}` };
  for (const request of [
    { quietMs: 0 },
    { holdMs: Number.NaN },
    { prepareMs: 1e12 },
    { writers: [{ kind: 'oracle' }] },
    { writers: [{ kind: 'qemu', settings: {} }] },
    { commands: { beforeBackup: 'a "b' } },
    { consistency: 'perfect' as 'crash' },
  ]) {
    t.equal(await codeOf(() => volumes.snapshot(['a'], 'cow', { commands, ...request })), 'USAGE');
  }
  t.notOk(existsSync(ran));
});

t.test('a daemon that stops ends what waits', async t => {
  const { volumes, close } = await two(t);
  const waiting = volumes.snapshot(['a'], 'cow', { quietMs: 3_600_000, quietDeadlineMs: 7_200_000 });
  const ended = t.rejects(waiting, { code: 'DAEMON_MISSING' });
  await close();
  await ended;
});
