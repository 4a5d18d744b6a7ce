/**
 * The counters of a file system tell of every mount for writing, and stay the same while nobody writes. The file systems
 * are made and changed by their own tools and by the kernel.
 */
import { closeSync, openSync, readFileSync, readSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { countersAt } from '../../src/cow/counters/table.js';
import { fileSystemStarts } from '../../src/cow/partitions.js';
import { attempt, missing, run } from '../peers.js';
import { emptyFile, loop, MiB, scratch, whileMounted } from './lab.js';

t.setTimeout(120_000);

function readerOf(path: string) {
  return (offset: number, length: number) => {
    const fd = openSync(path, 'r');
    try {
      const buffer = Buffer.alloc(length);
      return buffer.subarray(0, readSync(fd, buffer, 0, length, offset));
    } finally {
      closeSync(fd);
    }
  };
}

const counters = (path: string, start = 0) => countersAt(readerOf(path), start);

interface Case {
  readonly name: string;
  readonly fileSystem: string;
  readonly make: readonly [string, ...string[]];
  readonly size: number;
  /** Whether the kernel may lack it. */
  readonly mount: readonly [string, ...string[]];
  /** A counter that an empty mount for writing moves; undefined where none does. */
  readonly empty?: string;
  readonly written: string;
}

const CASES: readonly Case[] = [
  {
    name: 'ext4',
    fileSystem: 'ext4',
    make: ['mke2fs', '-q', '-F', '-t', 'ext4'],
    size: 64 * MiB,
    mount: ['mount', '-t', 'ext4'],
    empty: 's_mnt_count',
    written: 's_mnt_count',
  },
  {
    name: 'ext2',
    fileSystem: 'ext4',
    make: ['mke2fs', '-q', '-F', '-t', 'ext2'],
    size: 16 * MiB,
    mount: ['mount', '-t', 'ext2'],
    empty: 's_mnt_count',
    written: 's_free_blocks_count',
  },
  {
    name: 'xfs',
    fileSystem: 'xfs',
    make: ['mkfs.xfs', '-q', '-f'],
    size: 320 * MiB,
    mount: ['mount', '-t', 'xfs'],
    empty: 'log_head',
    written: 'log_head',
  },
  {
    name: 'btrfs',
    fileSystem: 'btrfs',
    make: ['mkfs.btrfs', '-q', '-f'],
    size: 256 * MiB,
    mount: ['mount', '-t', 'btrfs'],
    written: 'generation',
  },
  {
    name: 'ntfs',
    fileSystem: 'ntfs',
    make: ['mkntfs', '-F', '-Q', '-q'],
    size: 32 * MiB,
    mount: ['ntfs-3g'],
    written: 'system_records',
  },
];

for (const one of CASES) {
  const skip = missing([one.make[0], 'losetup', 'umount', one.mount[0]], ['root', 'loop', 'fuse']);
  t.test(one.name, { skip }, async t => {
    const folder = scratch(t);
    const path = emptyFile(join(folder, 'fs.img'), one.size);
    const [make, ...args] = one.make;
    await run(make, [...args, path]);
    const made = counters(path);
    t.equal(made?.fileSystem, one.fileSystem);
    t.equal(made?.start, 0);
    t.same(counters(path), made, 'two readings are the same');
    const device = await loop(t, path);
    const [mount, ...options] = one.mount;
    const possible = await attempt(mount, [...options, device, folder]);
    if (possible.code !== 0 && one.name !== 'ext4') {
      t.pass(`the kernel does not mount it: ${possible.stderr.trim()}`);
      return;
    }
    await run('umount', [folder]);
    const before = counters(path);
    if (one.empty) t.not(before?.values[one.empty], made?.values[one.empty], 'a mount alone is noted');
    await whileMounted(folder, [mount, ...options, device], there => {
      writeFileSync(join(there, 'file'), 'something');
    });
    const after = counters(path);
    t.not(after?.values[one.written], before?.values[one.written], `${one.written} tells of a file`);
    await run('losetup', ['-d', device]);
    t.same(counters(path), after, 'and it is all on the disk');
  });
}

t.test('what dumpe2fs says', { skip: missing(['mke2fs', 'dumpe2fs']) }, async t => {
  const path = emptyFile(join(scratch(t), 'fs.img'), 16 * MiB);
  await run('mke2fs', ['-q', '-F', '-t', 'ext4', path]);
  const text = await run('dumpe2fs', ['-h', path]);
  const field = (name: string) => new RegExp(`^${name}:\\s+(.*)$`, 'm').exec(text)?.[1];
  const values = counters(path)!.values;
  t.equal(values['s_mnt_count'], field('Mount count'));
  t.equal(values['s_free_blocks_count'], field('Free blocks'));
  t.equal(values['s_free_inodes_count'], field('Free inodes'));
  t.equal(values['s_uuid'], field('Filesystem UUID')?.replaceAll('-', ''));
  t.equal(Number(values['s_checksum']), Number(field('Checksum')));
  t.equal(
    new Date(Number(values['s_wtime']) * 1000).getTime(),
    new Date(field('Last write time')!).getTime(),
  );
});

t.test(
  'the head of an XFS log is where xfs_logprint sees it',
  { skip: missing(['mkfs.xfs', 'xfs_logprint']) },
  async t => {
    const path = emptyFile(join(scratch(t), 'fs.img'), 320 * MiB);
    await run('mkfs.xfs', ['-q', '-f', path]);
    const { stdout, stderr } = await attempt('xfs_logprint', ['-t', path]);
    const head = /head: (\d+)/.exec(stdout.toString() + stderr)?.[1];
    t.equal(counters(path)?.values['log_head']?.split(':')[1], head);
  },
);

t.test('partitions', { skip: missing(['sfdisk', 'mke2fs']) }, async t => {
  for (const [label, table, starts] of [
    ['dos', '2048,4096\n8192,4096,E\n10240,1024\n', [0, 2048 * 512, 10240 * 512]],
    ['gpt', '2048,4096\n8192,4096\n', [0, 2048 * 512, 8192 * 512]],
  ] as const) {
    const path = emptyFile(join(scratch(t), 'disk.img'), 16 * MiB);
    await run('sfdisk', ['-q', '--label', label, path], { input: table });
    t.same(fileSystemStarts(readerOf(path), 512), starts, label);
    await run('mke2fs', ['-q', '-F', '-E', `offset=${2048 * 512}`, path, '2M']);
    t.match(counters(path, 2048 * 512), { fileSystem: 'ext4', start: 2048 * 512 });
  }
});

t.test('metadata that makes no sense is nobody’s, and costs little', async t => {
  const noise = readFileSync(process.execPath).subarray(0, MiB);
  const marks: readonly (readonly [number, string])[] = [
    [0, 'XFSB'],
    [3, 'NTFS    '],
    [65536 + 0x40, '_BHRfS_M'],
  ];
  for (const [at, mark] of marks) {
    for (let round = 0; round < 50; round++) {
      const disk = Buffer.from(noise);
      for (let i = 0; i < 512; i++) disk[i] = (i * 131 + round * 17) & 255;
      disk.write(mark, at, 'latin1');
      const read = (offset: number, length: number) =>
        disk.subarray(offset, Math.max(offset, offset + length));
      t.doesNotThrow(() => countersAt(read, 0));
    }
  }
  t.equal(
    countersAt(() => Buffer.alloc(0), 0),
    undefined,
  );
});
