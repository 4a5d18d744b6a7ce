/**
 * The writable view, as a user has it: a file system that was copied while it was mounted replays its journal through the
 * overlay and is whole, and the image keeps every byte.
 */
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, truncateSync, writeFileSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { attempt, detachLoops, missing, run } from '../peers.js';
import { mount, points, scratch, unmount } from './mounted.js';

t.setTimeout(600_000);

const MiB = 2 ** 20;

interface Journaled {
  readonly type: string;
  readonly size: number;
  readonly make: readonly [program: string, ...args: string[]];
  readonly check: readonly [program: string, ...args: string[]];
}

const SYSTEMS: readonly Journaled[] = [
  { type: 'ext4', size: 64 * MiB, make: ['mke2fs', '-q', '-F', '-t', 'ext4'], check: ['e2fsck', '-f', '-n'] },
  { type: 'xfs', size: 320 * MiB, make: ['mkfs.xfs', '-q', '-f'], check: ['xfs_repair', '-n'] },
];

/** A loop device over `path`, until `t` is over. */
async function attach(t: Test, path: string, ...options: string[]): Promise<string> {
  t.teardown(() => detachLoops(path));
  return (await run('losetup', [...options, '-f', '--show', path])).trim();
}

/** A copy of a file system that was not unmounted: its journal has what its tables do not. */
async function dirtyImage(t: Test, folder: string, system: Journaled): Promise<string> {
  const lived = join(folder, 'lived.raw');
  writeFileSync(lived, '');
  truncateSync(lived, system.size);
  const [program, ...args] = system.make;
  await run(program, [...args, lived]);
  const device = await attach(t, lived);
  const there = join(folder, 'lived');
  mkdirSync(there);
  t.teardown(() => attempt('umount', [there]));
  await run('mount', ['-t', system.type, device, there]);
  await run('cp', [join(folder, 'bytes'), join(there, 'first')]);
  await run('sync', ['-f', there]);
  await run('sh', [
    '-c',
    `cd "$1" && for i in $(seq 200); do echo $i > n$i; done && mv first second`,
    'sh',
    there,
  ]);
  await run('sync', ['-f', there]);
  const copy = join(folder, 'dirty.raw');
  await run('cp', ['--sparse=always', lived, copy]);
  await run('umount', [there]);
  await run('losetup', ['-d', device]);
  return copy;
}

for (const system of SYSTEMS) {
  const [maker] = system.make;
  const [checker, ...checks] = system.check;
  const skip = missing(
    [maker, checker, 'losetup', 'mount', 'umount', 'cmp', 'cp', 'sh', 'sha256sum', 'qemu-img'],
    ['fuse', 'root', 'loop'],
  );
  t.test(`${system.type} replays its journal`, { skip, timeout: 300_000 }, async t => {
    const folder = await scratch(t);
    writeFileSync(join(folder, 'bytes'), randomBytes(3 * MiB + 77));
    const raw = await dirtyImage(t, folder, system);
    let image = raw;
    if (system.type === 'ext4') {
      image = join(folder, 'dirty.qcow2');
      await run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', '-c', raw, image]);
    }
    const sum = async () => (await run('sha256sum', [image])).slice(0, 64);
    const before = await sum();
    const layer = join(folder, 'changes.layer');
    const there = join(folder, 'there');
    mkdirSync(there);
    t.teardown(() => attempt('umount', [there]));

    let shown = await mount(t, image, `--overlay=${layer}`);
    const [newest] = await points(image);
    const point = join(shown, newest!.moment, 'disk');
    const plain = await attach(t, point, '-r');
    t.not(
      (await attempt('mount', ['-t', system.type, '-o', 'ro', plain, there])).code,
      0,
      'without a layer its journal keeps it from being mounted',
    );
    await run('losetup', ['-d', plain]);

    let device = await attach(t, join(shown, 'disk'));
    await run('mount', ['-t', system.type, device, there]);
    t.equal((await attempt('cmp', [join(there, 'second'), join(folder, 'bytes')])).code, 0);
    t.equal(
      (await readdir(there)).filter(name => /^n\d+$/.test(name)).length,
      200,
      'what the journal had is there',
    );
    await run('cp', [join(folder, 'bytes'), join(there, 'third')]);
    await run('umount', [there]);
    const found = await attempt(checker, [...checks, device]);
    t.equal(found.code, 0, `it is whole: ${found.stdout}${found.stderr}`);
    await run('losetup', ['-d', device]);
    t.equal((await attempt('cmp', [point, raw])).code, 0, 'beside it the point is exact');
    await unmount(shown);
    t.equal(await sum(), before, 'the image keeps every byte');
    if (system.type !== 'ext4') return;

    shown = await mount(t, image, `--overlay=${layer}`);
    device = await attach(t, join(shown, 'disk'));
    t.equal(
      (await attempt(checker, [...checks, device])).code,
      0,
      'with the layer that was kept it is whole again',
    );
    await run('mount', ['-t', system.type, device, there]);
    t.equal((await attempt('cmp', [join(there, 'third'), join(folder, 'bytes')])).code, 0);
    await run('umount', [there]);
    await run('losetup', ['-d', device]);
    await unmount(shown);

    shown = await mount(t, image, '--overlay');
    device = await attach(t, join(shown, 'disk'));
    await run('mount', ['-t', system.type, device, there]);
    t.notOk(existsSync(join(there, 'third')), 'without that layer it is as it was');
    await run('umount', [there]);
    await run('losetup', ['-d', device]);
    await unmount(shown);
    t.equal(await sum(), before);
  });
}
