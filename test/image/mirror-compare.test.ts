/**
 * Which clusters of two disks differ, as the native comparison tells it and as two arrays of bytes do; sectors that cannot be
 * read differ where they are the target's, and end it where they are the source's; with a hash tree the same.
 */

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { Disk } from '../../src/block/disk.js';
import { ImageFile } from '../../src/block/file.js';
import { withBad } from '../../src/image/bad-runs.js';
import { History } from '../../src/image/history.js';
import type { Run } from '../../src/image/manifest.js';
import { differing, type MirrorJob } from '../../src/image/mirror.js';
import { CLUSTER } from '../../src/image/qcow2-writer.js';
import { loadAddon } from '../../src/native.js';
import { Lab, newEngine, random, rawSource, scratch } from './history-lab.js';
import { noise } from './peer.js';

t.setTimeout(120_000);

const CLUSTERS = 150;

function rig(t: Test, folder: string) {
  const engine = newEngine();
  const imager = new (loadAddon().Imager)(3, CLUSTER);
  t.teardown(() => {
    imager.close();
    engine.close();
  });
  const open = (name: string, bytes: Buffer, bad: readonly Run[] = []) => {
    const path = join(folder, name);
    writeFileSync(path, bytes);
    const file = ImageFile.open(path);
    const disk = new Disk(engine, withBad(rawSource(file), bad));
    t.teardown(() => {
      disk.close();
      file.close();
    });
    return disk;
  };
  const job = (disk: Disk, more: Partial<MirrorJob> = {}): MirrorJob => ({
    disk,
    tree: undefined,
    clusterSize: CLUSTER,
    except: new Set<number>(),
    imager,
    target: { fd: -1, path: 'target' },
    parallel: 3,
    rate: 0,
    signal: undefined,
    progress: undefined,
    ...more,
  });
  return { open, job };
}

/** Two disks that are alike for the most part. */
function pair(seed: number): [Buffer, Buffer] {
  const below = random(seed);
  const a = Buffer.alloc(CLUSTERS * CLUSTER);
  for (let c = 0; c < CLUSTERS; c++) if (below(3) > 0) noise(c, CLUSTER).copy(a, c * CLUSTER);
  const b = Buffer.from(a);
  for (let c = 0; c < CLUSTERS; c++) {
    const start = c * CLUSTER;
    const kind = below(8);
    if (kind === 0) b[start + below(CLUSTER)]! ^= 1;
    if (kind === 1) b.fill(0, start, start + CLUSTER);
    if (kind === 2) b[start + CLUSTER - 1] = 7;
  }
  return [a, b];
}

function model(a: Buffer, b: Buffer) {
  const unlike: number[] = [];
  let held = 0;
  for (let c = 0; c < a.length / CLUSTER; c++) {
    const [x, y] = [a, b].map(bytes => bytes.subarray(c * CLUSTER, (c + 1) * CLUSTER));
    if (!x!.equals(y!)) unlike.push(c);
    if (x!.some(byte => byte !== 0) || y!.some(byte => byte !== 0)) held += CLUSTER;
  }
  return { unlike, held };
}

t.test('as the bytes are', async t => {
  const { open, job } = rig(t, scratch(t));
  for (let seed = 1; seed <= 4; seed++) {
    const [a, b] = pair(seed);
    const [left, right] = [open('a', a), open('b', b)];
    const { clusters, held } = await differing(job(left), right, undefined);
    const expected = model(a, b);
    t.same([...clusters], expected.unlike, `seed ${seed}`);
    t.equal(clusters.count, expected.unlike.length);
    t.equal(held, expected.held);
    const part = await differing(job(left), right, [[10 * CLUSTER + 5, 30 * CLUSTER]]);
    t.same(
      [...part.clusters],
      expected.unlike.filter(c => c >= 10 && c <= 40),
      'what is named alone',
    );
    t.equal(part.compared, 31 * CLUSTER);
    const some = new Set([3, 50, 51]);
    const others = await differing(job(left, { except: some }), right, undefined);
    t.same(
      [...others.clusters],
      expected.unlike.filter(c => !some.has(c)),
      'what is left to others',
    );
  }
});

t.test('with a hash tree the target alone is read', async t => {
  const folder = scratch(t);
  const { open, job } = rig(t, folder);
  const [a, b] = pair(5);
  const lab = new Lab(folder, a);
  const { manifest } = await lab.backup();
  const history = new History(lab.history);
  t.teardown(() => history.close());
  const tree = history.tree(history.find(manifest.id));
  // The source cannot be read at all.
  const left = open('a', a, [[0, a.length]]);
  const { clusters, held } = await differing(job(left, { tree }), open('b', b), undefined);
  const expected = model(a, b);
  t.same([...clusters], expected.unlike);
  t.equal(held, expected.held);
  // Zeros that cannot be read are no zeros.
  const zero = expected.unlike.length === 0 ? 0 : [...Array(CLUSTERS).keys()].find(c => isZero(a, b, c))!;
  const bad = await differing(job(left, { tree }), open('c', b, [[zero * CLUSTER + 512, 512]]), undefined);
  t.ok([...bad.clusters].includes(zero));
});

function isZero(a: Buffer, b: Buffer, cluster: number): boolean {
  return [a, b].every(bytes =>
    bytes.subarray(cluster * CLUSTER, (cluster + 1) * CLUSTER).every(byte => byte === 0),
  );
}

t.test('sectors that cannot be read', async t => {
  const { open, job } = rig(t, scratch(t));
  const a = noise(1, CLUSTERS * CLUSTER);
  const bad: Run[] = [
    [5 * CLUSTER + 1024, 512],
    [20 * CLUSTER - 512, 1024],
    [40 * CLUSTER, 3 * CLUSTER],
  ];
  const { clusters } = await differing(job(open('a', a)), open('b', a, bad), undefined);
  t.same([...clusters], [5, 19, 20, 40, 41, 42], 'of the target: they are written');
  await t.rejects(differing(job(open('a', a, bad)), open('b', a), undefined), {
    code: 'DAMAGED',
    message: /512 bytes at 328704 of the source/,
  });
});
