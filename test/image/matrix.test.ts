/**
 * Every kind of qcow2 that the peer makes gives the bytes that the peer reads, and nothing of it is bad.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { Disk } from '../../src/block/disk.js';
import { openChain } from '../../src/image/chain.js';
import { points } from '../../src/image/points.js';
import { Engine } from '../../src/native.js';
import { convert, folder, noise, qemuImg, qemuIo } from './peer.js';
import { readAll } from './reader.js';

const KIB = 1024;
const MIB = 1024 * KIB;

interface Shape {
  readonly version: 2 | 3;
  readonly cluster: number;
  readonly packed: 'none' | 'zlib' | 'zstd';
  readonly extended: boolean;
  readonly depth: number;
}

const shapes: Shape[] = [];
for (const version of [2, 3] as const) {
  for (const cluster of [512, 4 * KIB, 64 * KIB, 2 * MIB]) {
    for (const packed of ['none', 'zlib', 'zstd'] as const) {
      for (const extended of [false, true]) {
        if (version === 2 && (packed === 'zstd' || extended)) continue;
        if (extended && cluster < 16 * KIB) continue;
        const depth = [1, 2, 10][shapes.length % 3]!;
        shapes.push({ version, cluster, packed, extended, depth });
      }
    }
  }
}

/** A size that is no multiple of the cluster, nor of 512 KiB, with a few clusters in it. */
const sizeOf = (cluster: number) => Math.max(5 * cluster, 2 * MIB) + (cluster > 512 ? cluster / 2 : 0) + 1536;

const engine = new Engine({ cacheBytes: 2 ** 24, mapBytes: 2 ** 24, threads: 2 });
t.teardown(() => engine.close());

const made = folder(t);
/** Noise that does not pack, and noise that does: whose place within a write shows in every byte, and in no two places alike. */
const NOISE = [join(made, 'noise'), join(made, 'text')];
const BASE = join(made, 'base.raw');
writeFileSync(NOISE[0]!, noise(1, 2 * MIB));
writeFileSync(NOISE[1]!, Buffer.from(noise(2, MIB / 2).toString('hex'), 'latin1'));
writeFileSync(BASE, Buffer.concat([readFileSync(NOISE[1]!), Buffer.alloc(64 * KIB), noise(3, 51_200)]));

for (const shape of shapes) {
  const { version, cluster, packed, extended, depth } = shape;
  t.test(`v${version} ${cluster} ${packed}${extended ? ' extended' : ''} depth ${depth}`, async t => {
    const dir = folder(t);
    const size = sizeOf(cluster);
    for (let level = 0; level < depth; level++) {
      const options = [
        `compat=${version === 2 ? '0.10' : '1.1'}`,
        `cluster_size=${cluster}`,
        ...(packed === 'zstd' ? ['compression_type=zstd'] : []),
        ...(extended ? ['extended_l2=on'] : []),
        ...(level > 0 ? [`backing_file=${level - 1}.qcow2`, 'backing_fmt=qcow2'] : []),
      ];
      const path = join(dir, `${level}.qcow2`);
      if (level === 0) {
        // Half of the first image is there before any write.
        const pack = packed === 'none' ? [] : ['-c'];
        qemuImg('convert', '-q', ...pack, '-O', 'qcow2', '-o', options.join(','), BASE, path);
        qemuImg('resize', '-q', path, String(size));
      } else qemuImg('create', '-q', '-f', 'qcow2', '-o', options.join(','), path, String(size));
      qemuIo(path, writes(size, cluster, packed, version, level));
    }
    const top = join(dir, `${depth - 1}.qcow2`);
    const chain = openChain(top);
    t.teardown(() => chain.close());
    t.equal(chain.members.length, depth);
    const all = points(chain);
    t.equal(all.length, depth);
    for (const [i, point] of all.entries()) {
      if (i > 0 && i < depth - 1) continue;
      const { bytes, bad } = readAll(point.open());
      t.same(bad, []);
      const wanted = convert(chain.members[i]!.file.path);
      t.ok(bytes.equals(wanted), `${point.id} has the peer's bytes`);
      const disk = new Disk(engine, point.open());
      t.ok((await disk.read(0, disk.size)).equals(wanted), 'and the engine reads them');
      disk.close();
    }
  });
}

/**
 * Packed, plain and zero writes, aligned and not, and the last sector; other places at each level. Packed ones come
 * first, since the peer packs only what is not yet allocated.
 */
function writes(size: number, cluster: number, packed: string, version: number, level: number): string[] {
  const at = (share: number) => Math.floor((size * share) / cluster) * cluster;
  const shift = (level * 3) % 7;
  const noise = (offset: number, length: number) => `write -s ${NOISE[level % 2]} ${offset} ${length}`;
  const commands: string[] = [];
  if (packed !== 'none') {
    const shares = level === 0 ? [0.75, 0.85, 0.9] : [0.2 + shift / 100, 0.3 + shift / 100, 0.8];
    for (const share of new Set(shares.map(at))) commands.push(`write -c -s ${NOISE[1]} ${share} ${cluster}`);
  }
  commands.push(
    noise(at(0.1 + shift / 20), Math.max(cluster, 64 * KIB)),
    noise(at(0.5) + 512 * (1 + level), 1024),
    noise(size - 512, 512),
    `discard ${at(0.35)} ${cluster}`,
  );
  if (version === 3) {
    commands.push(`write -z ${at(0.4)} ${cluster}`, `write -z -u ${at(0.6 + shift / 50)} ${cluster}`);
    commands.push(`write -z ${at(0.7) + 2048} 4096`);
  }
  return commands;
}
