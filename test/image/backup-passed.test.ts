/** Of each cluster the copier says one thing, once: that nobody will read it, or that it is stored; whatever is urgent. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { Disk } from '../../src/block/disk.js';
import { ImageFile } from '../../src/block/file.js';
import { copyClusters } from '../../src/image/backup-copy.js';
import { tracked } from '../../src/image/backup-plan.js';
import { CLUSTER, Qcow2Writer } from '../../src/image/qcow2-writer.js';
import { TreeWriter } from '../../src/image/tree-writer.js';
import { loadAddon } from '../../src/native.js';
import { newEngine, OPTIONS, random, rawSource, scratch } from './history-lab.js';
import { noise } from './peer.js';

const CLUSTERS = 173;
const SIZE = CLUSTERS * CLUSTER - 512;

t.test('random plans', async t => {
  const folder = scratch(t);
  writeFileSync(join(folder, 'source'), noise(1, SIZE));
  const file = ImageFile.open(join(folder, 'source'));
  const engine = newEngine();
  const disk = new Disk(engine, rawSource(file));
  const imager = new (loadAddon().Imager)(2, CLUSTER);
  t.teardown(() => {
    imager.close();
    disk.close();
    engine.close();
    file.close();
  });
  const next = random(1);
  for (let round = 0; round < 60; round++) {
    const runs = Array.from({ length: next(9) }, (): [number, number] => {
      const first = next(CLUSTERS);
      return [first * CLUSTER, next(40) * CLUSTER];
    });
    const said = new Map<number, string[]>();
    const say = (cluster: number, what: string) => said.set(cluster, [...(said.get(cluster) ?? []), what]);
    const path = join(folder, `image-${round}`);
    const writer = new Qcow2Writer(path, { size: SIZE, backing: undefined, zstd: true });
    const tree = new TreeWriter(`${path}.tree`, { size: SIZE, clusterSize: CLUSTER }, undefined);
    await copyClusters(tracked(runs, SIZE, CLUSTER), {
      ...OPTIONS,
      disk,
      clusterSize: CLUSTER,
      imager,
      writer,
      tree,
      base: undefined,
      distrusted: [],
      parallel: 3,
      whole: false,
      progress: undefined,
      urgent: () => [[next(CLUSTERS) * CLUSTER, CLUSTER * next(3)]],
      passed: passed => {
        t.equal(said.size, 0, 'first of all');
        for (const [offset, length] of passed) {
          for (let at = offset; at < offset + length; at += CLUSTER) say(at / CLUSTER, 'passed');
        }
      },
      stored: clusters => {
        for (const cluster of clusters) say(cluster, 'stored');
      },
    });
    writer.close();
    tree.close();
    const wanted = Array.from({ length: CLUSTERS }, (_, cluster) =>
      runs.some(([offset, length]) => offset <= cluster * CLUSTER && cluster * CLUSTER < offset + length)
        ? ['stored']
        : ['passed'],
    );
    const got = Array.from({ length: CLUSTERS }, (_, cluster) => said.get(cluster));
    if (JSON.stringify(got) !== JSON.stringify(wanted)) t.same(got, wanted, `round ${round}`);
  }
});
