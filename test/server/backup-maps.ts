/**
 * A volume with a mounted file system: a snapshot that was frozen is left out by the file system's own map, and one that was not is
 * taken whole, since its journal may know of blocks that its map calls free. Both come back with their files, also by increments.
 */
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { Manifest } from '../../src/image/manifest.js';
import { asof } from '../cli/asof.js';
import { emptyFile } from '../cow/lab.js';
import {
  BTRFS,
  Daemon,
  FileSystem,
  type Kind,
  programsOf,
  replayed,
  scratch,
} from '../end-to-end/protected.js';
import { noise, qemuImg } from '../image/peer.js';
import { missing, run } from '../peers.js';

const MAPS = { ext4: 'partclone.extfs', xfs: 'partclone.xfs', btrfs: 'partclone.btrfs' };
const REPLAY = /(journal|log) is to be replayed/;

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

async function underWay(t: Test, kind: Kind): Promise<void> {
  const folder = scratch(t);
  const daemon = await Daemon.start(t, folder);
  const live = await daemon.protect(
    'disk',
    emptyFile(join(folder, 'origin'), kind.size),
    '--durability',
    'process',
  );
  const files = await FileSystem.make(t, kind, live, folder);
  const history = join(folder, 'history');
  const backup = (...more: string[]) => daemon.ask<Manifest>('backup', 'disk', '--to', history, ...more);
  const fill = (from: number, to: number) => {
    for (let i = from; i < to; i++) writeFileSync(join(files.path, 'd', `${i}`), noise(i % 250, 1 + i * 499));
  };
  const sync = () => run('sync', ['-f', files.path]);
  const points: { manifest: Manifest; files: string[] }[] = [];
  const take = async (...more: string[]) => {
    const known = digests(files.path);
    const manifest = await backup(...more);
    points.push({ manifest, files: known });
    return manifest;
  };

  mkdirSync(join(files.path, 'd'));
  writeFileSync(join(files.path, 'deleted'), noise(251, 24 * 2 ** 20));
  fill(0, 80);
  await sync();
  rmSync(join(files.path, 'deleted'));
  const full = await take();
  t.equal(full.consistency, 'filesystem');
  t.equal(full.allocation, 'map', full.allocationWhy ?? '');
  t.ok(full.read < kind.size / 2, `${full.read} bytes are read`);

  for (let i = 0; i < 80; i += 2) rmSync(join(files.path, 'd', `${i}`));
  fill(80, 120);
  const second = await take();
  t.equal(second.method, 'tracked', second.methodWhy);
  t.equal(second.allocation, 'map', second.allocationWhy ?? '');

  // Metadata in the journal alone: what they name is free in the map.
  await daemon.ask('options', 'set', 'freeze', 'false');
  fill(120, 200);
  for (let i = 1; i < 80; i += 4) rmSync(join(files.path, 'd', `${i}`));
  await sync();
  const third = await take();
  t.equal(third.consistency, 'crash');
  if (kind !== BTRFS) {
    t.equal(third.allocation, 'holes');
    t.match(third.allocationWhy, REPLAY);
    t.equal(third.unused, null);
  }
  t.equal(third.method, 'tracked');
  await daemon.ask('options', 'set', 'freeze', 'true');
  fill(200, 210);
  const fourth = await take();
  t.equal(fourth.allocation, 'map', fourth.allocationWhy ?? '');
  t.equal(fourth.method, 'tracked');
  await files.unmount();

  t.equal((await asof('verify', history, '--deep')).status, 0);
  for (const [i, { manifest, files }] of points.entries()) {
    const restored = join(folder, `restored-${i}`);
    qemuImg('convert', '-f', 'qcow2', '-O', 'raw', join(history, manifest.image.file), restored);
    const wrong = await replayed(kind, restored, async there => {
      const [has, should] = [digests(there).join(), files.join()];
      return has === should ? [] : [`its files are ${has}, not ${should}`];
    });
    t.same(wrong, [], `point ${i}`);
    rmSync(restored);
  }
}

export function mapsOf(kind: Kind): void {
  t.setTimeout(240_000);
  const programs = [...programsOf(kind), 'qemu-img', MAPS[kind.name], 'xfs_logprint'];
  t.test(kind.name, { skip: missing(programs, ['root', 'loop', 'fuse']) }, t => underWay(t, kind));
}
