/**
 * Batches of clusters by the addon: digests as node:crypto gives them, frames that zstd unpacks, bytes where they were to
 * go, and words for what it cannot do.
 */
import { createHash } from 'node:crypto';
import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { Disk } from '../../src/block/disk.js';
import { ImageFile } from '../../src/block/file.js';
import { CLUSTER_KINDS, loadAddon } from '../../src/native.js';
import { attempt, missing } from '../peers.js';
import { newEngine, rawSource, scratch } from './history-lab.js';
import { noise } from './peer.js';

const CLUSTER = 65536;
const sha = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest();

function open(t: Test, bytes: Buffer) {
  const folder = scratch(t);
  const path = join(folder, 'disk');
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
  return { folder, disk, imager };
}

/** Noise, text, zeros, and a text that the disk's end cuts short. */
const BYTES = Buffer.concat([
  noise(1, CLUSTER),
  Buffer.alloc(CLUSTER, 'text '),
  Buffer.alloc(CLUSTER),
  Buffer.alloc(700, 'end '),
]);
const PADDED = Buffer.concat([BYTES, Buffer.alloc(4 * CLUSTER - BYTES.length)]);

t.test('digests of any company', async t => {
  // They are taken two at a time: alone, in pairs, an odd one left, zeros between, across what is read at once.
  const pieces = Array.from({ length: 40 }, (_, i) =>
    i % 5 === 3 ? Buffer.alloc(CLUSTER) : noise(i, CLUSTER),
  );
  const { disk, imager } = open(t, Buffer.concat(pieces));
  const batches = [[0], [3], [3, 8], [0, 1], [0, 3, 1], [2, 3, 4, 5, 6], [9, 2, 39, 0, 13, 7], pieces.keys()];
  for (const numbers of batches.map(one => [...one])) {
    const expected = Buffer.concat(numbers.map(number => sha(pieces[number]!)));
    for (const level of [-1, 0]) {
      const { id, digests } = await imager.prepare(disk.native, Float64Array.from(numbers), null, level);
      imager.free(id);
      t.ok(expected.equals(digests), `${numbers} at level ${level}`);
    }
  }
});

t.test('kinds, digests, bytes', { skip: missing(['zstd']) }, async t => {
  const { folder, disk, imager } = open(t, BYTES);
  const batch = await imager.prepare(disk.native, Float64Array.of(3, 0, 1, 2), null, 3);
  const order = [3, 0, 1, 2];
  t.same(
    [...batch.kinds].map(kind => CLUSTER_KINDS[kind]),
    ['packed', 'plain', 'packed', 'zero'],
  );
  order.forEach((cluster, i) => {
    const expected = sha(PADDED.subarray(cluster * CLUSTER, (cluster + 1) * CLUSTER));
    t.ok(Buffer.from(batch.digests.subarray(i * 32, i * 32 + 32)).equals(expected), `cluster ${cluster}`);
  });
  t.equal(batch.bad.length, 0);
  const path = join(folder, 'out');
  const fd = openSync(path, 'w+');
  // Packed ones behind each other, the plain one behind them; zeros nowhere.
  await imager.store(batch.id, fd, Float64Array.of(100, CLUSTER, 100 + batch.lengths[0]!, -1));
  closeSync(fd);
  const out = readFileSync(path);
  t.ok(out.subarray(CLUSTER).equals(BYTES.subarray(0, CLUSTER)));
  let at = 100;
  for (const [i, cluster] of [
    [0, 3],
    [2, 1],
  ] as const) {
    const frame = join(folder, `frame-${i}.zst`);
    writeFileSync(frame, out.subarray(at, at + batch.lengths[i]!));
    at += batch.lengths[i]!;
    const { stdout } = await attempt('zstd', ['-d', '-c', frame]);
    t.ok(stdout.equals(PADDED.subarray(cluster * CLUSTER, (cluster + 1) * CLUSTER)), `frame of ${cluster}`);
  }
  imager.free(batch.id);
  t.throws(() => imager.store(batch.id, 1, new Float64Array(4)), { code: 'EINVAL' }, 'it is gone');
});

t.test('what is the same, and the digest of the whole', async t => {
  const { disk, imager } = open(t, BYTES);
  const expected = Buffer.concat([
    sha(PADDED.subarray(0, CLUSTER)),
    Buffer.alloc(32),
    sha(Buffer.alloc(CLUSTER)),
    sha(noise(9, 9)),
  ]);
  const batch = await imager.prepare(disk.native, Float64Array.of(0, 1, 2, 3), expected, 0);
  t.same(
    [...batch.kinds].map(kind => CLUSTER_KINDS[kind]),
    ['same', 'plain', 'same', 'plain'],
  );
  await imager.hash(batch.id, 0, 0, 2 * CLUSTER);
  await imager.hash(batch.id, 3, CLUSTER, 700);
  t.ok((await imager.wholeDigest(0)).equals(sha(BYTES)));
  await imager.hash(batch.id, 0, 5, 10);
  t.ok(
    (await imager.wholeDigest(3)).equals(
      sha(Buffer.concat([Buffer.alloc(5), BYTES.subarray(0, 10), Buffer.alloc(3)])),
    ),
  );
});

t.test('what cannot be', async t => {
  const { disk, imager } = open(t, BYTES);
  const { prepare } = imager;
  const no = (code: string, ...args: unknown[]) =>
    t.throws(() => prepare.apply(imager, args as unknown as Parameters<typeof prepare>), { code });
  no('OUT_OF_RANGE', disk.native, Float64Array.of(4), null, 1);
  no('OUT_OF_RANGE', disk.native, Float64Array.of(-1), null, 1);
  no('OUT_OF_RANGE', disk.native, Float64Array.of(0.5), null, 1);
  no('OUT_OF_RANGE', disk.native, Float64Array.of(Number.NaN), null, 1);
  no('EINVAL', disk.native, new Float64Array(0), null, 1);
  no('EINVAL', disk.native, new Float64Array(5000), null, 1);
  no('EINVAL', disk.native, Float64Array.of(0), Buffer.alloc(31), 1);
  no('EINVAL', disk.native, Float64Array.of(0), null, 23);
  no('EINVAL', {}, Float64Array.of(0), null, 1);
  no('EINVAL', disk.native, [0], null, 1);
  const batch = await imager.prepare(disk.native, Float64Array.of(0), null, 0);
  await t.rejects(imager.store(batch.id, 9999, Float64Array.of(0)), { code: 'EBADF' });
  const digests = await imager.prepare(disk.native, Float64Array.of(0), null, -1);
  t.throws(
    () => imager.store(digests.id, 1, Float64Array.of(0)),
    { code: 'EINVAL' },
    'its bytes were not kept',
  );
  disk.close();
  await t.rejects(imager.prepare(disk.native, Float64Array.of(0), null, 1), { code: 'ESHUTDOWN' });
  imager.close();
  await t.rejects(imager.prepare(disk.native, Float64Array.of(0), null, 1), { code: 'ESHUTDOWN' });
  imager.close();
});
