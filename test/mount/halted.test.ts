/**
 * A server that was stopped by a signal lets go of nothing. `asof umount` waited half a minute for it, without a word; now it
 * says what holds it up and how it goes on.
 */
import { mkdirSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { asof, asofJson, eventually, mounted, running } from '../cli/asof.js';
import { scratch } from '../cow/lab.js';
import { missing } from '../peers.js';

t.setTimeout(60_000);

t.test('unmounting from a stopped server', { skip: missing([], ['fuse']) }, async t => {
  const folder = scratch(t);
  const image = join(folder, 'image.raw');
  const point = join(folder, 'mount');
  writeFileSync(image, '');
  truncateSync(image, 2 ** 20);
  mkdirSync(point);
  const { pid } = await asofJson<{ pid: number }>('mount', image, point);
  t.teardown(async () => {
    if (running(pid)) process.kill(pid, 'SIGCONT');
    if (mounted(point)) await asof('umount', '--lazy', point);
  });
  process.kill(pid, 'SIGSTOP');
  const { status, stderr } = await asof('umount', point, '--json');
  t.equal(status, 2);
  t.match(JSON.parse(stderr), {
    error: { code: 'MOUNT_BUSY', message: /is stopped, and still has/, hint: `kill -CONT ${pid}` },
  });
  t.notOk(mounted(point), 'the mount is gone all the same');
  process.kill(pid, 'SIGCONT');
  await eventually(() => !running(pid), 'the server ends once it goes on');
});
