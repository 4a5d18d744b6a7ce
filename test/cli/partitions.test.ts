/**
 * The partitions of a disk beside it, in mounts of images, of histories and of snapshots: the bytes that the disk has there, and
 * what they hold in info.json.
 */
import { mkdirSync, statSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { missing, run } from '../peers.js';
import { asof, asofJson, peer } from './asof.js';
import { MIB, partitionedDisk, scratch } from './drive-lab.js';

t.setTimeout(120_000);

const skip = missing(['sfdisk', 'dd', 'cmp', 'mkfs.ext4', 'mkswap', 'qemu-img'], ['fuse']);

interface Info {
  readonly partitionTable: unknown;
  readonly partitionDefects: readonly string[];
  readonly partitions: readonly { readonly file: string; readonly start: number; readonly length: number }[];
}

async function disk(folder: string): Promise<string> {
  const ext = join(folder, 'ext');
  const swap = join(folder, 'swap');
  const path = join(folder, 'disk.raw');
  for (const [file, size, ...make] of [
    [ext, 8, 'mkfs.ext4', '-q', '-L', 'root'],
    [swap, 4, 'mkswap', '-L', 'swapped'],
  ] as const) {
    await run('truncate', ['-s', String(size * MIB), file]);
    await run(make[0], [...make.slice(1), file]);
  }
  await partitionedDisk(path, 'gpt', [
    { file: ext, size: 8 },
    { file: swap, size: 4 },
  ]);
  return path;
}

const json = async (path: string) => JSON.parse(await peer('timeout', '60', 'cat', path)) as Info;

/** Every partition has the bytes that the disk has at its place. */
async function sound(t: Test, at: string): Promise<Info> {
  const info = await json(join(at, 'info.json'));
  t.match(info, {
    partitionTable: { kind: 'gpt', sectorSize: 512 },
    partitionDefects: [],
    fileSystem: null,
    partitions: [
      {
        file: 'p1',
        number: 1,
        start: MIB,
        length: 8 * MIB,
        fileSystem: { type: 'ext4', label: 'root' },
        trouble: '',
      },
      { file: 'p2', number: 2, typeName: 'Linux filesystem', fileSystem: { type: 'swap', label: 'swapped' } },
    ],
  });
  for (const { file, start, length } of info.partitions) {
    const words = ['-i', `0:${start}`, '-n', String(length), join(at, file), join(at, 'disk')];
    t.equal(await peer('timeout', '60', 'cmp', ...words), '', `${at}/${file}`);
    t.equal((await peer('stat', '-c', '%s', join(at, file))).trim(), String(length));
  }
  const names = (await peer('timeout', '60', 'ls', at)).split('\n').filter(name => /^p\d/.test(name));
  t.same(names, ['p1', 'p2']);
  return info;
}

function mountPoint(t: Test, folder: string): string {
  const at = join(folder, 'mount');
  mkdirSync(at);
  t.teardown(() => asof('umount', '--lazy', at));
  return at;
}

for (const driver of ['native', 'fuse-native']) {
  t.test(`of an image, by the driver ${driver}`, { skip }, async t => {
    const folder = scratch(t);
    const raw = await disk(folder);
    const image = join(folder, 'disk.qcow2');
    await run('qemu-img', ['convert', '-c', '-O', 'qcow2', raw, image]);
    const at = mountPoint(t, folder);
    const mount = await asof('mount', image, at, '--driver', driver);
    if (/DRIVER_UNAVAILABLE|fuse-native/.test(mount.stderr)) {
      t.pass('this driver cannot be used here');
      return;
    }
    t.equal(mount.status, 0, mount.stderr);
    await sound(t, at);
    const [moment] = (await peer('ls', at)).split('\n').filter(name => name.startsWith('20'));
    await sound(t, join(at, moment!));
    await sound(t, join(at, '@2999-01-01'));
    const ext = join(folder, 'ext');
    t.equal(await peer('timeout', '60', 'cmp', join(at, 'p1'), ext), '');
    const blocks = Number(await peer('stat', '-c', '%b', join(at, 'p1')));
    t.ok(driver === 'fuse-native' || blocks * 512 <= 8 * MIB);
    t.equal((await asof('umount', at)).status, 0);
  });
}

t.test('of a disk that was cut off', { skip }, async t => {
  const folder = scratch(t);
  const raw = await disk(folder);
  truncateSync(raw, 11 * MIB);
  const at = mountPoint(t, folder);
  await asofJson('mount', raw, at);
  const info = await json(join(at, 'info.json'));
  t.match(info.partitions[1], { start: 10 * MIB, length: MIB, stated: 4 * MIB });
  t.match(info.partitionDefects.join('\n'), /p2 has 4194304 bytes, of which the disk ends after 1048576/);
  const tail = join(folder, 'tail');
  await peer('sh', '-c', `cat '${at}/p2' > '${tail}'`);
  t.equal(statSync(tail).size, MIB, 'it ends with the disk, and no zeros follow');
});

t.test('with an overlay', { skip }, async t => {
  const folder = scratch(t);
  const at = mountPoint(t, folder);
  await asofJson('mount', await disk(folder), at, '--overlay');
  const names = (await peer('ls', at)).split('\n').filter(Boolean);
  t.notOk(names.includes('p1'), 'what is written could move them');
  await sound(t, join(at, names.find(name => name.startsWith('20'))!));
});

t.test('of the points of a history', { skip }, async t => {
  const folder = scratch(t);
  const raw = await disk(folder);
  const history = join(folder, 'history');
  mkdirSync(history);
  await asofJson('backup', raw, '--to', history);
  const at = mountPoint(t, folder);
  await asofJson('mount', history, at);
  await sound(t, join(at, 'disk'));
  const [moment] = (await peer('ls', join(at, 'disk'))).split('\n').filter(name => name.startsWith('20'));
  await sound(t, join(at, 'disk', moment!));
});

t.test('asof info', { skip }, async t => {
  const folder = scratch(t);
  const raw = await disk(folder);
  t.match(await asofJson<Info>('info', raw), {
    partitionTable: { kind: 'gpt' },
    partitions: [{ file: 'p1' }, { file: 'p2' }],
  });
  const { stdout } = await asof('info', raw);
  t.match(stdout.toString(), /partitions {3}2 \(gpt\)[\s\S]*p1 .*ext4 "root"[\s\S]*p2 .*swap .*"swapped"/);
});
