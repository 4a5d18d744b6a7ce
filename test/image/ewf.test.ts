/**
 * Every kind of E01 and s01 that the peer writes gives the bytes that went in, also by the engine, and is a block source.
 */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import t from 'tap';
import { Disk } from '../../src/block/disk.js';
import { openChain } from '../../src/image/chain.js';
import { check } from '../../src/image/check.js';
import { points } from '../../src/image/points.js';
import { Engine } from '../../src/native.js';
import { conformance } from '../block/conformance.js';
import { missing } from '../peers.js';
import { acquire, acquireFile, exported } from './acquire.js';
import { folder, noise } from './peer.js';
import { readAll } from './reader.js';

const skip = missing(['ewfacquirestream', 'ewfacquire', 'ewfexport']);
const KIB = 1024;

/** What packs, what does not, what is empty, and an end that is no multiple of a chunk. */
const BYTES = Buffer.concat([
  noise(1, 700 * KIB),
  Buffer.alloc(300 * KIB),
  Buffer.from(noise(2, 400 * KIB).toString('hex'), 'latin1'),
  noise(3, 700 * KIB + 1536),
]);

const FORMATS = [
  'ftk',
  'encase2',
  'encase3',
  'encase4',
  'encase5',
  'encase6',
  'encase7',
  'linen5',
  'linen7',
  'ewfx',
];
const COMPRESSIONS = ['none', 'empty-block', 'fast', 'best'];

const engine = new Engine({ cacheBytes: 2 ** 24, mapBytes: 2 ** 24, threads: 2 });
t.teardown(() => engine.close());

function open(t: { teardown(action: () => void): void }, path: string) {
  const chain = openChain(path);
  t.teardown(() => chain.close());
  return chain;
}

for (const [i, format] of FORMATS.entries()) {
  t.test(format, { skip }, async t => {
    const dir = folder(t);
    for (const [j, compression] of COMPRESSIONS.entries()) {
      const chunk = [16, 64, 128, 1024][(i + j) % 4]!;
      const segment = (i + j) % 2 === 0 ? ['-S', String(2 ** 20)] : [];
      const target = join(dir, compression);
      const options = ['-f', format, '-c', compression, '-b', String(chunk), '-d', 'sha1', ...segment];
      const [first, ...more] = acquire(target, BYTES, options);
      const chain = open(t, first!);
      const [image] = chain.members;
      t.equal(image!.format, 'ewf');
      t.equal(image!.features[0], `segments=${1 + more.length}`);
      t.same(image!.troubles, []);
      t.same([...check(chain)], []);
      const source = points(chain)[0]!;
      const { bytes, bad } = readAll(source.open());
      t.same(bad, []);
      t.ok(bytes.equals(BYTES), `${compression}: the bytes that went in`);
      const disk = new Disk(engine, source.open());
      t.ok((await disk.read(0, disk.size)).equals(BYTES), 'and the engine reads them');
      disk.close();
      for (const { algorithm, value } of source.digests)
        t.equal(value, createHash(algorithm).update(BYTES).digest('hex'), algorithm);
      t.ok(source.digests.some(({ algorithm }) => algorithm === 'md5'));
    }
  });
}

t.test('SMART and the first specification', { skip }, async t => {
  const dir = folder(t);
  for (const format of ['smart', 'ewf']) {
    for (const compression of COMPRESSIONS) {
      const target = join(dir, `${format}-${compression}`);
      const [first] = acquireFile(target, BYTES, ['-f', format, '-c', compression, '-S', String(2 ** 20)]);
      const chain = open(t, first!);
      t.same([...check(chain)], []);
      const { bytes, bad } = readAll(points(chain)[0]!.open());
      t.same(bad, []);
      t.ok(bytes.equals(BYTES), `${format} ${compression}`);
    }
  }
});

t.test('sectors of 4096 and 2048 bytes', { skip }, async t => {
  const dir = folder(t);
  const even = BYTES.subarray(0, 2 ** 20);
  for (const sector of [2048, 4096]) {
    const [first] = acquire(join(dir, String(sector)), even, [
      '-P',
      String(sector),
      '-c',
      'fast',
      '-b',
      '16',
    ]);
    const chain = open(t, first!);
    t.equal(chain.members[0]!.sectorSize, sector === 4096 ? 4096 : 512);
    t.ok(chain.members[0]!.features.includes(`bytes-per-sector=${sector}`));
    t.ok(readAll(points(chain)[0]!.open()).bytes.equals(even));
  }
});

t.test(
  'a file that is no multiple of a sector: whole sectors, and a digest of all of it',
  { skip },
  async t => {
    const dir = folder(t);
    for (const compression of ['none', 'fast']) {
      const odd = BYTES.subarray(0, 100_001);
      const [first] = acquire(join(dir, compression), odd, ['-c', compression]);
      const point = points(open(t, first!))[0]!;
      t.equal(point.size, 195 * 512);
      t.ok(readAll(point.open()).bytes.equals(odd.subarray(0, point.size)));
      t.same(point.digests[0]?.tail, odd.subarray(point.size));
    }
  },
);

t.test('what the examiner wrote', { skip }, async t => {
  const dir = folder(t);
  const words = ['-C', '17', '-E', 'disk 2', '-D', 'laptop', '-e', 'A. Name', '-N', 'notes, with a comma'];
  for (const format of ['encase3', 'encase6']) {
    const [first] = acquire(join(dir, format), BYTES.subarray(0, 65536), ['-f', format, ...words]);
    const metadata = new Map(open(t, first!).members[0]!.metadata);
    t.equal(metadata.get('case'), '17');
    t.equal(metadata.get('evidence'), 'disk 2');
    t.equal(metadata.get('description'), 'laptop');
    t.equal(metadata.get('examiner'), 'A. Name');
    t.equal(metadata.get('notes'), 'notes, with a comma');
    t.match(metadata.get('acquired'), /^\d{4}-\d\d-\d\d/);
  }
});

t.test('a block source', { skip }, async t => {
  const dir = folder(t);
  const [first] = acquire(join(dir, 'image'), BYTES, ['-c', 'fast', '-S', String(2 ** 20)]);
  const chain = open(t, first!);
  await conformance(t, 'ewf', () => points(chain)[0]!.open(), BYTES);
});

t.test('a second reader agrees', { skip }, async t => {
  const [first] = acquire(join(folder(t), 'image'), BYTES, ['-c', 'best', '-f', 'encase7']);
  const { bytes } = readAll(points(open(t, first!))[0]!.open());
  t.ok(bytes.equals(exported(first!)));
});
