/** What a point has left out, as its user sees it: in the record, in a list of points, in a comparison with the source, in a damaged list. */
import {
  closeSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import type { Manifest } from '../../src/histories.js';
import type { PointState } from '../../src/listings.js';
import { folder, noise } from '../image/peer.js';
import { detachLoops, missing, run } from '../peers.js';
import { asof, asofJson } from './asof.js';

t.setTimeout(180_000);

const MIB = 2 ** 20;
const SIZE = 48 * MIB;

interface Found {
  readonly start: number;
  readonly length: number;
  readonly kind: string;
}

const skip = missing(
  ['mkfs.ext4', 'partclone.extfs', 'mkswap', 'mount', 'umount', 'unshare', 'filefrag'],
  ['root', 'loop'],
);

t.test('unused space and swap', { skip }, async t => {
  const home = folder(t);
  const image = join(home, 'disk.img');
  t.teardown(() => detachLoops(image));
  writeFileSync(image, '');
  truncateSync(image, SIZE);
  await run('mkfs.ext4', ['-q', '-F', image]);
  const at = join(home, 'mnt');
  mkdirSync(at);
  await run('mount', ['-o', 'loop', image, at]);
  try {
    writeFileSync(join(at, 'deleted'), noise(1, 8 * MIB));
    writeFileSync(join(at, 'swapfile'), Buffer.alloc(2 * MIB));
    await run('mkswap', [join(at, 'swapfile')]);
    const fd = openSync(join(at, 'swapfile'), 'r+');
    writeSync(fd, noise(2, MIB), 0, MIB, 4096);
    closeSync(fd);
    writeFileSync(join(at, 'file'), noise(3, MIB));
    await run('sync', ['-f', at]);
    rmSync(join(at, 'deleted'));
  } finally {
    await run('umount', [at]);
  }
  const history = join(home, 'history');
  const told = await asof('backup', image, '--to', history, '--exclude-swap');
  t.equal(told.status, 0, told.stderr);
  t.match(told.stdout, /unused space left out, .*: the map of ext, by partclone.extfs\n/);
  t.match(told.stdout, /left out: swap file \/swapfile, 1\.9 MiB\n/);
  const { points } = await asofJson<{ points: PointState[] }>('history', history);
  const { manifest } = points[0]!;
  t.ok(manifest.unused!.bytes > 30 * MIB);
  t.equal(manifest.excluded![0]!.name, '/swapfile');
  t.ok(readFileSync(join(history, manifest.unused!.file)).length < 4096);

  const diff = (...more: string[]) => asofJson<Found[]>('diff', history, image, ...more);
  const found = await diff();
  t.same([...new Set(found.map(({ kind }) => kind))], ['left-out'], 'nothing differs that was taken');
  const bytes = found.reduce((sum, { length }) => sum + length, 0);
  t.ok(bytes >= 8 * MIB && bytes <= 9 * MIB, `${bytes} bytes: what was deleted, what was paged out`);
  const people = await asof('diff', history, image);
  t.equal(people.status, 0);
  t.match(people.stdout, /^ *START +LENGTH +KIND\n.* are equal, .* differ that a point has left out/);
  const fd = openSync(image, 'r+');
  const place = readFileSync(image).indexOf(noise(3, 4096));
  writeSync(fd, noise(4, 512), 0, 512, place + 1024);
  closeSync(fd);
  t.same(
    (await diff()).filter(({ kind }) => kind !== 'left-out'),
    [{ start: place + 1024, length: 512, kind: 'different' }],
    'what was taken is compared',
  );

  const whole = await asofJson<Manifest>('backup', image, '--to', history, '--all-sectors', '--kind', 'full');
  t.equal(whole.allocation, 'holes');
  t.equal(whole.allocationWhy, 'all sectors were asked for');
  t.same(await diff(), [], 'all of it is taken');
  t.type(whole.sha256, 'string');
  t.equal((await asof('verify', history, '--deep')).status, 0);
  writeFileSync(join(history, manifest.unused!.file), noise(5, 100));
  const broken = await asof('verify', history);
  t.equal(broken.status, 3);
  t.match(broken.stdout + broken.stderr, manifest.unused!.file);
});
