/**
 * Chains of qcow2 images of chosen kinds, and the comparison of their points with qemu-img.
 */
import { truncate, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import type { Test } from 'tap';
import { run } from '../peers.js';
import { type LayerOptions, makeLayer } from './images.js';
import { digest, mount, points } from './mounted.js';

export type Kind = Pick<LayerOptions, 'version' | 'clusterSize' | 'compression' | 'subclusters'>;

/** Every kind that there is. */
export const KINDS: readonly Kind[] = [...plainKinds(), ...subclusterKinds()];

function* plainKinds(): Generator<Kind> {
  for (const clusterSize of [512, 4096, 65_536, 2 ** 21]) {
    for (const version of [2, 3] as const) {
      for (const compression of ['none', 'zlib', 'zstd'] as const) {
        if (version === 2 && compression === 'zstd') continue;
        yield { clusterSize, version, compression, subclusters: false };
      }
    }
  }
}

/** Subclusters are a thirty-second of a cluster, at least a sector: 16 KiB is the smallest cluster that has them. */
function* subclusterKinds(): Generator<Kind> {
  for (const clusterSize of [16_384, 65_536, 2 ** 21]) {
    for (const compression of ['none', 'zlib', 'zstd'] as const) {
      yield { clusterSize, version: 3, compression, subclusters: true };
    }
  }
}

/** No multiple of 512 KiB; several clusters. Bytes. */
export function sizeOf(kind: Kind, step: number): number {
  return kind.clusterSize * (kind.clusterSize > 2 ** 20 ? 3 : 24) + 700 * 1024 + 512 * (1 + 2 * step);
}

/** A chain `0.qcow2` … of `kinds`, the full image first; from member to member the disk grows and shrinks. */
export async function makeChain(folder: string, kinds: readonly Kind[], seed: number): Promise<string[]> {
  const files: string[] = [];
  for (const [i, kind] of kinds.entries()) {
    const file = `${i}.qcow2`;
    const size = sizeOf(kind, [0, 5, 2, 9][i % 4]!);
    await makeLayer(folder, { ...kind, file, size, seed: seed + i, base: files.at(-1) });
    files.push(file);
  }
  return files;
}

/**
 * The digest of what qemu-img makes of an image, or of a snapshot in it. It gives a snapshot the size of the current
 * disk; what lies behind the snapshot's own is cut off here.
 */
export async function oracle(
  folder: string,
  file: string,
  snapshot?: { readonly name: string; readonly size: number },
): Promise<string> {
  const raw = join(folder, 'oracle.raw');
  const from = snapshot ? ['-l', `snapshot.name=${snapshot.name}`] : [];
  await run('qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', ...from, file, raw], { cwd: folder });
  if (snapshot) await truncate(raw, snapshot.size);
  const value = await digest(raw);
  await unlink(raw);
  return value;
}

/** Mounts the last of `files` and compares the points of all of them, or of those whose index is `chosen`. */
export async function compare(
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
    const truth = await oracle(folder, file);
    const disk = join(mounted, point?.moment ?? 'missing', 'disk');
    t.equal(await digest(disk), truth, `${file} reads as qemu-img converts it`);
    if (i === files.length - 1) t.equal(await digest(join(mounted, 'disk')), truth, 'disk is the newest');
  }
}
