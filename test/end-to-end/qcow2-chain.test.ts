/**
 * Chains of a hundred, internal snapshots and disks that end within a cluster read as qemu-img converts them.
 */
import { join } from 'node:path';
import t from 'tap';
import { missing, run } from '../peers.js';
import { compare, KINDS, type Kind, makeChain, oracle, sizeOf } from './chains.js';
import { change, makeLayer } from './images.js';
import { digest, mount, points, scratch } from './mounted.js';

const skip = missing(['qemu-img', 'qemu-io'], ['fuse']);

t.test('a disk that ends within a cluster', { skip }, async t => {
  const kind: Kind = { version: 3, clusterSize: 4096, compression: 'zstd', subclusters: false };
  for (const sectors of [0, 1, 3, 7]) {
    const folder = await scratch(t);
    const size = 40 * 4096 + 512 * sectors;
    await makeLayer(folder, { ...kind, file: '0.qcow2', size, seed: 77 + sectors });
    await compare(t, folder, ['0.qcow2']);
  }
});

t.test('depth 100, each member of another kind', { skip }, async t => {
  const folder = await scratch(t);
  const small = KINDS.filter(kind => kind.clusterSize <= 65_536);
  const kinds = Array.from({ length: 100 }, (_, i) => small[(i * 7) % small.length]!);
  const files = await makeChain(folder, kinds, 50_000);
  await compare(t, folder, files, [0, 49, 98, 99]);
});

t.test('internal snapshots, each with its own size, in an overlay', { skip }, async t => {
  const folder = await scratch(t);
  const kind: Kind = { version: 3, clusterSize: 65_536, compression: 'zlib', subclusters: false };
  const files = await makeChain(folder, [kind, kind], 90_000);
  const head = files.at(-1)!;
  const layer = { ...kind, file: head, size: sizeOf(kind, 5), written: true };
  const grown = layer.size + 3 * 65_536;
  await run('qemu-img', ['snapshot', '-c', 'first', head], { cwd: folder });
  await change(folder, { ...layer, seed: 90_010 });
  await run('qemu-img', ['resize', '-q', '-f', 'qcow2', head, String(grown)], { cwd: folder });
  await run('qemu-img', ['snapshot', '-c', 'second', head], { cwd: folder });
  await change(folder, { ...layer, size: grown, seed: 90_020 });

  await compare(t, folder, files);
  const mounted = await mount(t, join(folder, head));
  const listed = await points(join(folder, head));
  for (const [name, size] of [
    ['first', layer.size],
    ['second', grown],
  ] as const) {
    const point = listed.find(one => one.name === name);
    t.equal(point?.size, size, `${name} has its size`);
    const disk = join(mounted, point?.moment ?? 'missing', 'disk');
    t.equal(
      await digest(disk),
      await oracle(folder, head, { name, size }),
      `${name} reads as qemu-img converts it`,
    );
  }
});
