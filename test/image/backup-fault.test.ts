/**
 * A backup whose n-th call fails, for every n and two errors, throws in words, and the history is what it was: a point or
 * none, nothing left over; the next backup succeeds. And a file system that is really full.
 */
import { mkdirSync, readdirSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { AsofError } from '../../src/errors.js';
import { History } from '../../src/image/history.js';
import { attempt, detachLoops, missing, run } from '../peers.js';
import { watchCalls } from './backup-victim.js';
import { Lab, readPoint, scratch } from './history-lab.js';
import { noise } from './peer.js';

t.setTimeout(120_000);

/** Points; whether there is anything that belongs to none. */
function look(folder: string): { readonly points: number; readonly rest: string[] } {
  const history = new History(folder);
  history.close();
  const stems = history.points.map(({ stem }) => stem);
  const rest = readdirSync(folder).filter(
    name => name !== '.asof-lock' && name !== '.asof-failures' && !stems.some(stem => name.startsWith(stem)),
  );
  return { points: history.points.length, rest };
}

for (const code of ['ENOSPC', 'EIO']) {
  t.test(code, async t => {
    const lab = new Lab(scratch(t), noise(4, 3 * 65536));
    await lab.backup();
    let { points } = look(lab.history);
    for (let calls = 1; ; calls++) {
      let left = calls;
      const unwatch = watchCalls(call => {
        if (--left === 0) throw Object.assign(new Error(`${code}: ${call}`), { code, syscall: call });
      });
      let failure: unknown;
      try {
        await lab.backup();
      } catch (error) {
        failure = error;
      } finally {
        unwatch();
      }
      const now = look(lab.history);
      if (left > 0) {
        t.equal(failure, undefined, 'it needs no more calls');
        break;
      }
      if (failure === undefined) {
        t.equal(now.points, points + 1, `call ${calls}: an error after which all was well`);
      } else {
        t.ok(failure instanceof AsofError, `call ${calls}: ${String(failure)}`);
        t.match(String(failure), code);
        t.ok(now.points - points <= 1, `call ${calls}: a point or none`);
        if (now.points === points) t.same(now.rest, [], `call ${calls}: nothing is left`);
      }
      points = now.points;
    }
    await lab.backup();
    t.same(look(lab.history).rest, []);
    const history = new History(lab.history);
    t.teardown(() => history.close());
    for (const point of history.points) t.ok((await readPoint(history, point)).equals(lab.bytes));
  });
}

const skip = missing(['mke2fs', 'losetup', 'mount', 'umount'], ['root', 'loop']);
t.test('a file system that is full', { skip }, async t => {
  const folder = scratch(t);
  const disk = join(folder, 'small.img');
  writeFileSync(disk, '');
  truncateSync(disk, 8 * 2 ** 20);
  await run('mke2fs', ['-q', '-F', '-t', 'ext4', disk]);
  const lab = new Lab(folder, noise(5, 65536));
  mkdirSync(lab.history);
  t.teardown(() => detachLoops(disk));
  t.teardown(() => attempt('umount', ['-l', lab.history]));
  await run('mount', ['-o', 'loop', disk, lab.history]);
  await lab.backup();
  const large = new Lab(folder, noise(6, 16 * 2 ** 20));
  const before = readdirSync(lab.history).sort();
  await t.rejects(large.backup(), { code: 'BACKUP_FAILED', message: /ENOSPC/ });
  t.same(readdirSync(lab.history).sort(), [...before, '.asof-failures'].sort());
  const again = new Lab(folder, noise(7, 65536));
  const { manifest } = await again.backup({ method: 'compared' });
  const history = new History(lab.history);
  t.equal(history.points.length, 2);
  t.ok((await readPoint(history, history.find(manifest.id))).equals(again.bytes));
  history.close();
});
