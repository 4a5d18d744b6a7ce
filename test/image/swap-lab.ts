/** Disks whose swap is left out, and what has to be true of every point of one. */
import { createHash } from 'node:crypto';
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Test } from 'tap';
import { backup } from '../../src/histories.js';
import { excludedRuns } from '../../src/image/left-out.js';
import type { Manifest } from '../../src/image/manifest.js';
import { detachLoops } from '../peers.js';
import { OPTIONS } from './history-lab.js';
import { qemuImg } from './peer.js';

export const MIB = 2 ** 20;
/** In the pages of swap; it is not to come back. */
export const SECRET = Buffer.from('a password that was paged out; ');

const sum = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

export function blank(home: string, name: string, mib: number): string {
  const path = join(home, name);
  writeFileSync(path, '');
  truncateSync(path, mib * MIB);
  return path;
}

/** Backs up with every sector but swap; the manifest, the source's bytes and those that came back. */
export async function without(t: Test, image: string) {
  const before = readFileSync(image);
  const history = `${image}.history`;
  const { point } = await backup(image, history, OPTIONS, { allSectors: true, excludeSwap: true });
  const { manifest } = point;
  t.equal(sum(readFileSync(image)), sum(before), 'the source is untouched');
  const restored = `${image}.restored`;
  t.teardown(() => detachLoops(restored));
  qemuImg('convert', '-f', 'qcow2', '-O', 'raw', join(history, manifest.image.file), restored);
  const after = readFileSync(restored);
  const model = Buffer.from(before);
  for (const [start, length] of excludedRuns(manifest)) model.fill(0, start, start + length);
  t.ok(after.equals(model), 'zeros in the listed runs, and nowhere else');
  return { manifest, history, restored, before, after };
}

export const named = ({ excluded }: Manifest) =>
  excluded!.map(({ kind, name, partition }) => ({ kind, name, partition }));
export const bytesLeft = (manifest: Manifest) =>
  excludedRuns(manifest).reduce((all, [, length]) => all + length, 0);
