/**
 * The hash tree against a model that digests everything anew: roots, digests, pages on top of a base, more pages than are
 * held in memory, and pages that were changed.
 */
import { createHash } from 'node:crypto';
import { closeSync, openSync, statSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { heldBy } from '../../src/image/backup-plan.js';
import { HEAD, PAGE, Tree, TreeFile } from '../../src/image/tree.js';
import { TreeWriter } from '../../src/image/tree-writer.js';
import { random, readAt, scratch } from './history-lab.js';
import { noise } from './peer.js';

const CLUSTER = 65536;
const sha = (...parts: Uint8Array[]) =>
  parts.reduce((hash, part) => hash.update(part), createHash('sha256')).digest();
const ZERO = sha(Buffer.alloc(CLUSTER));

/** Of docs/formats.md alone: level by level, all of the first `count` clusters, then zeros up to six levels. */
function modelRoot(digests: ReadonlyMap<number, Buffer>, size: number): string {
  let level = new Map(digests);
  let zero = ZERO;
  for (let i = 0; i < 6; i++) {
    const next = new Map<number, Buffer>();
    for (const index of new Set([0, ...[...level.keys()].map(key => Math.floor(key / 128))])) {
      const page = Array.from({ length: 128 }, (_, j) => level.get(index * 128 + j) ?? zero);
      next.set(index, sha(...page));
    }
    zero = sha(Buffer.concat(Array<Buffer>(128).fill(zero)));
    level = next;
  }
  const shape = Buffer.alloc(16);
  shape.writeBigUInt64LE(BigInt(size));
  shape.writeUInt32LE(CLUSTER, 8);
  return sha(Buffer.from('asof tree 1\0'), shape, level.get(0)!).toString('hex');
}

t.test('three generations', t => {
  const folder = scratch(t);
  const next = random(77);
  const size = 2 ** 45;
  const clusters = size / CLUSTER;
  const model = new Map<number, Buffer>();
  const files: TreeFile[] = [];
  let base: Tree | undefined;
  // The first touches more pages than are held.
  for (const count of [6000, 50, 0]) {
    const path = join(folder, `${files.length}.tree`);
    const writer = new TreeWriter(path, { size, clusterSize: CLUSTER }, base);
    for (let i = 0; i < count; i++) {
      const cluster = next(3) ? next(clusters) : ([...model.keys()][next(model.size)] ?? i);
      const digest = next(8) ? noise(i % 200, 32) : ZERO;
      writer.set(cluster, digest);
      model.set(cluster, digest);
    }
    const root = writer.finish();
    writer.close();
    files.unshift(new TreeFile(path));
    base = new Tree(files);
    t.equal(root, modelRoot(model, size), `root of generation ${files.length}`);
    t.equal(base.root, root);
    base.check();
    for (const [cluster, digest] of model)
      if (!base.digest(cluster).equals(digest)) t.fail(`cluster ${cluster}`);
    for (let i = 0; i < 100; i++) {
      const cluster = next(clusters);
      t.ok(base.digest(cluster).equals(model.get(cluster) ?? ZERO));
    }
    const held = [...model].filter(([, digest]) => !digest.equals(ZERO)).map(([cluster]) => cluster);
    t.same(
      [...heldBy(base, 0, clusters)],
      held.sort((a, b) => a - b),
    );
    const [from, to] = [next(clusters / 2), clusters / 2 + next(clusters / 2)];
    t.same(
      [...heldBy(base, from, to)],
      held.filter(cluster => cluster >= from && cluster < to),
    );
  }
  t.ok(statSync(files[1]!.path).size < 50 * 7 * PAGE, 'a generation costs what it changed');
  t.equal(statSync(files[0]!.path).size, HEAD, 'and nothing where nothing changed');
  for (const file of files) file.close();
  t.end();
});

t.test('a page that was changed is not believed', t => {
  const path = join(scratch(t), 'a.tree');
  const writer = new TreeWriter(path, { size: 2 ** 30, clusterSize: CLUSTER }, undefined);
  for (let i = 0; i < 300; i++) writer.set(i, noise(i % 200, 32));
  writer.finish();
  writer.close();
  const byte = readAt(path, HEAD + PAGE + 40, 1);
  byte[0]! ^= 4;
  const fd = openSync(path, 'r+');
  writeSync(fd, byte, 0, 1, HEAD + PAGE + 40);
  closeSync(fd);
  const file = new TreeFile(path);
  const tree = new Tree([file]);
  t.throws(() => tree.check(), { code: 'HISTORY_DAMAGED' });
  t.throws(() => tree.digest(128 + 1), { code: 'HISTORY_DAMAGED' });
  t.ok(tree.digest(5).equals(noise(5, 32)), 'others are');
  file.close();
  t.end();
});
