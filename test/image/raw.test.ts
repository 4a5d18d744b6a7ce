/**
 * Raw images: the bytes of the file, its holes as zeros, its exact size; in one file or in segments.
 */
import { closeSync, ftruncateSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { AsofError } from '../../src/errors.js';
import { openChain } from '../../src/image/chain.js';
import { check } from '../../src/image/check.js';
import { points } from '../../src/image/points.js';
import { folder, noise } from './peer.js';
import { readAll } from './reader.js';

t.test('holes are zeros, however many there are', async t => {
  const path = join(folder(t), 'sparse.raw');
  const fd = openSync(path, 'w');
  const size = 48 * 2 ** 20 + 77;
  ftruncateSync(fd, size);
  for (let i = 0; i < 700; i++) writeSync(fd, noise(i % 200, 100), 0, 100, i * 65536 + 4096);
  closeSync(fd);
  const chain = openChain(path);
  t.teardown(() => chain.close());
  const source = points(chain)[0]!.open();
  t.equal(source.size, size);
  const { bytes, bad } = readAll(source);
  t.same(bad, []);
  t.ok(bytes.equals(readFileSync(path)));
  const runs = [...source.extents(0, size)];
  t.ok(runs.length <= 1401, 'a run of data and a hole each');
  // A part in the middle is the same part.
  const part = [...source.extents(1_000_003, 3_000_001)];
  t.equal(
    part.reduce((sum, { length }) => sum + length, 0),
    3_000_001,
  );
});

t.test('an empty file is an empty disk', async t => {
  const path = join(folder(t), 'empty.raw');
  writeFileSync(path, '');
  const chain = openChain(path);
  t.teardown(() => chain.close());
  t.same([...points(chain)[0]!.open().extents(0, 0)], []);
});

for (const first of [0, 1]) {
  t.test(`segments from .00${first}`, async t => {
    const dir = folder(t);
    const name = (i: number) => join(dir, `disk.${String(first + i).padStart(3, '0')}`);
    const whole = noise(5, 1_000_000);
    for (let i = 0; i < 4; i++) writeFileSync(name(i), whole.subarray(i * 300_000, (i + 1) * 300_000));
    const chain = openChain(name(0));
    t.equal(chain.members[0]!.format, 'split-raw');
    t.equal(chain.files.length, 4);
    t.ok(readAll(points(chain)[0]!.open()).bytes.equals(whole));
    chain.close();
    rmSync(name(2));
    try {
      openChain(name(0)).close();
      t.fail('a gap is accepted');
    } catch (error) {
      t.ok(error instanceof AsofError && error.code === 'PARENT_MISSING', String(error));
    }
    const alone = openChain(name(0), { format: 'raw' });
    t.equal(alone.members[0]!.size, 300_000, 'asked for raw, one segment is one disk');
    alone.close();
  });
}

// Cut in the middle, what was behind moved forward; swapped, everything was somewhere else.
t.test('segments that were cut off or swapped', async t => {
  const dir = folder(t);
  const name = (i: number) => join(dir, `disk.00${i + 1}`);
  const whole = noise(5, 100_000);
  const write = (order: readonly number[], cut?: number) => {
    for (const [i, one] of order.entries()) {
      const part = whole.subarray(one * 30_000, (one + 1) * 30_000);
      writeFileSync(name(i), i === cut ? part.subarray(0, 12_345) : part);
    }
  };
  write([0, 1, 2, 3], 1);
  const chain = openChain(name(0));
  t.teardown(() => chain.close());
  const { bytes, bad } = readAll(points(chain)[0]!.open());
  const lost = { offset: 42_345, length: 17_655 };
  t.same(bad, [lost]);
  whole.copy(bytes, lost.offset, lost.offset, lost.offset + lost.length);
  t.ok(bytes.equals(whole), 'what is behind stays where it was');
  t.same(
    [...check(chain)].map(({ kind, range }) => [kind, range]),
    [
      ['image', undefined],
      ['range', lost],
    ],
  );
  for (const order of [
    [0, 3, 2, 1],
    [3, 1, 2, 0],
  ]) {
    write(order);
    t.throws(() => openChain(name(0)), { code: 'IMAGE_CORRUPT', message: /swapped/ });
  }
  for (const i of [2, 3]) rmSync(name(i));
  write([3, 1]);
  t.throws(() => openChain(name(0)), { code: 'IMAGE_CORRUPT' });
});

// With a gap behind the first one, that one alone was the disk.
t.test('a gap behind the first segment', async t => {
  const dir = folder(t);
  const name = (i: number) => join(dir, `disk.00${i}`);
  for (const i of [1, 5]) writeFileSync(name(i), noise(i, 1000));
  t.throws(() => openChain(name(1)), { code: 'PARENT_MISSING', message: /disk\.002 is missing.*disk\.005/ });
  rmSync(name(5));
  const one = openChain(name(1), { format: 'split-raw' });
  t.equal(one.members[0]!.size, 1000);
  one.close();
});
