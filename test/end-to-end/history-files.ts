/**
 * A history of file systems in use: ext4, XFS, NTFS and a partitioned disk live on a volume, files come, change and go, and
 * points are taken of them. Each point has the files that were there, byte for byte and with all that belongs to them: through a
 * mount, and restored, where the checkers of others find nothing wrong.
 *
 * Oracles: find(1), sha256sum(1), getfattr(1) and getfacl(1) on the live file system at the moment of the point; e2fsck,
 * xfs_repair, ntfsfix, sgdisk on what was restored.
 */
import {
  appendFileSync,
  closeSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { Manifest } from '../../src/image/manifest.js';
import { ASOF, asofJson } from '../cli/asof.js';
import { told } from '../cli/file-lab.js';
import { randomOf } from '../cow/rig.js';
import { noise } from '../image/peer.js';
import { attempt, detachLoops, missing, run } from '../peers.js';
import { Daemon, scratch } from './protected.js';
import { isInterrupted, limit, progress, rounds, soaking } from './soak.js';

const MIB = 2 ** 20;
const POINTS = soaking ? 16 : 6;

interface Type {
  readonly name: 'ext4' | 'xfs' | 'ntfs-3g';
  readonly make: readonly string[];
  /** Of one that was frozen, or at rest. */
  readonly readOnly: string;
  /** Of a copy: the original may still be known to the kernel. */
  readonly copy: string;
  readonly check: readonly string[];
  readonly posix: boolean;
}

const EXT4: Type = {
  name: 'ext4',
  make: ['mkfs.ext4', '-q', '-F'],
  readOnly: 'ro,noload',
  copy: 'rw',
  check: ['e2fsck', '-f', '-n'],
  posix: true,
};
const XFS: Type = {
  name: 'xfs',
  make: ['mkfs.xfs', '-q', '-f'],
  readOnly: 'ro,norecovery,nouuid',
  copy: 'rw,nouuid',
  check: ['xfs_repair', '-n'],
  posix: true,
};
const NTFS: Type = {
  name: 'ntfs-3g',
  make: ['mkntfs', '-q', '-F', '-Q'],
  readOnly: 'ro',
  copy: 'rw',
  check: ['ntfsfix', '-n'],
  posix: false,
};

/** Where a file system lies on the disk: bytes. */
interface Part {
  readonly type: Type;
  readonly start: number;
  readonly size: number;
}

const part = (type: Type, start: number, size: number): Part => ({
  type,
  start: start * MIB,
  size: size * MIB,
});

const DISKS: Readonly<
  Record<string, { readonly size: number; readonly table?: string; readonly parts: Part[] }>
> = {
  ext4: { size: 48, parts: [part(EXT4, 0, 48)] },
  XFS: { size: 320, parts: [part(XFS, 0, 320)] },
  NTFS: { size: 32, parts: [part(NTFS, 0, 32)] },
  'a partitioned disk': {
    size: 82,
    table: 'label: gpt\nstart=1MiB, size=40MiB\nstart=42MiB, size=38MiB\n',
    parts: [part(EXT4, 1, 40), part(NTFS, 42, 38)],
  },
};

const NEEDED = [
  ...['losetup', 'mount', 'umount', 'sync', 'sfdisk', 'sgdisk', 'getfattr', 'setfattr', 'getfacl', 'setfacl'],
  ...['mkfs.ext4', 'mkfs.xfs', 'mkntfs', 'ntfs-3g', 'e2fsck', 'xfs_repair', 'ntfsfix'],
];

export function filesOf(name: keyof typeof DISKS): void {
  limit(300_000);
  const { size, table, parts } = DISKS[name]!;
  const skip = missing(NEEDED, ['root', 'loop', 'fuse']);
  t.test(name, { skip }, t => rounds(t, 1, (t, seed) => history(t, size * MIB, table, parts, seed)));
}

interface Point {
  readonly manifest: Manifest;
  /** Of each part, what programs say of its files. */
  readonly files: readonly string[];
}

async function history(
  t: Test,
  size: number,
  table: string | undefined,
  parts: readonly Part[],
  seed: number,
) {
  const random = randomOf(seed);
  const folder = scratch(t);
  const origin = join(folder, 'origin');
  const path = join(folder, 'history');
  writeFileSync(origin, '');
  truncateSync(origin, size);
  if (table !== undefined) await run('sfdisk', ['--quiet', origin], { input: table });
  const daemon = await Daemon.start(t, folder);
  const live = await daemon.protect('disk', origin);
  const roots = parts.map((_, i) => join(folder, `files-${i}`));
  t.teardown(async () => {
    for (const root of roots) await attempt('umount', [root]);
    await detachLoops(live);
  });
  for (const one of parts)
    await onDevice(live, one, true, device => run(one.type.make[0]!, [...one.type.make.slice(1), device]));
  for (const root of roots) mkdirSync(root);
  const mountAll = async () => {
    for (const [i, one] of parts.entries()) await mount(live, one, roots[i]!, 'rw');
  };
  const unmountAll = async () => {
    for (const root of roots) await run('umount', [root]);
  };
  await mountAll();

  const points: Point[] = [];
  while (points.length < POINTS && !isInterrupted()) {
    for (const [i, { type }] of parts.entries())
      await change(roots[i]!, type, random, `${seed}-${points.length}`);
    // What cannot be frozen is at rest when it is not mounted.
    const rests = parts.some(({ type }) => !type.posix);
    for (const root of roots) await run('sync', ['-f', root]);
    const files: string[] = [];
    for (const [i, { type }] of parts.entries()) files.push(await told(roots[i]!, type.posix));
    if (rests) await unmountAll();
    const kind =
      points.length === 3 ? ['--kind', 'differential'] : points.length === 4 ? ['--method', 'compared'] : [];
    const manifest = await daemon.ask<Manifest>('backup', 'disk', '--to', path, ...kind);
    points.push({ manifest, files });
    if (!rests) t.equal(manifest.consistency, 'filesystem', 'it was frozen');
    if (points.length === 2) {
      if (!rests) await unmountAll();
      t.equal(await daemon.end('SIGTERM'), 0);
      await daemon.start();
      await mountAll();
    } else if (rests) await mountAll();
    progress(`${points.length} points`);
  }
  await unmountAll();
  // One that others stand on goes, and they stay what they are.
  const [gone] = points.splice(1, 1);
  await run(ASOF, ['consolidate', join(path, gone!.manifest.image.file)]);

  const shown = join(folder, 'shown');
  const there = join(folder, 'there');
  for (const one of [shown, there]) mkdirSync(one);
  t.teardown(async () => {
    await attempt('umount', [there]);
    await attempt(ASOF, ['umount', shown]);
  });
  await run(ASOF, ['mount', path, shown]);
  const moments = new Map(
    (await asofJson<{ points: { id: string; moment: string }[] }>('history', path)).points.map(
      ({ id, moment }) => [id, moment],
    ),
  );
  for (const [n, { manifest, files }] of points.entries()) {
    if (isInterrupted()) return;
    const disk = join(shown, 'disk', moments.get(manifest.id)!, 'disk');
    for (const [i, one] of parts.entries()) {
      await mount(disk, one, there, one.type.readOnly);
      t.equal(await told(there, one.type.posix), files[i], `${n}: ${one.type.name} through a mount`);
      await run('umount', [there]);
    }
    const restored = join(folder, 'restored.img');
    await asofJson('restore', `${path}@${manifest.id}`, restored);
    t.teardown(() => detachLoops(restored));
    if (table !== undefined) await run('sgdisk', ['--verify', restored]);
    for (const [i, one] of parts.entries()) {
      await mount(restored, one, there, one.type.copy);
      t.equal(await told(there, one.type.posix), files[i], `${n}: ${one.type.name}, restored`);
      await run('umount', [there]);
      const [program, ...options] = one.type.check;
      const { code, stdout, stderr } = await onDevice(restored, one, false, device =>
        attempt(program!, [...options, device]),
      );
      t.equal(code, 0, `${n}: ${program} ${stdout}${stderr}`);
    }
    rmSync(restored);
    progress(`${n + 1} of ${points.length} checked`);
  }
  await run(ASOF, ['umount', shown]);
}

/** A loop device over a part of `path`, for as long as `work` goes on; the last user of it may stay longer. */
async function onDevice<T>(
  path: string,
  { start, size }: Part,
  write: boolean,
  work: (device: string) => Promise<T>,
): Promise<T> {
  const place = ['--offset', String(start), '--sizelimit', String(size)];
  const access = write ? [] : ['--read-only'];
  const device = (await run('losetup', [...access, '-f', '--show', ...place, path])).trim();
  try {
    return await work(device);
  } finally {
    await run('losetup', ['-d', device]);
  }
}

async function mount(path: string, one: Part, root: string, options: string): Promise<void> {
  await onDevice(path, one, !options.startsWith('ro'), device =>
    run('mount', ['-t', one.type.name, '-o', options, device, root]),
  );
}

/** Files come, change and go. */
async function change(root: string, type: Type, random: (n: number) => number, stamp: string): Promise<void> {
  const folders = ['', 'a', 'a/b', 'c'];
  for (const name of folders) mkdirSync(join(root, name), { recursive: true });
  const files = () =>
    readdirSync(root, { recursive: true, withFileTypes: true })
      .filter(entry => entry.isFile())
      .map(entry => join(entry.parentPath, entry.name));
  for (let n = 0; n < 12; n++) {
    const fresh = join(root, folders[random(folders.length)]!, `${stamp}-${n}`);
    const known = files();
    const one = known[random(Math.max(1, known.length))];
    const bytes = noise(random(250), 1 + random(random(3) === 0 ? 600_000 : 20_000));
    const what = one === undefined ? 0 : random(9);
    if (what <= 2) writeFileSync(fresh, bytes);
    else if (what === 3) appendFileSync(one!, bytes);
    else if (what === 4) {
      const fd = openSync(one!, 'r+');
      writeSync(fd, bytes, 0, bytes.length, random(statSync(one!).size + 1));
      closeSync(fd);
    } else if (what === 5) truncateSync(one!, random(statSync(one!).size + 1));
    else if (what === 6) renameSync(one!, fresh);
    else if (what === 7) rmSync(one!);
    else if (type.posix) {
      symlinkSync(one!, fresh);
      await run('setfattr', ['-n', 'user.stamp', '-v', stamp, one!]);
      await run('setfacl', ['-m', `u:${1000 + random(9)}:rw`, one!]);
      await run('chown', [`${random(99)}:${random(99)}`, one!]);
      linkSync(one!, `${fresh}.twin`);
    }
  }
}
