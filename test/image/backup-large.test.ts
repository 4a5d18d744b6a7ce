/**
 * A disk of terabytes that is nearly empty costs what it holds, in time, bytes and memory; and refcounts, L2 tables and
 * pages that do not fit in memory are right (an image whose layout is a large one's, without the bytes).
 */
import { closeSync, ftruncateSync, openSync, rmSync, statSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { ImageFile } from '../../src/block/file.js';
import { History } from '../../src/image/history.js';
import { qcow2 } from '../../src/image/qcow2.js';
import { CLUSTER, Qcow2Writer } from '../../src/image/qcow2-writer.js';
import { missing } from '../peers.js';
import { Lab, random, readAt, scratch } from './history-lab.js';
import { noise, qemuCheck, qemuImg } from './peer.js';

const TiB = 2 ** 40;
const skip = missing(['qemu-img']);

t.test('7 TiB with a little in it', { skip }, async t => {
  const lab = new Lab(scratch(t), Buffer.alloc(0));
  const size = 7 * TiB + 512;
  const fd = openSync(lab.source, 'r+');
  ftruncateSync(fd, size);
  const places = [0, 5 * 2 ** 30 + 777, TiB, 3 * TiB + 4096, size - 70_000];
  for (const [i, at] of places.entries()) writeSync(fd, noise(i, 70_000), 0, 70_000, at);
  const first = await lab.backup();
  t.ok(first.manifest.read < 30 * 65536);
  t.ok(first.manifest.image.bytes < 4 * 2 ** 20);
  writeSync(fd, noise(99, 1000), 0, 1000, 2 * TiB);
  const second = await lab.backup({ method: 'compared' });
  closeSync(fd);
  t.equal(second.manifest.image.plain + second.manifest.image.packed, 1);
  for (const point of [first, second]) {
    const image = join(lab.history, point.manifest.image.file);
    const found = qemuCheck(image);
    t.same([found['corruptions'], found['leaks'], found['check-errors']], [undefined, undefined, 0]);
  }
  t.match(
    qemuImg('compare', '-f', 'qcow2', '-F', 'raw', join(lab.history, second.manifest.image.file), lab.source),
    'identical',
  );
  const history = new History(lab.history);
  t.equal(history.points.length, 2);
  history.close();
});

t.test('tables that do not fit in memory', { skip }, async t => {
  const path = join(scratch(t), 'sparse.qcow2');
  // 600 L2 tables, more than are held, each touched twice; and more host clusters than two refcount blocks count.
  const size = 600 * 512 * 2 ** 20;
  const writer = new Qcow2Writer(path, { size, backing: undefined, zstd: true });
  const next = random(5);
  const placed = new Map<number, number>();
  const place = (clusters: number[], kind: number) => {
    const kinds = new Uint8Array(clusters.length).fill(kind);
    const lengths = new Uint32Array(clusters.length).fill(kind === 3 ? 1 + next(60_000) : 0);
    const offsets = writer.place(clusters, kinds, lengths);
    clusters.forEach((cluster, i) => {
      placed.set(cluster, offsets[i]!);
    });
  };
  for (let round = 0; round < 2; round++) {
    for (let table = 0; table < 600; table++) {
      const first = table * 8192 + round * 4000;
      place(
        Array.from({ length: 40 }, (_, i) => first + i),
        2,
      );
      place([first + 100, first + 101, first + 102, first + 103], 3);
    }
  }
  t.ok(writer.length > 2 ** 31, 'the second refcount block is in use');
  writer.finish();
  writer.close();
  const found = qemuCheck(path);
  t.same([found['corruptions'], found['leaks'], found['check-errors']], [undefined, undefined, 0]);
  const file = ImageFile.open(path);
  const { layer } = qcow2.open(file, { companion: () => file });
  let wrong = 0;
  for (const [cluster, offset] of placed) {
    const [run] = layer.extents(cluster * CLUSTER, CLUSTER);
    if ((run?.kind !== 'data' && run?.kind !== 'packed') || run.offset !== offset) wrong++;
  }
  t.equal(wrong, 0, 'every cluster is where it was placed');
  file.close();
  t.equal(statSync(path).size, writer.length);
  t.ok(readAt(path, 0, 4).equals(Buffer.from('QFI\xfb', 'latin1')));
  rmSync(path);
});
