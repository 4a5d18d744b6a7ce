/**
 * What made a volume's snapshot large: a partitioned disk behind a live device, ext4 and NTFS on it, each file that was written
 * since a snapshot named in its partition, by sectors; without a snapshot by chunks. Nothing stays behind.
 * Oracle: what the test wrote.
 */
import { mkdirSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import type { ChangeOwners } from '../../src/activity-files.js';
import { MIB } from '../cli/file-lab.js';
import { Daemon, scratch } from '../end-to-end/protected.js';
import { noise } from '../image/peer.js';
import { attempt, detachLoops, missing, run } from '../peers.js';

t.setTimeout(240_000);

const NEEDED = [
  'sfdisk',
  'losetup',
  'mount',
  'umount',
  'mkfs.ext4',
  'mkntfs',
  'ntfs-3g',
  'ntfscluster',
  'sync',
];

interface Told extends ChangeOwners {
  readonly since: string;
  readonly unit: number;
}

t.test('a partitioned disk', { skip: missing(NEEDED, ['root', 'loop', 'fuse']) }, async t => {
  const folder = scratch(t);
  const origin = join(folder, 'origin');
  writeFileSync(origin, '');
  truncateSync(origin, 100 * MIB);
  await run('sfdisk', ['--quiet', origin], {
    input: 'label: gpt\nstart=1MiB, size=48MiB\nstart=50MiB, size=40MiB\n',
  });
  const daemon = await Daemon.start(t, folder);
  const live = await daemon.protect('disk', origin);
  t.teardown(() => detachLoops(live));

  /** Lets `work` see a partition, of which nothing is mounted afterwards. */
  const within = async (start: number, size: number, type: string, work: (root: string) => void) => {
    const root = join(folder, 'there');
    mkdirSync(root, { recursive: true });
    const place = ['--offset', String(start * MIB), '--sizelimit', String(size * MIB)];
    const device = (await run('losetup', ['-f', '--show', ...place, live])).trim();
    t.teardown(() => attempt('umount', [root]));
    try {
      if (type === 'make') {
        await run('mkfs.ext4', ['-q', '-F', device]);
        return;
      }
      if (type === 'make-ntfs') {
        await run('mkntfs', ['-q', '-F', '-Q', device]);
        return;
      }
      await run('mount', ['-t', type, device, root]);
      try {
        work(root);
        await run('sync', ['-f', root]);
      } finally {
        await run('umount', [root]);
      }
    } finally {
      await run('losetup', ['-d', device]);
    }
  };
  const first = [1, 48] as const;
  const second = [50, 40] as const;
  await within(...first, 'make', () => {});
  await within(...second, 'make-ntfs', () => {});
  await within(...first, 'ext4', root => writeFileSync(join(root, 'old'), noise(1, 2 * MIB)));
  const snapshot = await daemon.snapshot('disk');
  await within(...first, 'ext4', root => {
    mkdirSync(join(root, 'home'));
    writeFileSync(join(root, 'home/letter'), noise(2, 3 * MIB));
  });
  await within(...second, 'ntfs-3g', root => writeFileSync(join(root, 'report'), noise(3, MIB)));

  const filesOf = (told: ChangeOwners, partition: number) => {
    const part = told.parts.find(one => one.partition === partition)!;
    t.same(part.notes, []);
    return part.files.filter(({ bytes }) => bytes >= MIB).map(({ path, bytes }) => [path, bytes]);
  };
  const told = await daemon.ask<Told>('activity', 'disk', '--files');
  t.equal(told.since, snapshot.id, 'the newest snapshot');
  t.equal(told.unit, 512, 'by sectors');
  t.same(filesOf(told, 1), [['/home/letter', 3 * MIB]]);
  t.same(filesOf(told, 2), [['/report', MIB]]);
  t.equal(told.outside, 0);
  const one = await daemon.ask<Told>('activity', 'disk', '--files', '--partition', '2');
  t.same(
    one.parts.map(({ partition }) => partition),
    [2],
  );
  const all = await daemon.ask<Told>('activity', 'disk', '--files', '--since', 'added');
  t.same(filesOf(all, 1).length, 2, 'since it was added, by chunks');
  t.equal(all.unit, 65536);
  t.same(
    (await daemon.ask<{ id: string }[]>('snapshot', 'list')).map(({ id }) => id),
    [snapshot.id],
    'no snapshot stays',
  );
});
