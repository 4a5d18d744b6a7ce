/**
 * Clusters may come in any order: the image and its tree hold the same, for us and for qemu-img.
 */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { Disk } from '../../src/block/disk.js';
import { ImageFile } from '../../src/block/file.js';
import { stack } from '../../src/block/stack.js';
import { copyClusters } from '../../src/image/backup-copy.js';
import { inUse } from '../../src/image/backup-plan.js';
import { qcow2 } from '../../src/image/qcow2.js';
import { CLUSTER, Qcow2Writer } from '../../src/image/qcow2-writer.js';
import { TreeWriter } from '../../src/image/tree-writer.js';
import { loadAddon } from '../../src/native.js';
import { missing } from '../peers.js';
import { newEngine, OPTIONS, random, rawSource, scratch } from './history-lab.js';
import { convert, noise, qemuCheck } from './peer.js';

const ORDERS = 1000;
const CLUSTERS = 40;

t.test(`${ORDERS} orders`, async t => {
  const folder = scratch(t);
  const path = join(folder, 'source');
  const bytes = Buffer.alloc(CLUSTERS * CLUSTER - 700);
  for (let i = 0; i < CLUSTERS; i++) {
    const piece = i % 3 === 0 ? noise(i, CLUSTER) : Buffer.alloc(CLUSTER, i % 3 === 1 ? `cluster ${i} ` : 0);
    piece.copy(bytes, i * CLUSTER);
  }
  writeFileSync(path, bytes);
  const file = ImageFile.open(path);
  const engine = newEngine();
  const disk = new Disk(engine, rawSource(file));
  const imager = new (loadAddon().Imager)(2, CLUSTER);
  t.teardown(() => {
    imager.close();
    disk.close();
    engine.close();
    file.close();
  });
  const image = join(folder, 'image.qcow2');
  const tree = join(folder, 'image.tree');
  const noPeer = missing(['qemu-img']);
  let expected: string | undefined;
  let wrong = 0;
  for (let order = 0; order < ORDERS; order++) {
    const next = random(order + 1);
    const left = Array.from({ length: CLUSTERS }, (_, i) => i);
    const shuffled: number[] = [];
    while (left.length > 0) shuffled.push(...left.splice(next(left.length), 1));
    const writer = new Qcow2Writer(image, { size: disk.size, backing: undefined, zstd: true });
    const treeWriter = new TreeWriter(tree, { size: disk.size, clusterSize: CLUSTER }, undefined);
    await copyClusters(inUse(disk.source, CLUSTER), {
      ...OPTIONS,
      disk,
      clusterSize: CLUSTER,
      imager,
      writer,
      tree: treeWriter,
      base: undefined,
      distrusted: [],
      parallel: 3,
      whole: false,
      progress: undefined,
      urgent: () => shuffled.splice(0, 1 + next(9)).map(cluster => [cluster * CLUSTER, CLUSTER] as const),
    });
    writer.finish();
    writer.close();
    const root = treeWriter.finish();
    treeWriter.close();
    expected ??= root;
    if (root !== expected) wrong++;
    if (!(await contentOf(image)).subarray(0, bytes.length).equals(bytes)) wrong++;
    if (order % 100 === 0 && !noPeer) {
      if (!convert(image).subarray(0, bytes.length).equals(bytes)) wrong++;
      const found = qemuCheck(image);
      if (found['corruptions'] || found['leaks'] || found['check-errors']) wrong++;
    }
    rmSync(image);
    rmSync(tree);
  }
  t.equal(wrong, 0);
  t.ok(readFileSync(path).equals(bytes), 'the source is as it was');

  async function contentOf(at: string): Promise<Buffer> {
    const opened = ImageFile.open(at);
    const engine = newEngine();
    const layer = qcow2.open(opened, { companion: () => opened }).layer;
    const shown = new Disk(engine, stack([layer], 512));
    try {
      return await shown.read(0, shown.size);
    } finally {
      shown.close();
      engine.close();
      opened.close();
    }
  }
});
