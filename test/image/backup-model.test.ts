/**
 * Random histories against an array of bytes: every point, of whatever kind and method, holds what the source held at its
 * moment, for qemu-img, which knows the qcow2 files alone, and for us; also after the folder has moved.
 */
import { createHash } from 'node:crypto';
import { renameSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { History } from '../../src/image/history.js';
import type { ImageKind } from '../../src/image/manifest.js';
import { missing } from '../peers.js';
import { Lab, random, readPoint, scratch, verifyAll } from './history-lab.js';
import { convert, noise, qemuCheck } from './peer.js';

const SIZE = 24 * 65536 + 5 * 512 + 100;
const STEPS = 10;

const skip = missing(['qemu-img']);

for (const seed of [1, 2, 3]) {
  t.test(`history ${seed}`, { skip }, async t => {
    const next = random(seed);
    const lab = new Lab(scratch(t), Buffer.alloc(SIZE));
    const moments: Buffer[] = [];
    for (let step = 0; step < STEPS; step++) {
      for (let writes = next(5); writes > 0; writes--) {
        const offset = next(SIZE);
        const length = Math.min(SIZE - offset, 1 + next(3) * 65536 + next(2000));
        const kind = next(4);
        const bytes =
          kind === 0
            ? Buffer.alloc(length)
            : kind === 1
              ? noise(next(200), length)
              : Buffer.alloc(length, `${step} `);
        lab.write(offset, bytes);
      }
      if (next(5) === 0) lab.forget();
      const kind = ([undefined, 'full', 'incremental', 'differential'] as (ImageKind | undefined)[])[next(4)];
      const method = next(4) === 0 ? 'compared' : 'auto';
      const point = await lab.backup({ kind, method, level: next(2) * 3 });
      moments.push(Buffer.from(lab.bytes));
      const { manifest } = point;
      t.match(manifest.kindWhy, /\w/);
      t.match(manifest.methodWhy, /\w/);
      if (step === 0) t.equal(manifest.kind, 'full', 'there is nothing to stand on');
      if (manifest.sha256) {
        t.equal(manifest.sha256, createHash('sha256').update(lab.bytes).digest('hex'));
      } else {
        t.equal(manifest.method, 'tracked', 'only then not all is read');
      }
    }
    const moved = join(lab.folder, 'moved');
    renameSync(lab.history, moved);
    const history = new History(moved);
    t.teardown(() => history.close());
    t.same(history.troubles, []);
    t.equal(history.points.length, STEPS);
    const roots = new Map<string, string>();
    for (const [i, point] of history.points.entries()) {
      const bytes = moments[i]!;
      t.ok((await readPoint(history, point)).equals(bytes), `point ${i} for us`);
      const image = join(moved, point.manifest.image.file);
      const peer = convert(image);
      t.equal(peer.length, Math.ceil(SIZE / 512) * 512);
      t.ok(peer.subarray(0, SIZE).equals(bytes), `point ${i} for qemu-img`);
      t.ok(peer.subarray(SIZE).every(byte => byte === 0));
      const found = qemuCheck(image);
      t.same(
        [found['corruptions'], found['leaks'], found['check-errors']],
        [undefined, undefined, 0],
        'qemu-img check',
      );
      const content = createHash('sha256').update(bytes).digest('hex');
      t.equal(roots.get(content) ?? point.manifest.root, point.manifest.root, 'equal content has one root');
      roots.set(content, point.manifest.root);
    }
    t.equal(new Set(roots.values()).size, roots.size, 'other content has another root');
    for (const deep of [false, true]) {
      for (const result of await verifyAll(moved, deep)) t.same([result.faults, result.defects], [[], []]);
    }
  });
}

t.test('tracked reads only what changed, and stores only what differs', async t => {
  const lab = new Lab(scratch(t), noise(7, SIZE));
  await lab.backup();
  lab.write(3 * 65536 + 10, Buffer.alloc(10, 1));
  lab.write(9 * 65536, lab.bytes.subarray(9 * 65536, 10 * 65536));
  const { manifest } = await lab.backup();
  t.equal(manifest.method, 'tracked');
  t.equal(manifest.read, 2 * 65536);
  t.equal(manifest.image.plain + manifest.image.packed, 1, 'the same bytes again are no change');
  const { manifest: nothing } = await lab.backup();
  t.equal(nothing.read, 0);
  t.equal(nothing.root, manifest.root);
});

t.test('after lost tracking all is compared, and the next is tracked again', async t => {
  const lab = new Lab(scratch(t), noise(8, SIZE));
  await lab.backup();
  lab.forget();
  lab.write(70000, Buffer.alloc(10), false);
  const { manifest } = await lab.backup();
  t.equal(manifest.method, 'compared');
  t.equal(manifest.methodWhy, 'tracking was lost');
  t.equal(manifest.read, SIZE);
  t.equal(manifest.image.plain + manifest.image.packed, 1);
  t.equal((await lab.backup()).manifest.method, 'tracked');
  await t.rejects(lab.backup({ method: 'tracked', kind: 'differential' }), { code: 'BASE_UNUSABLE' });
});

t.test('a failed image loses no change', async t => {
  const lab = new Lab(scratch(t), noise(9, SIZE));
  await lab.backup();
  lab.write(100, Buffer.alloc(100, 5));
  await t.rejects(
    lab.backup({
      step: name => {
        if (name === 'proved') throw Object.assign(new Error('no space'), { code: 'ENOSPC' });
      },
    }),
    { code: 'BACKUP_FAILED' },
  );
  const { manifest } = await lab.backup();
  t.equal(manifest.method, 'tracked');
  const history = new History(lab.history);
  t.teardown(() => history.close());
  t.equal(history.points.length, 2);
  t.ok((await readPoint(history, history.points[1]!)).equals(lab.bytes));
});

t.test('another size makes a full image, unless a base was chosen', async t => {
  const lab = new Lab(scratch(t), noise(10, SIZE));
  const first = await lab.backup();
  const grown = new Lab(lab.folder, noise(11, SIZE + 65536));
  const point = await grown.backup();
  t.equal(point.manifest.kind, 'full');
  t.match(point.manifest.kindWhy, 'the size has changed');
  await t.rejects(grown.backup({ base: first.manifest.id }), { code: 'BASE_UNUSABLE' });
  const { manifest } = await grown.backup({ base: point.manifest.id.slice(0, 8) });
  t.equal(manifest.base?.choice, 'chosen');
});
