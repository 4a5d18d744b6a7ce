/**
 * Histories whose points leave something out, another thing each: a point holds what the source held at its moment and zeros
 * where it left out, whatever its base left out and however its changes were found; for qemu-img, too.
 */
import { readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { consolidate } from '../../src/image/consolidate.js';
import { History } from '../../src/image/history.js';
import { bytesOf } from '../../src/image/left-out.js';
import { type ImageKind, joinRuns, type Run } from '../../src/image/manifest.js';
import { missing } from '../peers.js';
import { Lab, random, readPoint, scratch, verifyAll } from './history-lab.js';
import { convert, noise } from './peer.js';

t.setTimeout(120_000);

const SECTORS = 24 * 128 + 5;
const SIZE = SECTORS * 512;
const STEPS = 10;
const skip = missing(['qemu-img']);

function without(bytes: Buffer, runs: readonly Run[]): Buffer {
  const left = Buffer.from(bytes);
  for (const [start, length] of runs) left.fill(0, start, start + length);
  return left;
}

function someRuns(next: (below: number) => number): Run[] {
  const runs = Array.from({ length: next(5) }, (): Run => {
    const unit = next(2) === 0 ? 128 : 1;
    const start = Math.floor(next(SECTORS) / unit) * unit;
    return [start * 512, Math.min(SECTORS - start, (1 + next(500)) * unit) * 512];
  });
  return joinRuns(runs);
}

for (const seed of [1, 2, 3, 4]) {
  t.test(`history ${seed}`, { skip }, async t => {
    const next = random(seed);
    const lab = new Lab(scratch(t), noise(seed, SIZE));
    const moments = new Map<string, { bytes: Buffer; runs: readonly Run[] }>();
    for (let step = 0; step < STEPS; step++) {
      for (let writes = next(4); writes > 0; writes--) {
        const offset = next(SIZE);
        const length = Math.min(SIZE - offset, 1 + next(3) * 65536 + next(2000));
        lab.write(offset, next(3) === 0 ? Buffer.alloc(length) : noise(next(200), length));
      }
      if (next(6) === 0) lab.forget();
      if (next(3) > 0) lab.unused = someRuns(next);
      const kind = ([undefined, 'full', 'incremental', 'differential'] as (ImageKind | undefined)[])[next(4)];
      const { manifest } = await lab.backup({ kind, method: next(4) === 0 ? 'compared' : 'auto' });
      const bytes = without(lab.bytes, lab.unused);
      moments.set(manifest.id, { bytes, runs: lab.unused });
      t.equal(manifest.unused?.bytes ?? 0, bytesOf(lab.unused));
      if (lab.unused.length > 0) t.equal(manifest.sha256, null);
    }
    const check = async () => {
      const history = new History(lab.history);
      try {
        t.same(history.troubles, []);
        const roots = new Map<string, string>();
        for (const [i, point] of history.points.entries()) {
          const { bytes, runs } = moments.get(point.manifest.id)!;
          t.ok((await readPoint(history, point)).equals(bytes), `point ${i} for us`);
          t.ok(convert(join(lab.history, point.manifest.image.file)).equals(bytes), 'for qemu-img');
          t.same(history.leftOut(point), runs);
          const content = bytes.toString('latin1');
          t.equal(roots.get(content) ?? point.manifest.root, point.manifest.root, 'equal content, one root');
          roots.set(content, point.manifest.root);
        }
      } finally {
        history.close();
      }
      for (const result of await verifyAll(lab.history, true)) {
        t.same([result.faults, result.defects], [[], []]);
      }
    };
    await check();
    const stays = new Set([2, 5, STEPS - 1]);
    const { done } = await consolidate(lab.history, {
      choose: ({ points }) =>
        new Set(points.filter((_, i) => !stays.has(i)).map(({ manifest }) => manifest.id)),
      holder: async () => undefined,
    });
    t.ok(done.length > 0);
    const history = new History(lab.history);
    const lists = history.points.flatMap(({ manifest }) => manifest.unused?.file ?? []).sort();
    history.close();
    t.same(
      readdirSync(lab.history)
        .filter(name => name.endsWith('.unused'))
        .sort(),
      lists,
      'no list without its point',
    );
    await check();
  });
}

t.test('what is used again without a write is read; what is given up is not', async t => {
  const lab = new Lab(scratch(t), noise(7, SIZE));
  lab.unused = [
    [65536 * 2, 65536 * 4],
    [65536 * 10 + 4096, 4096],
  ];
  const { manifest: full } = await lab.backup();
  t.equal(full.read, SIZE - 65536 * 4);
  lab.unused = [
    [65536 * 4, 65536 * 2],
    [65536 * 15, 65536],
  ];
  const { manifest } = await lab.backup();
  t.equal(manifest.method, 'tracked');
  t.equal(manifest.read, 65536 * 3, 'clusters 2 and 3, and what of 10 was left out');
  t.equal(manifest.image.zero, 1, 'cluster 15');
  const { manifest: same } = await lab.backup();
  t.equal(same.read, 0);
  t.equal(same.root, manifest.root);
});

t.test('a list that is damaged or lost', async t => {
  const lab = new Lab(scratch(t), noise(7, SIZE));
  lab.unused = [[65536, 65536 * 3]];
  const { manifest } = await lab.backup();
  const path = join(lab.history, manifest.unused!.file);
  for (const lost of [false, true]) {
    if (lost) rmSync(path);
    else writeFileSync(path, noise(8, 100));
    const [result] = await verifyAll(lab.history, false);
    t.equal(result!.sound, false);
    t.match(result!.faults[0], path);
    const next = await lab.backup({ base: manifest.id });
    t.equal(next.manifest.method, 'compared', next.manifest.methodWhy);
    t.match(next.manifest.methodWhy, path);
    t.equal(next.manifest.root, manifest.root);
  }
});
