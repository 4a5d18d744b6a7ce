/** fileExtents tells data from holes: what it leaves out are zeros, whatever the file system makes of holes. */
import { closeSync, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { loadAddon } from '../../src/native.js';
import { noise } from './model.js';

const { fileExtents } = loadAddon();
const SIZE = 16 * 2 ** 20;

function sparse(t: Test, places: readonly number[]): { fd: number; bytes: Buffer } {
  const path = join(t.testdir(), 'sparse');
  const fd = openSync(path, 'w+');
  t.teardown(() => closeSync(fd));
  ftruncateSync(fd, SIZE);
  for (const place of places) writeSync(fd, noise(65_536, place + 1), 0, 65_536, place);
  return { fd, bytes: readFileSync(path) };
}

function pairs(list: Float64Array): [number, number][] {
  return Array.from({ length: list.length / 2 }, (_, i) => [list[i * 2]!, list[i * 2 + 1]!]);
}

t.test('what lies between the runs is zeros', async t => {
  const places = [0, 131_072, 2 ** 20, 5 * 2 ** 20 + 65_536, SIZE - 65_536];
  const { fd, bytes } = sparse(t, places);
  for (const [offset, length] of [
    [0, SIZE],
    [1000, 3 * 2 ** 20],
    [2 ** 20 + 5, 10],
    [SIZE - 1, 1],
    [0, SIZE * 2],
  ] as const) {
    const runs = pairs(fileExtents(fd, offset, length, 1000));
    let behind = offset;
    for (const [start, size] of runs) {
      t.ok(start >= behind && size > 0 && start + size <= offset + length);
      t.ok(bytes.subarray(behind, start).every(byte => byte === 0));
      behind = start + size;
    }
    t.ok(bytes.subarray(behind, offset + length).every(byte => byte === 0));
  }
});

t.test('no more runs than asked for', async t => {
  const { fd } = sparse(t, [0, 2 ** 20, 2 * 2 ** 20, 3 * 2 ** 20]);
  const all = pairs(fileExtents(fd, 0, SIZE, 1000));
  t.same(pairs(fileExtents(fd, 0, SIZE, 2)), all.slice(0, 2));
  t.same(pairs(fileExtents(fd, 0, SIZE, 0)), []);
  t.same(pairs(fileExtents(fd, 0, 0, 5)), []);
});

t.test('a file that is all hole, and one that has ended', async t => {
  const { fd } = sparse(t, []);
  t.ok(pairs(fileExtents(fd, SIZE, SIZE, 10)).length === 0);
  ftruncateSync(fd, 0);
  t.same(pairs(fileExtents(fd, 0, SIZE, 10)), []);
});

t.test('what knows no holes is all data', async t => {
  // Files of proc(5) cannot seek to data.
  const fd = openSync('/proc/self/maps', 'r');
  t.teardown(() => closeSync(fd));
  t.same(pairs(fileExtents(fd, 10, 1000, 10)), [[10, 1000]]);
});

t.test('what is no file', async t => {
  t.throws(() => fileExtents(999_999, 0, 1, 1), { code: 'EBADF' });
  t.throws(() => fileExtents(-1, 0, 1, 1), { code: 'EINVAL' });
  t.throws(() => fileExtents(0, -1, 1, 1), { code: 'EINVAL' });
  t.throws(() => fileExtents(0, 2 ** 53 - 1, 1, 1), { code: 'EINVAL' });
});
