/**
 * What is kept of jobs: of one that failed how it came to that, over a restart; no more than the newest; and, of a provider that
 * answers when nobody waits for it any more, or never, what must go.
 */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { Jobs } from '../../src/cow/jobs.js';
import type { Request, SnapshotProvider, Taken } from '../../src/cow/provider.js';
import { PROVIDERS } from '../../src/cow/providers.js';
import type { Volumes } from '../../src/cow/volumes.js';
import { eventually } from '../cli/asof.js';
import { codeOf, emptyFile, LOG, MiB, openVolumes, scratch } from './lab.js';

/** Long enough for one that answers at once, on any machine. */
const HOLD_MS = 6000;

t.setTimeout(120_000);

async function one(t: Test) {
  const folder = scratch(t);
  const state = join(folder, 'state');
  const opened = await openVolumes(t, state);
  await opened.volumes.add({ name: 'a', origin: emptyFile(join(folder, 'a'), MiB), durability: 'process' });
  const files = () => (existsSync(join(state, 'jobs')) ? readdirSync(join(state, 'jobs')) : []);
  return { ...opened, folder, state, files };
}

const kept = (volumes: Volumes) => volumes.get('a').opened().native.snapshots().length;

t.test('one that is done is told by its snapshot, and by nobody else', async t => {
  const { volumes, files } = await one(t);
  await volumes.snapshot(['a'], 'cow', { commands: { beforeBackup: 'true', afterBackup: 'false' } });
  t.same(volumes.jobs(), []);
  t.same(files(), []);
});

t.test('one that failed: why, and how it came to that', async t => {
  const { volumes, close, state } = await one(t);
  const commands = { beforeSnapshot: 'echo begun', afterBackup: 'echo no; exit 4', shell: true };
  const writers = [
    { kind: 'command', settings: { hold: 'echo cannot; exit 3', release: 'true', shell: 'yes' } },
  ];
  const failed = await volumes.snapshot(['a'], ['lvm', 'cow'], { commands, writers }).catch(error => error);
  t.equal(failed.code, 'CONSISTENCY_UNMET');
  const id = /asof job show ([0-9a-f]{8})/.exec(failed.hint)![1]!;
  for (let start = 0; start < 2; start++) {
    const told = (start === 0 ? volumes : (await openVolumes(t, state)).volumes).job(id);
    t.match(told, {
      state: 'failed',
      code: 'CONSISTENCY_UNMET',
      why: /cannot/,
      volumes: ['a'],
      commands: [
        { stage: 'BEFORE_SNAPSHOT', output: 'begun\n', code: 0, attempts: 1 },
        { stage: 'AFTER_BACKUP', output: 'no\n', code: 4, why: /ended with 4/ },
      ],
      writers: [{ kind: 'command', released: true }],
      left: [],
    });
    t.match(told.moments[0]!.providers, [{ name: 'lvm', why: /is a file/ }]);
    t.same(
      told.moments[0]!.transitions.map(({ state }) => state),
      ['requested', 'preparing', 'failing', 'failed'],
    );
    t.match(told.moments[0]!.steps, [
      { what: 'prepare' },
      { what: 'hold', why: /cannot/ },
      { what: 'release' },
    ]);
    await close();
  }
});

t.test('the newest are kept', async t => {
  const state = scratch(t);
  const jobs = new Jobs(state, LOG);
  for (let i = 0; i < 120; i++) {
    const uid = `${String(i).padStart(8, '0')}-0000-4000-8000-000000000000`;
    const job = jobs.begin(uid, i, [[{ name: 'a', id: 'a' }]], {});
    if (i === 3) job.body.takes.push({ provider: 'cow', group: 'g', members: [], left: true, there: null });
    job.finish('failed', i, new Error('no'));
  }
  const again = new Jobs(state, LOG);
  t.equal(again.list().length, 101);
  t.equal(again.infos()[0]!.job.slice(0, 8), '00000119');
  t.ok(again.show('00000003'), 'one that has left something stays until that is gone');
  t.equal(await codeOf(() => again.show('00000004')), 'JOB_UNKNOWN');
  t.equal(await codeOf(() => again.show('000000')), 'JOB_UNKNOWN', 'of many');
});

/** A provider of one snapshot, which answers when it is told, after it has taken it. */
function slow(t: Test) {
  const real = PROVIDERS[0]!;
  let answer = () => {};
  const told = new Promise<void>(done => {
    answer = done;
  });
  const provider: SnapshotProvider = {
    ...real,
    name: 'slow',
    can: { ...real.can, group: true },
    take: async (requests: readonly Request[], group: string, ms: number): Promise<Taken> => {
      const taken = await real.take(requests, group, ms);
      await told;
      return taken;
    },
    list: () => [],
  };
  const table = PROVIDERS as SnapshotProvider[];
  table.push(provider);
  t.teardown(() => void table.splice(table.indexOf(provider), 1));
  return { answer };
}

t.test('a provider that answers late: what it made goes, and the next one has taken it', async t => {
  const provider = slow(t);
  const { volumes, files } = await one(t);
  const [made] = await volumes.snapshot(['a'], ['slow', 'cow'], { holdMs: HOLD_MS });
  t.equal(made!.provider, 'cow');
  t.equal(kept(volumes), 2, 'what the other made is there still');
  t.match(volumes.jobs(), [{ state: 'done', left: [{ provider: 'slow' }] }], 'which is known');
  t.equal(files().length, 1);
  provider.answer();
  await eventually(() => volumes.jobs().length === 0, 'it is over');
  t.equal(kept(volumes), 1);
  t.same(
    volumes.snapshots().map(({ id }) => id),
    [made!.id],
  );
  t.same(files(), []);
});

t.test('no other provider: the job fails, and what comes late goes', async t => {
  const provider = slow(t);
  const { volumes } = await one(t);
  await t.rejects(volumes.snapshot(['a'], ['slow'], { holdMs: HOLD_MS }), { code: 'SNAPSHOT_FAILED' });
  t.match(volumes.jobs(), [{ state: 'failed', left: [{ provider: 'slow' }] }]);
  provider.answer();
  await eventually(() => volumes.jobs()[0]!.left.length === 0, 'it is over');
  t.equal(kept(volumes), 0);
});

t.test('one that never answers: what it made goes at the next start', async t => {
  slow(t);
  const { volumes, close, state } = await one(t);
  const [made] = await volumes.snapshot(['a'], ['slow', 'cow'], { holdMs: HOLD_MS });
  await t.rejects(volumes.snapshot(['a'], ['slow'], { holdMs: HOLD_MS }), { code: 'SNAPSHOT_FAILED' });
  t.equal(kept(volumes), 3);
  await close();
  const again = await openVolumes(t, state);
  t.equal(kept(again.volumes), 1);
  t.same(
    again.volumes.snapshots().map(({ id }) => id),
    [made!.id],
    'none of it is a snapshot',
  );
  t.match(again.volumes.jobs(), [{ state: 'failed', left: [] }]);
});
