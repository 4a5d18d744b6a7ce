/** A snapshot that somebody reads, or has mounted, is not deleted under him, unless he who deletes it says so. */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import t from 'tap';
import { asof } from '../cli/asof.js';
import { NEEDED } from '../cow/frozen.js';
import { emptyFile, loop, MiB, scratch } from '../cow/lab.js';
import { Daemon } from '../end-to-end/protected.js';
import { attempt, detachLoops, missing, run } from '../peers.js';

t.setTimeout(120_000);

const skip = missing([...NEEDED, 'sh'], ['root', 'loop', 'fuse']);

t.test('read, and mounted', { skip }, async t => {
  const folder = scratch(t);
  const daemon = await Daemon.start(t, folder);
  const origin = emptyFile(join(folder, 'a'), 16 * MiB);
  await run('mke2fs', ['-q', '-F', '-t', 'ext4', origin]);
  await daemon.protect('a', origin);
  await daemon.protect('b', emptyFile(join(folder, 'b'), MiB));
  const taken = await daemon.ask<
    { id: string; group: string; volume: string; moment: string; state: string }[]
  >('snapshot', 'create', 'a', 'b');
  const one = taken.find(({ volume }) => volume === 'a')!;
  const disk = daemon.disk('a', { ...one, why: '' });
  const remove = (...more: string[]) =>
    asof('snapshot', 'delete', one.group, ...more, '--state', daemon.state);
  const refused = async (who: RegExp, what: string) => {
    const { status, stderr } = await remove();
    t.equal(status, 2, what);
    t.match(stderr, who);
    t.match(stderr, /--force/);
    t.equal((await daemon.ask<unknown[]>('snapshot', 'list')).length, 2, 'nothing of it is gone');
  };

  const reader = spawn('sh', ['-c', 'exec 3<"$0"; echo; read line', disk], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const gone = new Promise(done => reader.on('close', done));
  t.teardown(() => reader.kill('SIGKILL'));
  await new Promise(done => reader.stdout.once('data', done));
  await refused(new RegExp(`in use by sh \\(pid ${reader.pid}\\)`), 'a reader');
  reader.stdin.end();
  await gone;

  t.teardown(() => detachLoops(disk));
  const device = await loop(t, disk);
  await refused(new RegExp(`in use by ${device}`), 'a loop device');
  const there = join(folder, 'there');
  t.teardown(() => attempt('umount', [there]));
  await run('mkdir', [there]);
  await run('mount', ['-o', 'ro,noload', device, there]);
  await refused(new RegExp(`mounted on ${there}.*\n.*umount ${there}`), 'a mount');
  t.match((await remove('--force')).stdout, /2 snapshots deleted/);
  t.not(
    (await attempt('dd', [`if=${device}`, 'of=/dev/null', 'bs=4096', 'iflag=direct'])).code,
    0,
    'errors, no bytes',
  );
  // Its file has no name any more by which it could be found.
  await run('umount', [there]);
  await run('losetup', ['-d', device]);
});
