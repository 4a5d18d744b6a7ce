/**
 * The volume that is backed up: an ext4 full of real files (programs and what they need, of this machine), three quarters of it
 * in use; and changes of a share of it, in runs as databases and editors leave them.
 */
import { createCipheriv } from 'node:crypto';
import {
  closeSync,
  copyFileSync,
  ftruncateSync,
  mkdirSync,
  opendirSync,
  openSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { run } from '../process.js';

const FULL = 0.72;
const CLUSTER = 65_536;
/** What Debian has in every installation, and what this very benchmark needs. */
const TREES = ['/usr/lib', '/usr/bin', '/usr/share'];

/** Bytes of a change of `share` of `size`, in runs of 64 KiB to 256 KiB all over it. */
export function* changes(size: number, share: number, seed: number): Generator<[number, number]> {
  let state = seed >>> 0 || 1;
  const next = (below: number) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  const step = Math.floor((2.5 * CLUSTER) / share / CLUSTER) * CLUSTER;
  for (let offset = 0; offset + step <= size; offset += step) {
    const length = (1 + next(4)) * CLUSTER;
    yield [offset + next(Math.max(1, (step - length) / CLUSTER)) * CLUSTER, length];
  }
}

/** Writes them to the open file; how many bytes. Half of each compresses away. */
export function change(fd: number, size: number, share: number, seed: number): number {
  const noise = createCipheriv('aes-128-ctr', Buffer.alloc(16, seed), Buffer.alloc(16));
  const half = Buffer.alloc(2048);
  let written = 0;
  for (const [offset, length] of changes(size, share, seed)) {
    const bytes = Buffer.alloc(length, `change ${seed} at ${offset}: `);
    for (let at = 0; at < length; at += 4096) noise.update(half).copy(bytes, at);
    writeSync(fd, bytes, 0, length, offset);
    written += length;
  }
  return written;
}

/** Makes `path`, an ext4 of `size` bytes. */
export async function makeVolume(folder: string, path: string, size: number): Promise<void> {
  const staging = join(folder, 'staging');
  mkdirSync(staging);
  copySome(staging, size * FULL);
  const fd = openSync(path, 'wx');
  ftruncateSync(fd, size);
  closeSync(fd);
  await run('mke2fs', ['-q', '-t', 'ext4', '-F', '-E', 'lazy_itable_init=0', '-d', staging, path]);
  rmSync(staging, { recursive: true });
}

function copySome(into: string, bytes: number): void {
  let left = bytes;
  let number = 0;
  const walk = (folder: string) => {
    const entries = opendirSync(folder);
    try {
      for (let entry = entries.readSync(); entry && left > 0; entry = entries.readSync()) {
        const path = join(folder, entry.name);
        if (entry.isDirectory()) walk(path);
        if (!entry.isFile()) continue;
        const { size } = statSync(path);
        if (size > left) continue;
        copyFileSync(path, join(into, `${number++}`));
        left -= Math.ceil(size / 4096) * 4096;
      }
    } finally {
      entries.closeSync();
    }
  };
  for (const tree of TREES) if (left > 0) walk(tree);
}
