/**
 * Every point of every kind of qcow2 chain reads through a mount as qemu-img converts it.
 */
import { unlink } from 'node:fs/promises';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { missing, run } from '../peers.js';
import { change, type LayerOptions, makeLayer } from './images.js';
import { digest, mount, points, scratch } from './mounted.js';

const skip = missing(['qemu-img', 'qemu-io'], ['fuse']);

type Kind = Pick<LayerOptions, 'version' | 'clusterSize' | 'compression' | 'subclusters'>;

const KINDS: Kind[] = [];
for (const clusterSize of [512, 4096, 65_536, 2 ** 21]) {
  for (const version of [2, 3] as const) {
    for (const compression of ['none', 'zlib', 'zstd'] as const) {
      if (version === 2 && compression === 'zstd') continue;
      KINDS.push({ clusterSize, version, compression, subclusters: false });
    }
  }
}
// Subclusters are a thirty-second of a cluster, at least a sector: 16 KiB is the smallest cluster that has them.
for (const clusterSize of [16_384, 65_536, 2 ** 21]) {
  for (const compression of ['none', 'zlib', 'zstd'] as const) {
    KINDS.push({ clusterSize, version: 3, compression, subclusters: true });
  }
}

/** No multiple of 512 KiB; several clusters. */
function sizeOf(kind: Kind, step: number): number {
  return kind.clusterSize * (kind.clusterSize > 2 ** 20 ? 3 : 24) + 700 * 1024 + 512 * (1 + 2 * step);
}

/** A chain `0.qcow2` … of `kinds`; between members the disk grows and shrinks. */
async function makeChain(folder: string, kinds: readonly Kind[], seed: number): Promise<string[]> {
  const files: string[] = [];
  for (const [i, kind] of kinds.entries()) {
    const file = `${i}.qcow2`;
    const size = sizeOf(kind, [0, 5, 2, 9][i % 4]!);
    await makeLayer(folder, { ...kind, file, size, seed: seed + i, base: files.at(-1) });
    files.push(file);
  }
  return files;
}

/** The digest of what qemu-img makes of an image, or of a snapshot in it. */
async function oracle(folder: string, file: string, snapshot?: string): Promise<string> {
  const raw = join(folder, 'oracle.raw');
  const from = snapshot ? ['-l', `snapshot.name=${snapshot}`] : [];
  await run('qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', ...from, file, raw], { cwd: folder });
  const value = await digest(raw);
  await unlink(raw);
  return value;
}

function nameOf(kind: Kind): string {
  const size = kind.clusterSize < 1024 ? `${kind.clusterSize}` : `${kind.clusterSize / 1024} KiB`;
  return `version ${kind.version}, ${size}, ${kind.compression}${kind.subclusters ? ', subclusters' : ''}`;
}

for (const [i, kind] of KINDS.entries()) {
  const depth = kind.clusterSize === 65_536 ? 10 : 2;
  t.test(`${nameOf(kind)}, depth ${depth}`, { skip }, async t => {
    const folder = await scratch(t);
    const files = await makeChain(folder, Array(depth).fill(kind), 1000 * (i + 1));
    await compare(t, folder, files);
  });
}

t.test('depth 1, at every size of the last cluster', { skip }, async t => {
  const kind: Kind = { version: 3, clusterSize: 4096, compression: 'zstd', subclusters: false };
  for (const step of [0, 1, 2, 3, 4, 5, 6, 7]) {
    const folder = await scratch(t);
    const size = 40 * 4096 + 512 * step;
    await makeLayer(folder, { ...kind, file: '0.qcow2', size, seed: 77 + step });
    await compare(t, folder, ['0.qcow2']);
  }
});

t.test('depth 100, each member of another kind', { skip }, async t => {
  const folder = await scratch(t);
  const small = KINDS.filter(kind => kind.clusterSize <= 65_536);
  const kinds = Array.from({ length: 100 }, (_, i) => small[(i * 7) % small.length]!);
  const files = await makeChain(folder, kinds, 50_000);
  await compare(t, folder, files, [0, 1, 49, 98, 99]);
});

t.test('internal snapshots, each with its own size, in an overlay', { skip }, async t => {
  const folder = await scratch(t);
  const kind: Kind = { version: 3, clusterSize: 65_536, compression: 'zlib', subclusters: false };
  const files = await makeChain(folder, [kind, kind], 90_000);
  const head = files.at(-1)!;
  const layer = { ...kind, file: head, size: sizeOf(kind, 5), written: true };
  await run('qemu-img', ['snapshot', '-c', 'first', head], { cwd: folder });
  await change(folder, { ...layer, seed: 90_010 });
  await run('qemu-img', ['resize', '-q', '-f', 'qcow2', head, String(layer.size + 3 * 65_536)], {
    cwd: folder,
  });
  await run('qemu-img', ['snapshot', '-c', 'second', head], { cwd: folder });
  await change(folder, { ...layer, size: layer.size + 3 * 65_536, seed: 90_020 });
  await compare(t, folder, files);
  const mounted = await mount(t, join(folder, head));
  const listed = await points(join(folder, head));
  for (const name of ['first', 'second']) {
    const point = listed.find(one => one.name === name);
    t.ok(point, `${name} is listed`);
    t.equal(
      await digest(join(mounted, point?.moment ?? 'missing', 'disk')),
      await oracle(folder, head, name),
      `${name} reads as qemu-img converts it`,
    );
  }
});

/** Mounts the last of `files` and compares the points of all of them, or of those whose index is `chosen`. */
async function compare(
  t: Test,
  folder: string,
  files: readonly string[],
  chosen: readonly number[] = files.map((_, i) => i),
): Promise<void> {
  const head = join(folder, files.at(-1)!);
  const mounted = await mount(t, head);
  const listed = await points(head);
  for (const i of chosen) {
    const file = files[i]!;
    const point = listed.find(one => one.name === file && one.kind === 'image');
    t.ok(point, `${file} is listed`);
    t.equal(
      await digest(join(mounted, point?.moment ?? 'missing', 'disk')),
      await oracle(folder, file),
      `${file} reads as qemu-img converts it`,
    );
  }
  t.equal(await digest(join(mounted, 'disk')), await oracle(folder, files.at(-1)!), 'disk is the newest');
}
