/**
 * Every point of every kind of qcow2 image, alone and in a chain of ten, reads through a mount as qemu-img converts it.
 */
import t from 'tap';
import { missing } from '../peers.js';
import { compare, KINDS, type Kind, makeChain } from './chains.js';
import { scratch } from './mounted.js';

const skip = missing(['qemu-img', 'qemu-io'], ['fuse']);

for (const [i, kind] of KINDS.entries()) {
  const depth = kind.clusterSize === 65_536 ? 10 : 2;
  t.test(`${nameOf(kind)}, depth ${depth}`, { skip }, async t => {
    const folder = await scratch(t);
    const files = await makeChain(folder, Array(depth).fill(kind), 1000 * (i + 1));
    await compare(t, folder, files, depth === 2 ? [0, 1] : [0, 4, 9]);
  });
}

function nameOf({ version, clusterSize, compression, subclusters }: Kind): string {
  const size = clusterSize < 1024 ? `${clusterSize}` : `${clusterSize / 1024} KiB`;
  return `version ${version}, ${size}, ${compression}${subclusters ? ', subclusters' : ''}`;
}
