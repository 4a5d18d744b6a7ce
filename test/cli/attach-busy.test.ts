/** What is attached stays while somebody is in it, wholly, and goes with the mount on which it stands. */
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { missing, run } from '../peers.js';
import { asof, asofJson, eventually, mounted } from './asof.js';
import {
  DRIVE_NEEDS,
  DRIVE_PEERS,
  digest,
  diskOf,
  folderOf,
  inside,
  list,
  remains,
  scratch,
  type Told,
} from './drive-lab.js';

t.setTimeout(240_000);

const skip = missing(DRIVE_PEERS, DRIVE_NEEDS);

t.test('what is in use', { skip }, async t => {
  const folder = scratch(t);
  const image = await diskOf(t, folder, 'gpt', ['ext4', 'ext4', 'swap']);
  const dir = join(folder, 'dir');
  mkdirSync(dir);
  const before = digest(image);
  t.teardown(async () => {
    await asof('detach', '--lazy', image);
  });

  await t.test('while somebody is in it', async t => {
    const told = await asofJson<Told>('attach', image, dir);
    const child = await inside(t, join(dir, 'p2', 'home'));
    const { status, stderr } = await asof('detach', dir, '--json');
    t.equal(status, 2);
    t.match(JSON.parse(stderr), {
      error: { code: 'MOUNT_BUSY', message: new RegExp(`sleep \\(pid ${child.pid}\\)`) },
    });
    t.equal(told.fileSystems.filter(({ mountPoint }) => mounted(mountPoint)).length, 2, 'all of it stands');
    const [listed] = (await list()).filter(({ dir: one }) => one === dir);
    t.same(listed?.users, [{ pid: child.pid!, command: 'sleep' }]);
    t.equal((await asof('detach', '--lazy', dir)).status, 0);
    t.notOk(mounted(join(dir, 'p2')));
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
    await eventually(() => remains(folderOf(told)).length === 0, 'the last user has let go');
  });

  await t.test('with something of others on the device', async t => {
    const told = await asofJson<Told>('attach', image);
    const other = join(folder, 'foreign');
    mkdirSync(other);
    const { device } = told.partitionDevices[0]!;
    await run('mount', ['-o', 'ro,noload', device, other]);
    t.teardown(() => run('umount', [other]).catch(() => {}));
    const { status, stderr } = await asof('detach', told.device!, '--json');
    t.equal(status, 2);
    t.match(JSON.parse(stderr).error, { code: 'MOUNT_BUSY', message: /by somebody else/, hint: /^umount / });
    t.ok(mounted(other), 'it is not ours to unmount');
    await run('umount', [other]);
    t.equal((await asof('detach', told.device!)).status, 0);
  });

  await t.test('on a mount that stands already', async t => {
    const at = join(folder, 'mount');
    mkdirSync(at);
    await asofJson('mount', image, at);
    t.teardown(() => asof('umount', '--lazy', at));
    const told = await asofJson<Told>('attach', image, dir);
    t.equal(told.mountPoint, at, 'no second server');
    const part = await asofJson<Told>('attach', join(at, 'p1'));
    t.match(part.disk, /p1$/);
    const child = await inside(t, join(dir, 'p1'));
    const busy = await asof('umount', at, '--json');
    t.equal(busy.status, 2);
    t.match(JSON.parse(busy.stderr).error.message, /sleep/);
    t.ok(mounted(at));
    child.kill('SIGKILL');
    await once(child, 'exit');
    t.equal((await asof('umount', at)).status, 0);
    t.same(remains(at, dir, folderOf(told), folderOf(part)), [], 'it took with it what was attached');
    t.same(
      (await list()).filter(({ asked }) => asked.startsWith(folder)),
      [],
    );
  });

  t.equal(digest(image), before);
});
