/**
 * A backup that comes to nothing leaves a record that says why, and the history as it was: a source that cannot be read, a
 * full file system, a folder that is gone, a kill. The record is bounded, and a damaged one takes nothing with it.
 */
import { spawn } from 'node:child_process';
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { addFailures, type Failure, readFailures } from '../../src/image/failures.js';
import { History } from '../../src/image/history.js';
import { asof, asofJson } from '../cli/asof.js';
import { attempt, missing, run } from '../peers.js';
import { Lab, readPoint, scratch } from './history-lab.js';
import { noise } from './peer.js';

t.setTimeout(120_000);

const VICTIM = new URL('backup-victim.js', import.meta.url).pathname;
const VOLUME = { id: 'the-volume', name: 'vol' };

async function same(lab: Lab, points: number): Promise<boolean> {
  const history = new History(lab.history);
  try {
    if (history.points.length !== points || history.troubles.length > 0) return false;
    for (const point of history.points)
      if (!(await readPoint(history, point)).equals(lab.bytes)) return false;
    return true;
  } finally {
    history.close();
  }
}

const hidden = (folder: string) => readdirSync(folder).filter(name => /^\.asof-[0-9a-f-]{36}/.test(name));

t.test('a sector that cannot be read', async t => {
  const lab = new Lab(scratch(t), noise(1, 4 * 65536));
  await lab.backup();
  t.notOk(existsSync(join(lab.history, '.asof-failures')), 'a success leaves none');
  lab.bad = [[65536, 512]];
  await t.rejects(lab.backup({ kind: 'full' }), { code: 'DAMAGED' });
  const { failures } = readFailures(lab.history);
  t.match(failures, [
    { outcome: 'failed', code: 'DAMAGED', volume: VOLUME, why: /sector 128 of the source/ },
  ]);
  t.same(hidden(lab.history), []);
  await t.rejects(lab.backup({ base: 'nobody' }), { code: 'POINT_UNKNOWN' });
  t.match(readFailures(lab.history).failures, { length: 2, 1: { code: 'POINT_UNKNOWN' } });
  lab.bad = [];
  await lab.backup();
  t.equal(readFailures(lab.history).failures.length, 2, 'a success later takes nothing away');
  t.ok(await same(lab, 2));
  const shown = await asof('history', lab.history);
  t.match(shown.stdout.toString(), /\nfailed 20\d\d-\S+ \S+ vol: sector 128 of the source/);
  t.match(await asofJson('history', lab.history), { failures: { length: 2 }, points: { length: 2 } });
});

const root = missing(['mount', 'umount'], ['root']);
t.test('a file system that is full', { skip: root }, async t => {
  const folder = scratch(t);
  const lab = new Lab(folder, noise(2, 16 * 65536));
  mkdirSync(lab.history);
  await run('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'asof-test', lab.history]);
  t.teardown(() => attempt('umount', ['-l', lab.history]));
  await lab.backup();
  await t.rejects(lab.backup({ kind: 'full' }), { code: 'BACKUP_FAILED' });
  const { failures } = readFailures(lab.history);
  t.match(failures, [{ outcome: 'failed', code: 'BACKUP_FAILED', why: /ENOSPC/ }]);
  t.ok(await same(lab, 1), 'the history is as it was');
  // So full that not even this can be written: the intent stays, and says it at the next run.
  rmSync(join(lab.history, '.asof-failures'));
  const ballast = join(lab.history, 'ballast');
  const fill = () => {
    const fd = openSync(ballast, 'a');
    try {
      for (;;) writeSync(fd, noise(9, 4096));
    } catch {
      // There is no room left.
    } finally {
      closeSync(fd);
    }
  };
  let stop = false;
  await t.rejects(
    lab.backup({
      kind: 'full',
      step() {
        stop = true;
        fill();
        // What is taken away gives room for what is written after it.
        mkdirSync(join(lab.history, '.asof-failures.new'));
        throw Object.assign(new Error('ENOSPC'), { code: 'ENOSPC' });
      },
    }),
    { code: 'BACKUP_FAILED' },
  );
  t.ok(stop);
  t.same(readFailures(lab.history), { failures: [], trouble: '' });
  rmSync(ballast);
  rmSync(join(lab.history, '.asof-failures.new'), { recursive: true });
  await lab.backup();
  t.match(readFailures(lab.history).failures, [{ outcome: 'interrupted' }]);
  t.ok(await same(lab, 2));
});

t.test('a folder that vanishes', async t => {
  const lab = new Lab(scratch(t), noise(3, 4 * 65536));
  await lab.backup();
  const away = `${lab.history}-away`;
  await t.rejects(
    lab.backup({
      kind: 'full',
      step(name) {
        if (name === 'copied') renameSync(lab.history, away);
      },
    }),
    { message: /ENOENT|does not exist/ },
  );
  t.notOk(existsSync(lab.history), 'it is not made anew');
  renameSync(away, lab.history);
  t.ok(await same(lab, 1));
  await lab.backup();
  t.match(readFailures(lab.history).failures, [{ outcome: 'interrupted', volume: VOLUME }]);
  t.same(hidden(lab.history), []);
});

t.test('a kill', async t => {
  const lab = new Lab(scratch(t), noise(3, 6 * 65536 + 1000));
  await lab.backup();
  // Late enough to have begun, and early enough not to be done.
  for (let calls = 1; !hidden(lab.history).some(name => name.endsWith('.intent')) && calls < 40; calls++) {
    await new Promise(done => {
      const argv = [VICTIM, lab.folder, String(calls)];
      const child = spawn(process.execPath, argv, { stdio: ['ignore', 'inherit', 'inherit'] });
      child.on('close', done);
    });
  }
  await lab.backup();
  t.match(readFailures(lab.history).failures, [
    { outcome: 'interrupted', code: '', volume: { name: 'vol' } },
  ]);
  t.same(hidden(lab.history), []);
});

t.test('bounded; damaged', async t => {
  const lab = new Lab(scratch(t), noise(1, 65536));
  await lab.backup();
  const one = (i: number): Failure => ({
    time: new Date(i).toISOString(),
    began: new Date(i).toISOString(),
    outcome: 'failed',
    volume: VOLUME,
    code: 'IO',
    why: `no ${i}`,
  });
  for (let i = 0; i < 130; i++) t.ok(addFailures(lab.history, [one(i)]));
  const { failures } = readFailures(lab.history);
  t.equal(failures.length, 100);
  t.equal(failures.at(-1)?.why, 'no 129');
  const path = join(lab.history, '.asof-failures');
  writeFileSync(path, readFileSync(path, 'utf8').replace('no 129', 'no 128'));
  t.match(readFailures(lab.history), { failures: [], trouble: /damaged/ });
  t.match(await asofJson('history', lab.history), {
    failures: [],
    points: { length: 1 },
    troubles: [/damaged/],
  });
  lab.bad = [[0, 512]];
  await t.rejects(lab.backup({ kind: 'full' }), { code: 'DAMAGED' });
  t.match(readFailures(lab.history), { failures: { length: 1 }, trouble: '' });
});
