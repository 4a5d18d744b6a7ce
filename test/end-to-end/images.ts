/**
 * Images that qemu-io makes, from a seed: layers of plain, compressed, zero and discarded clusters at odd places.
 */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { attempt, run } from '../peers.js';

/** A generator of integers below `limit`, the same for the same seed (mulberry32). */
export function random(seed: number): (limit: number) => number {
  let state = seed >>> 0;
  return limit => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) % limit;
  };
}

/** Bytes that compress by about a half and whose period meets no cluster size. */
export function pattern(seed: number, length = 199_999): Buffer {
  const next = random(seed);
  const bytes = Buffer.alloc(length);
  for (let i = 0; i < length; i++) bytes[i] = i % 64 < 32 ? next(256) : seed & 0xff;
  return bytes;
}

export interface LayerOptions {
  /** Path of the image. */
  readonly file: string;
  /** Bytes; qemu-img takes whole sectors. */
  readonly size: number;
  readonly seed: number;
  readonly version: 2 | 3;
  readonly clusterSize: number;
  readonly compression: 'none' | 'zlib' | 'zstd';
  readonly subclusters: boolean;
  /** Name, relative to the image's folder, of the image below. */
  readonly base?: string | undefined;
  /** It has clusters of its own already. */
  readonly written?: boolean;
}

/** An image of its own or an overlay, with about a dozen changes. */
export async function makeLayer(folder: string, layer: LayerOptions): Promise<void> {
  const options = [`compat=${layer.version === 2 ? '0.10' : '1.1'}`, `cluster_size=${layer.clusterSize}`];
  if (layer.compression === 'zstd') options.push('compression_type=zstd');
  if (layer.subclusters) options.push('extended_l2=on');
  const base = layer.base ? ['-b', layer.base, '-F', 'qcow2'] : [];
  const size = String(layer.size);
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', options.join(), ...base, layer.file, size], {
    cwd: folder,
  });
  await change(folder, layer);
}

/** Writes into an image as a guest would, in one qemu-io. */
export async function change(folder: string, layer: LayerOptions): Promise<void> {
  const bytes = join(folder, `pattern-${layer.seed}`);
  await writeFile(bytes, pattern(layer.seed));
  const next = random(layer.seed);
  const clusters = Math.floor(layer.size / layer.clusterSize);
  const commands = packed(layer, bytes, next);
  for (let i = 0; i < 8; i++) {
    const first = next(clusters);
    const offset = first * layer.clusterSize;
    const whole = Math.min(1 + next(3), clusters - first) * layer.clusterSize;
    const sector = next(Math.floor(layer.size / 512)) * 512;
    const some = Math.min((1 + next(300)) * 512, layer.size - sector);
    const kinds = [
      `write -s ${bytes} ${sector} ${some}`,
      `write -s ${bytes} ${offset} ${whole}`,
      `write -z ${offset} ${whole}`,
      `write -z -u ${offset} ${whole}`,
      `discard ${offset} ${whole}`,
    ];
    commands.push(kinds[i < kinds.length ? i : next(kinds.length)]!);
  }
  // The last sector, in the cluster that the disk's end cuts.
  commands.push(`write -s ${bytes} ${layer.size - 512} 512`);
  await qemuIo(folder, layer.file, commands);
}

/** Writes of packed clusters. They come first, each to a place of its own: QEMU refuses one where a cluster is. */
function packed(layer: LayerOptions, bytes: string, next: (limit: number) => number): string[] {
  if (layer.compression === 'none' || layer.written) return [];
  const clusters = Math.floor(layer.size / layer.clusterSize);
  const places = new Set(Array.from({ length: 6 }, () => next(clusters)));
  const size = layer.clusterSize;
  return [...places].map(place => `write -c -s ${bytes} ${place * size} ${size}`);
}

/** Runs `commands` in one qemu-io, whose words tell better than its status what failed. */
export async function qemuIo(folder: string, file: string, commands: readonly string[]): Promise<void> {
  const args = ['-f', 'qcow2', ...commands.flatMap(one => ['-c', one]), file];
  const { stdout, stderr } = await attempt('qemu-io', args, { cwd: folder });
  const bad = `${stdout}\n${stderr}`
    .split('\n')
    .find(line => /fail|error|invalid|cannot|not supported/i.test(line));
  if (bad) throw new Error(`qemu-io on ${file}: ${bad}`);
}
