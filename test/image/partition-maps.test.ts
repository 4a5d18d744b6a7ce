/**
 * A disk with partitions: each file system is left out by its own map, everything else is taken: tables, gaps, boot code, swap,
 * what nobody knows. Files and checkers say that what is used came back.
 */
import { createHash } from 'node:crypto';
import {
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { backup } from '../../src/histories.js';
import { allocationOf } from '../../src/image/allocation.js';
import { ENDS } from '../../src/image/used-space.js';
import { eventually } from '../cli/asof.js';
import { attempt, detachLoops, missing, run } from '../peers.js';
import { OPTIONS } from './history-lab.js';
import { folder, noise, qemuImg } from './peer.js';

t.setTimeout(300_000);

const MIB = 2 ** 20;
const SIZE = 720 * MIB;
const GARBAGE = Buffer.from('what was deleted is nobody’s business; ');

interface Part {
  readonly start: number;
  readonly size: number;
  readonly make?: readonly string[];
  readonly check?: readonly string[];
  readonly type?: string;
}

/** Bytes, in MiB; between them and behind them there is room. */
const PARTS: readonly Part[] = [
  { start: 2, size: 64, make: ['mkfs.ext4', '-q', '-F'], check: ['e2fsck', '-fn'], type: 'ext4' },
  { start: 70, size: 310, make: ['mkfs.xfs', '-q'], check: ['xfs_repair', '-n'], type: 'xfs' },
  { start: 384, size: 128, make: ['mkfs.btrfs', '-q'], check: ['btrfs', 'check'], type: 'btrfs' },
  { start: 516, size: 40, make: ['mkntfs', '-q', '-F'], check: ['ntfsfix', '-n'], type: 'ntfs-3g' },
  { start: 560, size: 40, make: ['mkfs.fat'], check: ['fsck.fat', '-n'] },
  { start: 604, size: 32, make: ['mkswap'] },
  { start: 640, size: 32 },
  // A file system, and the mark of another one that was there before.
  { start: 676, size: 32, make: ['mkfs.ext4', '-q', '-F'] },
];

const skip = missing(
  [
    ...['qemu-img', 'sgdisk', 'losetup', 'mount', 'umount', 'ntfs-3g', 'mcopy', 'mkswap', 'unshare'],
    ...PARTS.flatMap(({ make, check }) => [make?.[0], check?.[0]]).filter(name => name !== undefined),
    ...['partclone.extfs', 'partclone.xfs', 'partclone.btrfs', 'partclone.ntfs', 'partclone.fat'],
  ],
  ['root', 'loop', 'fuse'],
);

/** Works on a partition by a loop device of its own. */
async function within<T>(image: string, part: Part, work: (device: string) => Promise<T>): Promise<T> {
  const place = ['--offset', String(part.start * MIB), '--sizelimit', String(part.size * MIB)];
  const device = (await run('losetup', ['-f', '--show', ...place, image])).trim();
  try {
    return await work(device);
  } finally {
    await attempt('losetup', ['-d', device]);
  }
}

async function mounted(
  device: string,
  type: string,
  at: string,
  work: () => Promise<void> | void,
  ro = false,
) {
  mkdirSync(at, { recursive: true });
  const how = ro ? ['-o', 'ro'] : [];
  if (type === 'ntfs-3g') await run('ntfs-3g', [...how, device, at]);
  else await run('mount', [...how, '-t', type, device, at]);
  try {
    await work();
  } finally {
    await run('umount', [at]);
  }
}

function digests(at: string): string[] {
  return readdirSync(join(at, 'd'))
    .sort()
    .map(
      name =>
        `${name} ${createHash('sha256')
          .update(readFileSync(join(at, 'd', name)))
          .digest('hex')}`,
    );
}

async function makeDisk(t: Test, home: string) {
  const image = join(home, 'disk.img');
  t.teardown(() => detachLoops(image));
  writeFileSync(image, '');
  truncateSync(image, SIZE);
  const names = PARTS.flatMap(({ start, size }, i) => ['-n', `${i + 1}:${start}M:+${size}M`]);
  await run('sgdisk', ['-a', '1', ...names, image]);
  const fd = openSync(image, 'r+');
  const put = (at: number, bytes: Buffer) => writeSync(fd, bytes, 0, bytes.length, at);
  const files: string[][] = [];
  for (const [i, part] of PARTS.entries()) {
    if (part.make) {
      const [program, ...args] = part.make;
      await within(image, part, device => run(program!, [...args, device]));
    }
    // Behind the partition, where none is.
    put((part.start + part.size) * MIB + 4096, noise(i, 8192));
    if (part.type) {
      const at = join(home, `mnt${i}`);
      await within(image, part, device =>
        mounted(device, part.type!, at, async () => {
          mkdirSync(join(at, 'd'));
          writeFileSync(join(at, 'deleted'), Buffer.alloc(6 * MIB, GARBAGE));
          for (let n = 0; n < 60; n++) writeFileSync(join(at, 'd', `${n}`), noise(n, 1 + n * 997));
          await run('sync', ['-f', at]);
          rmSync(join(at, 'deleted'));
          files[i] = digests(at);
        }),
      );
    }
  }
  const file = join(home, 'file');
  writeFileSync(file, noise(99, 300_000));
  await run('mcopy', ['-i', `${image}@@${560 * MIB}`, file, '::kept']);
  put((640 + 7) * MIB, noise(50, MIB));
  put(676 * MIB + 0x10040, Buffer.from('_BHRfS_M'));
  put(440, Buffer.from('boot'));
  put(40 * 512, noise(51, 4096));
  return { image, files, file };
}

t.test('each by its own map', { skip }, async t => {
  const home = folder(t);
  const { image, files, file } = await makeDisk(t, home);
  const history = join(home, 'history');
  const { point } = await backup(image, history, OPTIONS);
  const { allocation, allocationWhy = '', unused } = point.manifest;
  t.equal(allocation, 'map');
  const why = allocationWhy.split('; ');
  t.same(
    why.map(text => text.replace(/, by .*/, '')),
    [
      'partition 1: the map of ext',
      'partition 2: the map of XFS',
      'partition 3: the map of btrfs',
      'partition 4: the map of NTFS',
      'partition 5: the map of FAT',
      'partition 6: all sectors: it is swap',
      'partition 7: all sectors: it holds nothing that is known',
      'partition 8: all sectors: it bears the marks of btrfs, ext4',
    ],
  );
  t.ok(unused!.bytes > 400 * MIB, `${unused!.bytes} bytes`);
  const restored = join(home, 'restored.img');
  t.teardown(() => detachLoops(restored));
  qemuImg('convert', '-f', 'qcow2', '-O', 'raw', join(history, point.manifest.image.file), restored);

  const [before, after] = [readFileSync(image), readFileSync(restored)];
  const mapped = PARTS.slice(0, 5);
  let at = 0;
  for (const { start, size } of [...mapped, { start: SIZE / MIB, size: 0 }]) {
    const end = start * MIB + (size > 0 ? ENDS : 0);
    t.ok(before.subarray(at, end).equals(after.subarray(at, end)), `from ${at} to ${end} all is taken`);
    at = (start + size) * MIB - (size > 0 ? ENDS : 0);
  }
  for (const [i, part] of mapped.entries()) {
    const inner = after.subarray(part.start * MIB + ENDS, (part.start + part.size) * MIB - ENDS);
    t.notOk(inner.includes(GARBAGE), `what partition ${i + 1} does not use is left out`);
    const { code, stdout, stderr } = await within(restored, part, device =>
      attempt(part.check![0]!, [...part.check!.slice(1), device]),
    );
    t.equal(code, 0, `${stdout}${stderr}`);
    if (!part.type) continue;
    const mnt = join(home, `mnt${i}`);
    await within(restored, part, device =>
      mounted(device, part.type!, mnt, () => void t.same(digests(mnt), files[i]), true),
    );
  }
  const kept = await attempt('mtype', ['-i', `${restored}@@${560 * MIB}`, '::kept']);
  t.ok(kept.stdout.equals(readFileSync(file)));
  await eventually(async () => !(await run('losetup', ['-a'])).includes(image), 'no loop device stays');

  await t.test('a disk that bears two readings is taken whole', async t => {
    const read = async (offset: number, length: number) => before.subarray(offset, offset + length);
    const disk = { size: SIZE, sectorSize: 512 as const, read };
    const wishes = { map: true, swap: true };
    before.write('_BHRfS_M', 0x10040, 'latin1');
    t.match(await allocationOf(disk, image, wishes), { unused: undefined, why: /as well/, excluded: [] });
    before.fill(0, 0x10040, 0x10048);
    before.writeUInt32LE(0, 512 + 16);
    t.match(await allocationOf(disk, image, wishes), {
      unused: undefined,
      why: /GPT is not sound/,
      excluded: [],
    });
  });
});
