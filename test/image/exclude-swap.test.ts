/**
 * Swap that is left out: its content reads as zeros, its first page and everything around it is what it was, the source is not
 * touched, and what cannot be told for sure is kept.
 */
import {
  closeSync,
  linkSync,
  mkdirSync,
  openSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import t from 'tap';
import { backup } from '../../src/histories.js';
import { eventually } from '../cli/asof.js';
import { attempt, detachLoops, missing, run } from '../peers.js';
import { OPTIONS } from './history-lab.js';
import { folder, noise, qemuImg } from './peer.js';
import { blank, bytesLeft, MIB, named, SECRET, without } from './swap-lab.js';

t.setTimeout(300_000);

const UUID = '11111111-2222-4333-8444-555555555555';

/** Writes as swap does: into every page behind the first. */
function pageOut(path: string, at = 0, end = Number.POSITIVE_INFINITY): void {
  const size = Math.min(readFileSync(path).length - at, end);
  const fd = openSync(path, 'r+');
  writeSync(fd, Buffer.alloc(size - 4096, SECRET), 0, size - 4096, at + 4096);
  closeSync(fd);
}

t.test(
  'swap partitions',
  { skip: missing(['qemu-img', 'sgdisk', 'mkswap', 'swaplabel', 'blkid']) },
  async t => {
    const home = folder(t);
    const image = blank(home, 'disk.img', 24);
    await run('sgdisk', ['-n', '1:2M:+8M', '-n', '2:12M:+4M', '-n', '3:17M:+4M', image]);
    const part = blank(home, 'part', 8);
    await run('mkswap', ['-U', UUID, '-L', 'paging', part]);
    pageOut(part);
    const small = blank(home, 'small', 4);
    await run('mkswap', [small]);
    const sleeping = Buffer.from(readFileSync(small));
    sleeping.write('S1SUSPEND\0', 4086, 'latin1');
    sleeping.fill(SECRET, 4096);
    // More pages than the partition has.
    const lying = Buffer.from(readFileSync(small));
    lying.writeUInt32LE(5000, 1028);
    lying.fill(SECRET, 4096);
    const fd = openSync(image, 'r+');
    for (const [bytes, at] of [
      [readFileSync(part), 2],
      [sleeping, 12],
      [lying, 17],
    ] as const) {
      writeSync(fd, bytes, 0, bytes.length, at * MIB);
    }
    writeSync(fd, SECRET, 0, SECRET.length, 11 * MIB);
    closeSync(fd);
    const { manifest, after } = await without(t, image);
    t.same(named(manifest), [{ kind: 'swap-partition', name: 'paging', partition: 1 }]);
    t.equal(manifest.excluded![0]!.uuid, UUID);
    t.same(manifest.excluded![0]!.runs, [[2 * MIB + 4096, 8 * MIB - 4096]]);
    t.match(manifest.excludedNot!.join(), /partition 3: .*makes no sense/, 'a header that lies');
    t.equal(manifest.sha256, null);
    const back = join(home, 'back');
    writeFileSync(back, after.subarray(2 * MIB, 10 * MIB));
    t.match(await run('swaplabel', [back]), new RegExp(`LABEL: +paging\\nUUID: +${UUID}|UUID: +${UUID}`));
    t.match(await run('blkid', ['-p', back]), UUID);
    t.ok(after.subarray(12 * MIB).includes(SECRET), 'in a system that sleeps it is kept');

    await t.test('a disk that is swap, and incrementals', async t => {
      const { manifest: full, history } = await without(t, part);
      t.same(named(full), [{ kind: 'swap-partition', name: 'paging', partition: undefined }]);
      const again = await backup(part, history, OPTIONS, { allSectors: true });
      t.equal(again.point.manifest.excluded, undefined, 'not unless it is asked for');
      qemuImg('convert', '-f', 'qcow2', '-O', 'raw', join(history, again.point.manifest.image.file), back);
      t.ok(readFileSync(back).equals(readFileSync(part)));
      const third = await backup(part, history, OPTIONS, { allSectors: true, excludeSwap: true });
      t.equal(third.point.manifest.root, full.root);
    });
  },
);

interface Kind {
  readonly name: string;
  readonly mib: number;
  readonly make: readonly string[];
  readonly check: readonly string[];
  readonly reflink?: boolean;
}

const KINDS: readonly Kind[] = [
  { name: 'ext4', mib: 64, make: ['mkfs.ext4', '-q', '-F'], check: ['e2fsck', '-fn'] },
  {
    name: 'xfs',
    mib: 320,
    make: ['mkfs.xfs', '-q', '-m', 'reflink=1'],
    check: ['xfs_repair', '-n', '-f'],
    reflink: true,
  },
  {
    name: 'btrfs',
    mib: 200,
    make: ['mkfs.btrfs', '-q'],
    check: ['btrfs', 'check', '--check-data-csum'],
    reflink: true,
  },
];

for (const kind of KINDS) {
  const needs = [
    'qemu-img',
    'losetup',
    'mount',
    'umount',
    'mkswap',
    'unshare',
    'filefrag',
    'chattr',
    'lsattr',
  ];
  const skip = missing([...needs, kind.make[0]!, kind.check[0]!], ['root', 'loop']);
  t.test(`swap files of ${kind.name}`, { skip }, async t => {
    const home = folder(t);
    const image = blank(home, 'disk.img', kind.mib);
    t.teardown(() => detachLoops(image));
    await run(kind.make[0]!, [...kind.make.slice(1), image]);
    const at = join(home, 'mnt');
    mkdirSync(at);
    const mounted = async (path: string, work: () => Promise<void> | void, how: readonly string[] = []) => {
      await run('mount', ['-o', ['loop', ...how].join(), path, at]);
      try {
        await work();
      } finally {
        await run('umount', [at]);
      }
    };
    const swapFile = async (name: string, noCow = true) => {
      const path = join(at, name);
      mkdirSync(dirname(path), { recursive: true });
      writeFileSync(path, '');
      if (kind.name === 'btrfs' && noCow) await run('chattr', ['+C', path]);
      writeFileSync(path, Buffer.alloc(4 * MIB));
      await run('mkswap', ['-U', UUID, path]);
      await run('sync', ['-f', at]);
      pageOut(path);
    };
    await mounted(image, async () => {
      mkdirSync(join(at, 'etc'));
      writeFileSync(
        join(at, 'etc/fstab'),
        '# swap\n/srv/paging\\040file none swap sw 0 0\n/../x none swap\n/dev/sda2 none swap\n',
      );
      await swapFile('swapfile');
      await swapFile('srv/paging file');
      await swapFile('elsewhere');
      // A name is not enough, nor a link, nor a file that shares what it has.
      writeFileSync(join(at, 'swap.img'), Buffer.alloc(MIB, SECRET));
      mkdirSync(join(at, 'var'));
      symlinkSync('../elsewhere', join(at, 'var/swap'));
      if (kind.name === 'btrfs') await run('btrfs', ['subvolume', 'create', join(at, 'swap')]);
      else mkdirSync(join(at, 'swap'));
      if (kind.reflink) {
        await swapFile('swap/swapfile');
        if (kind.name === 'btrfs')
          await run('btrfs', ['subvolume', 'snapshot', join(at, 'swap'), join(at, 'copy')]);
        else {
          mkdirSync(join(at, 'copy'));
          await run('cp', ['--reflink=always', join(at, 'swap/swapfile'), join(at, 'copy/swapfile')]);
        }
      } else linkSync(join(at, 'swapfile'), join(at, 'swap/swapfile'));
      if (kind.name === 'btrfs') {
        await swapFile('@swap/swapfile', false);
      }
      for (let i = 0; i < 20; i++) writeFileSync(join(at, `file${i}`), noise(i, 1000 * i));
      await run('sync', ['-f', at]);
    });
    const { manifest, restored } = await without(t, image);
    const names = manifest.excluded!.map(({ name }) => name).sort();
    const linked = kind.reflink ? [] : ['/swap/swapfile'];
    t.same(names, ['/srv/paging file', ...linked, '/swapfile'], JSON.stringify(manifest.excludedNot));
    t.equal(bytesLeft(manifest), 2 * (4 * MIB - 4096), 'each once');
    if (kind.reflink)
      t.match(manifest.excludedNot!.join(), /\/swap\/swapfile is kept: a piece of it is shared/);
    if (kind.name === 'btrfs')
      t.match(manifest.excludedNot!.join(), /\/@swap\/swapfile is kept: btrfs has checksums/);
    for (const { uuid } of manifest.excluded!) t.equal(uuid, UUID);
    const { code, stdout, stderr } = await attempt(kind.check[0]!, [...kind.check.slice(1), restored]);
    t.equal(code, 0, `${stdout}${stderr}`);
    await mounted(restored, async () => {
      const read = (name: string) => readFileSync(join(at, name));
      t.match(await run('swaplabel', [join(at, 'swapfile')]), UUID);
      for (const name of ['swapfile', 'srv/paging file']) {
        t.equal(read(name).length, 4 * MIB);
        t.ok(
          read(name)
            .subarray(4096)
            .every(byte => byte === 0),
          `${name} is empty`,
        );
      }
      for (const name of ['elsewhere', 'swap.img']) t.ok(read(name).includes(SECRET), `${name} is kept`);
      if (kind.reflink) t.ok(read('copy/swapfile').includes(SECRET), 'what is shared is kept');
      for (let i = 0; i < 20; i++) t.ok(read(`file${i}`).equals(noise(i, 1000 * i)));
    }, ['ro']);
    await eventually(async () => !(await run('losetup', ['-a'])).includes(image), 'no loop device stays');
    const { point } = await backup(image, `${image}.both`, OPTIONS, { excludeSwap: true });
    t.equal(point.manifest.allocation, 'map');
    t.equal(point.manifest.excluded!.length, names.length, 'beside a map');
    if (kind.name !== 'ext4') return;
    // Its journal may say that the blocks are another file's by now.
    const fd = openSync(image, 'r+');
    const features = readFileSync(image).readUInt32LE(1024 + 0x60);
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32LE(features | 4);
    writeSync(fd, bytes, 0, 4, 1024 + 0x60);
    closeSync(fd);
    const dirty = await backup(image, `${image}.dirty`, OPTIONS, { excludeSwap: true });
    t.same(dirty.point.manifest.excluded, []);
    t.match(dirty.point.manifest.excludedNot!.join(), /journal is to be replayed/);
    t.equal(dirty.point.manifest.allocation, 'holes');
  });
}
