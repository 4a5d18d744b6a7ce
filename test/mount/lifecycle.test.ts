/**
 * How a mount ends: cleanly, busy, lazily, from outside, aborted, and by the death of its server.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { listMounts, mountAt } from '../../src/mount/mounts.js';
import { nativeFuse } from '../../src/mount/native-fuse.js';
import { listAsofMounts } from '../../src/mount/registry.js';
import type { Tree } from '../../src/mount/tree.js';
import { unmountAt } from '../../src/mount/unmount.js';
import { parseMountInfo } from '../../src/mountinfo.js';
import { cannotMount, has, run, text, until, Workshop } from './fixture.js';

const why = cannotMount(nativeFuse.unavailable());
if (why) {
  t.plan(0, why);
  process.exit(0);
}

const workshop = new Workshop();
const made = workshop.disk([['data', 200_000]]);
const modified = new Date();
const tree: Tree = {
  kind: 'directory',
  name: '',
  modified,
  entries: [{ kind: 'disk', name: 'disk', modified, disk: made.disk }],
};
const children = new Set<ChildProcess>();
const loops = new Set<string>();
t.teardown(async () => {
  for (const child of children) child.kill('SIGKILL');
  for (const device of loops) await run('losetup', '-d', device);
  for (const mount of listMounts()) {
    if (mount.mountPoint.startsWith(workshop.folder)) await run('umount', '-l', mount.mountPoint);
  }
  workshop.close();
});

const mount = (mountPoint: string) =>
  nativeFuse.mount(tree, { mountPoint, source: 'lifecycle', allowOther: false });
const oursAt = (mountPoint: string) =>
  listAsofMounts().filter(found => found.mount.mountPoint === mountPoint);

/** A process that keeps `path` open, once it has it. */
async function holder(path: string): Promise<ChildProcess> {
  const program = 'import sys,time\nf=open(sys.argv[1])\nprint("open",flush=True)\ntime.sleep(600)';
  const child = spawn('python3', ['-c', program, path], { stdio: ['ignore', 'pipe', 'inherit'] });
  children.add(child);
  await once(child.stdout!, 'data');
  return child;
}

async function kill(child: ChildProcess): Promise<void> {
  const exit = once(child, 'exit');
  child.kill('SIGKILL');
  await exit;
  children.delete(child);
}

/** A server on `mountPoint`; resolves when it is ready. */
async function server(mountPoint: string) {
  const child = spawn(process.execPath, [new URL('server.js', import.meta.url).pathname, mountPoint], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  children.add(child);
  let said = '';
  child.stdout.setEncoding('utf8').on('data', (more: string) => {
    said += more;
  });
  await until(() => said.includes('\n') || child.exitCode !== null, 'the server');
  const first = JSON.parse(said.split('\n')[0]!) as { error?: string; folder: string; oracle: string };
  t.teardown(() => first.folder && rmSync(first.folder, { recursive: true, force: true }));
  return { child, first, last: () => said.trimEnd().split('\n').at(-1) };
}

await t.test('a clean unmount', async t => {
  const dir = workshop.directory();
  const mounted = await mount(dir);
  t.equal(mountAt(dir)?.type, 'fuse.asof');
  t.match(oursAt(dir), [{ server: { pid: process.pid, source: 'lifecycle' } }], 'is in the registry');
  await mounted.unmount();
  t.equal(await mounted.ended, 'unmounted');
  t.equal(mountAt(dir), undefined);
  t.same(oursAt(dir), []);
  await mounted.unmount();
  t.pass('a second unmount does nothing');
  // The kernel gives the id of a mount that has gone to the next one.
  const next = await mount(workshop.directory());
  await mounted.unmount();
  t.ok(mountAt(next.mountPoint), 'nor to another mount');
  await next.unmount();
});

await t.test('a busy mount names who holds it', async t => {
  const dir = workshop.directory();
  const mounted = await mount(dir);
  const child = await holder(join(dir, 'disk'));
  const wanted = { code: 'MOUNT_BUSY', message: new RegExp(`in use by python3?\\S* \\(pid ${child.pid}\\)`) };
  await t.rejects(mounted.unmount(), wanted);
  await t.rejects(unmountAt(dir), wanted);
  t.equal((await run('cmp', join(dir, 'disk'), made.oracle)).status, 0, 'it can be read still');
  await kill(child);
  await mounted.unmount();
  t.equal(await mounted.ended, 'unmounted');
});

await t.test('a working directory and a mapping are seen too', async t => {
  const dir = workshop.directory();
  const mounted = await mount(dir);
  const shell = spawn('sleep', ['600'], { cwd: dir });
  children.add(shell);
  await once(shell, 'spawn');
  await t.rejects(mounted.unmount(), { message: new RegExp(`sleep \\(pid ${shell.pid}\\)`) });
  await kill(shell);
  const program =
    'import mmap,os,sys,time\nf=os.open(sys.argv[1],0)\nm=mmap.mmap(f,0,prot=mmap.PROT_READ)\nos.close(f)\nprint("open",flush=True)\ntime.sleep(600)';
  const child = spawn('python3', ['-c', program, join(dir, 'disk')], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  children.add(child);
  await once(child.stdout, 'data');
  await t.rejects(mounted.unmount(), { message: new RegExp(`\\(pid ${child.pid}\\)`) });
  await kill(child);
  await mounted.unmount();
});

// The kernel marks a path that is gone with " (deleted)", and the mark was taken off a directory whose own name ends so:
// who held a mount on it was "nobody whom this user may see".
await t.test('a mount point whose name looks deleted', async t => {
  const dir = join(workshop.directory(), 'disk (deleted)');
  mkdirSync(dir);
  const mounted = await mount(dir);
  const shell = spawn('sleep', ['600'], { cwd: dir });
  children.add(shell);
  await once(shell, 'spawn');
  await t.rejects(mounted.unmount(), { message: new RegExp(`sleep \\(pid ${shell.pid}\\)`) });
  await kill(shell);
  await mounted.unmount();
});

const root = process.geteuid?.() === 0;
await t.test(
  'a loop device is named, with the command that ends it',
  { skip: root && has('losetup') ? false : 'needs root and losetup' },
  async t => {
    const dir = workshop.directory();
    const mounted = await mount(dir);
    const device = text(await run('losetup', '--read-only', '--find', '--show', join(dir, 'disk')));
    loops.add(device);
    await t.rejects(mounted.unmount(), { message: new RegExp(device), hint: /losetup -d/ });
    await run('losetup', '-d', device);
    loops.delete(device);
    await mounted.unmount();
  },
);

await t.test('lazily: detached now, ended when the last one lets go', async t => {
  const dir = workshop.directory();
  const mounted = await mount(dir);
  const child = await holder(join(dir, 'disk'));
  let over = false;
  void mounted.ended.then(() => {
    over = true;
  });
  await mounted.unmount({ lazy: true });
  t.equal(mountAt(dir), undefined);
  t.equal(over, false, 'its user goes on');
  await kill(child);
  t.equal(await mounted.ended, 'unmounted');
});

await t.test('umount from outside', async t => {
  const dir = workshop.directory();
  const mounted = await mount(dir);
  t.equal((await run('umount', dir)).status, 0);
  t.equal(await mounted.ended, 'unmounted elsewhere');
  t.same(oursAt(dir), []);
});

await t.test('umount -f ends the session and leaves nothing', async t => {
  const dir = workshop.directory();
  const mounted = await mount(dir);
  const child = await holder(join(dir, 'disk'));
  await run('umount', '-f', dir); // aborts the connection, then finds the mount busy
  t.equal(await mounted.ended, 'failed');
  t.equal(mountAt(dir), undefined, 'the dead mount is cleared away');
  await kill(child);
});

await t.test('unmountAt ends a server in another process, and waits for it', async t => {
  const dir = workshop.directory();
  const { child, first, last } = await server(dir);
  t.equal(first.error, undefined);
  t.match(oursAt(dir), [{ server: { pid: child.pid } }]);
  await t.rejects(mount(dir), { code: 'MOUNT_POINT', message: new RegExp(`by process ${child.pid}`) });
  const link = join(workshop.folder, 'link');
  symlinkSync(dir, link);
  await unmountAt(link);
  t.same(oursAt(dir), [], 'the registry is clean at once');
  if (child.exitCode === null) await once(child, 'exit');
  t.equal(child.exitCode, 0);
  t.equal(last(), 'unmounted elsewhere');
});

await t.test('a mount whose server was killed is replaced', async t => {
  const dir = workshop.directory();
  const { child } = await server(dir);
  const held = await holder(join(dir, 'disk'));
  await kill(child);
  t.equal(mountAt(dir)?.type, 'fuse.asof', 'the dead mount stands there');
  const mounted = await mount(dir);
  t.equal((await run('cmp', join(dir, 'disk'), made.oracle)).status, 0);
  t.equal(listMounts().filter(found => found.mountPoint === dir).length, 1, 'and nothing under it');
  await mounted.unmount();
  await kill(held);
});

await t.test('a dead mount can be unmounted', async t => {
  const dir = workshop.directory();
  const { child } = await server(dir);
  await kill(child);
  await unmountAt(dir);
  t.equal(mountAt(dir), undefined);
});

await t.test('a server that is stopped is not taken for dead', async t => {
  const dir = workshop.directory();
  const { child } = await server(dir);
  child.kill('SIGSTOP');
  await t.rejects(mount(dir), { code: 'MOUNT_POINT' });
  child.kill('SIGCONT');
  await unmountAt(dir);
});

await t.test('where nothing of ours is mounted', async t => {
  await t.rejects(unmountAt(workshop.directory()), { code: 'NOT_MOUNTED', message: /nothing is mounted/ });
  await t.rejects(unmountAt('/proc'), { code: 'NOT_MOUNTED', message: /proc/ });
});

await t.test('mount points that will not do', async t => {
  const full = workshop.directory();
  writeFileSync(join(full, 'precious'), '');
  await t.rejects(mount(full), { code: 'MOUNT_POINT', message: /not empty.*precious/ });
  await t.rejects(mount(join(full, 'precious')), { code: 'MOUNT_POINT', message: /not a directory/ });
  await t.rejects(mount(join(full, 'nowhere')), { code: 'MOUNT_POINT', message: /does not exist/ });
  await t.rejects(mount('/proc'), { code: 'MOUNT_POINT', message: /\(proc\) is mounted/ });
});

t.test('mountinfo escapes blanks', async t => {
  const line = '36 35 0:41 / /mnt/a\\040b\\134c rw,noatime shared:1 - fuse.asof /x\\040y ro\n';
  t.match(parseMountInfo(line), [
    { id: 36, parent: 35, device: '0:41', mountPoint: '/mnt/a b\\c', type: 'fuse.asof', source: '/x y' },
  ]);
});
