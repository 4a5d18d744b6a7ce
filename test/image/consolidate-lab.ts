/** Histories from which points are taken, and what has to be true of those that are left at every moment. */
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { Test } from 'tap';
import { consolidate } from '../../src/image/consolidate.js';
import { History } from '../../src/image/history.js';
import { Lab, random, readPoint } from './history-lab.js';
import { noise, qemuCheck, qemuImg } from './peer.js';

export const CLUSTERS = 20;
const SIZE = CLUSTERS * 65536 + 512;

/** What each point holds, by id. */
export type Contents = Map<string, { readonly bytes: Buffer; readonly root: string }>;

/** Text that packs, noise that does not, zeros, and pieces that begin and end anywhere. */
export function scribble(lab: Lab, next: (below: number) => number, writes: number): void {
  for (let i = 0; i < writes; i++) {
    const whole = next(2) === 0;
    const at = whole ? next(CLUSTERS) * 65536 : next(SIZE - 70_000);
    const length = whole ? 65536 : 1 + next(70_000);
    const kind = next(3);
    const bytes =
      kind === 0
        ? Buffer.alloc(length)
        : kind === 1
          ? noise(next(250), length)
          : Buffer.alloc(length, `${next(99)} `);
    lab.write(at, bytes);
  }
}

export function newLab(folder: string, seed: number): Lab {
  const lab = new Lab(folder, Buffer.alloc(SIZE));
  scribble(lab, random(seed), 12);
  return lab;
}

export async function remember(lab: Lab, contents: Contents, options: Parameters<Lab['backup']>[0] = {}) {
  const { manifest } = await lab.backup(options);
  contents.set(manifest.id, { bytes: Buffer.from(lab.bytes), root: manifest.root });
  return manifest.id;
}

export async function drop(path: string, ids: readonly string[]) {
  return consolidate(path, { choose: () => new Set(ids), holder: async () => undefined });
}

/** Every point that is listed is what it was: as our reader has it, and as QEMU has it from the files alone. */
export async function holdsAll(
  t: Test,
  path: string,
  contents: Contents,
  must: readonly string[],
  what: string,
) {
  const history = new History(path);
  try {
    t.same(history.troubles, [], what);
    const ids = history.points.map(({ manifest }) => manifest.id);
    for (const id of must) if (!ids.includes(id)) t.fail(`${what}: ${id} is gone`);
    for (const point of history.points) {
      const { bytes, root } = contents.get(point.manifest.id)!;
      if (point.manifest.root !== root) t.fail(`${what}: the root of ${point.stem}`);
      if (!(await readPoint(history, point)).equals(bytes)) t.fail(`${what}: our reader on ${point.stem}`);
      if (!must.includes(point.manifest.id)) continue;
      const image = join(path, point.manifest.image.file);
      const report = qemuCheck(image);
      const unclean = ['check-errors', 'corruptions', 'leaks'].filter(key => report[key]);
      if (unclean.length > 0) t.fail(`${what}: qemu-img check of ${point.stem}: ${JSON.stringify(report)}`);
      const raw = join(path, '..', 'peer.raw');
      qemuImg('convert', '-f', 'qcow2', '-O', 'raw', image, raw);
      if (!readFileSync(raw).subarray(0, bytes.length).equals(bytes))
        t.fail(`${what}: QEMU on ${point.stem}`);
      rmSync(raw);
    }
  } finally {
    history.close();
  }
}
