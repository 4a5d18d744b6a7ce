/**
 * A daemon is killed before each change of what is on disk, while it takes a snapshot of a group, and while it deletes one:
 * after the next start all members are there or none is, nothing is left with a provider, whoever was told to hold is told
 * that it is over, and the after-commands of a job that had begun have run, under its own id.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { emptyFile, MiB, openVolumes, scratch } from './lab.js';

t.setTimeout(180_000);

const NAMES = ['a', 'b'];
const PROGRAM = new URL('./cut-short.js', import.meta.url).pathname;

async function setUp(t: Test) {
  const folder = scratch(t);
  const state = join(folder, 'state');
  const { volumes, close } = await openVolumes(t, state);
  for (const name of NAMES) {
    await volumes.add({ name, origin: emptyFile(join(folder, name), MiB), durability: 'process' });
  }
  await close();
  /** Whether it was killed. */
  const cut = (at: number, ...more: string[]): boolean => {
    const { signal, stdout, stderr } = spawnSync(process.execPath, [PROGRAM, state, String(at), ...more]);
    t.ok(signal === 'SIGKILL' || stdout.toString() === 'done\n', `at ${at}: ${signal} ${stderr}`);
    return signal === 'SIGKILL';
  };
  /** The next start: what is there then. */
  const start = async () => {
    const { volumes, close } = await openVolumes(t, state);
    await volumes.recover();
    const shown = volumes.snapshots();
    const kept = NAMES.map(name => volumes.get(name).opened().native.snapshots().length);
    t.ok(shown.length === 0 || shown.length === NAMES.length, `${shown.length} members`);
    t.same(kept, Array(2).fill(shown.length / 2), 'and providers have no more and no less');
    return { volumes, close, shown };
  };
  return { folder, cut, start };
}

t.test('a snapshot of a group', async t => {
  const { folder, cut, start } = await setUp(t);
  let there = 0;
  for (let at = 1, going = true; going; at++) {
    const trace = join(folder, `trace-${at}`);
    going = cut(at, trace);
    const { volumes, close, shown } = await start();
    const calls = existsSync(trace) ? readFileSync(trace, 'utf8').trim().split('\n') : [];
    const count = (what: string) => calls.filter(one => one.startsWith(`${what} `)).length;
    if (calls.length > 0) {
      for (const stage of ['AFTER_SNAPSHOT', 'AFTER_BACKUP']) {
        // One whose end was not written down any more runs again.
        t.ok(
          count(stage) === 1 || (going && count(stage) === 2),
          `at ${at}: ${stage}, ${count(stage)} times`,
        );
      }
    }
    for (const stage of ['BEFORE_BACKUP', 'BEFORE_SNAPSHOT', 'hold']) t.ok(count(stage) <= 1, stage);
    if (count('hold') > 0) t.ok(count('release') >= 1, `at ${at}: it is let go`);
    const uids = new Set(calls.map(one => one.split(' ')[1]).filter(uid => uid !== ''));
    t.ok(uids.size <= 1, 'one job');
    const jobs = volumes.jobs();
    if (going && calls.length > 0) {
      // Killed when it was all over but for the removal of its record it is interrupted as well, and owes nothing.
      t.match(jobs, [{ job: [...uids][0], state: 'interrupted', left: [] }]);
      t.match(jobs[0]!.why, /the daemon ended/);
    } else t.same(going ? jobs.filter(({ state }) => state !== 'interrupted') : jobs, []);
    for (const one of shown) {
      if (going) t.match(one.marks, [/the daemon ended/], 'marked');
      t.equal(volumes.show(one.id)[0]!.record!.commands.length, 4, 'its record has all commands');
    }
    there += shown.length > 0 ? 1 : 0;
    if (shown.length > 0) await volumes.deleteSnapshot(shown[0]!.group);
    await close();
    forget(folder);
  }
  t.ok(there > 1, 'it was there, in spite of a kill');
});

/** What was interrupted is no matter of the next round. */
function forget(folder: string): void {
  const jobs = join(folder, 'state/jobs');
  if (existsSync(jobs)) rmSync(jobs, { recursive: true });
}

t.test('the deletion of one', async t => {
  const { cut, start } = await setUp(t);
  const kinds = new Set<number>();
  for (let at = 1, going = true; going; at++) {
    const { volumes, close } = await start();
    for (const { group } of volumes.snapshots().slice(0, 1)) await volumes.deleteSnapshot(group);
    const [{ group } = { group: '' }] = await volumes.snapshot(NAMES, 'cow');
    await close();
    going = cut(at, '-', group);
    const next = await start();
    kinds.add(next.shown.length);
    if (!going) t.same(next.shown, [], 'deleted');
    await next.close();
  }
  t.same([...kinds].sort(), [0, 2], 'before, and after');
});
