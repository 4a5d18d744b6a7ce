/** Runs that are left out, against an array of bytes: what is in one list and not in the other, what reads as zeros, what is kept on disk. */
import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { bounded, encodeRuns, leavingOut, readRuns, unlike } from '../../src/image/left-out.js';
import { joinRuns, type Run } from '../../src/image/manifest.js';
import { random, scratch } from './history-lab.js';

const SIZE = 64 * 512;

function bits(runs: readonly Run[]): Uint8Array {
  const bytes = new Uint8Array(SIZE);
  for (const [start, length] of runs) bytes.fill(1, start, start + length);
  return bytes;
}

function someRuns(next: (below: number) => number, unit: number): Run[] {
  const count = next(8);
  const runs = Array.from({ length: count }, (): Run => {
    const start = next(SIZE / unit) * unit;
    return [start, Math.min(SIZE - start, (1 + next(9)) * unit)];
  });
  return joinRuns(runs);
}

t.test('what one has and the other has not', async t => {
  const next = random(7);
  for (let i = 0; i < 500; i++) {
    const [a, b] = [someRuns(next, 512), someRuns(next, 512)];
    const [one, other] = [bits(a), bits(b)];
    const found = unlike(a, b);
    if (!Buffer.from(bits(found)).equals(Buffer.from(one.map((bit, at) => bit ^ other[at]!)))) {
      t.fail(JSON.stringify({ a, b, found }));
    }
    if (JSON.stringify(joinRuns(found)) !== JSON.stringify(found)) t.fail('in order and apart');
  }
  t.pass('500 pairs');
});

t.test('a disk without them', async t => {
  const next = random(8);
  const source = {
    size: SIZE,
    sectorSize: 512 as const,
    extents: (_offset: number, length: number) =>
      length > 0 ? [{ kind: 'bad' as const, length, why: 'read' }] : [],
    close() {},
  };
  for (let i = 0; i < 300; i++) {
    const runs = someRuns(next, 512);
    const offset = next(SIZE + 1);
    const length = next(SIZE - offset + 1);
    const seen: number[] = [];
    for (const one of leavingOut(source, runs).extents(offset, length)) {
      if (one.length <= 0) t.fail('an empty run');
      for (let at = 0; at < one.length; at++) seen.push(one.kind === 'zero' ? 1 : 0);
    }
    const wanted = [...bits(runs).subarray(offset, offset + length)];
    if (seen.join('') !== wanted.join('')) t.fail(JSON.stringify({ runs, offset, length }));
  }
  t.pass('300 ranges');
});

t.test('the file of them', async t => {
  const path = join(scratch(t), 'runs');
  const next = random(9);
  for (let i = 0; i < 50; i++) {
    const runs = someRuns(next, 512).map(([at, length]): Run => [at * 2 ** 30, length * 2 ** 30]);
    const bytes = encodeRuns(runs);
    const sum = createHash('sha256').update(bytes).digest('hex');
    writeFileSync(path, bytes);
    if (JSON.stringify(readRuns(path, SIZE * 2 ** 30, sum)) !== JSON.stringify(runs))
      t.fail(JSON.stringify(runs));
    bytes[next(bytes.length)]! ^= 1 << next(8);
    writeFileSync(path, bytes);
    t.throws(() => readRuns(path, SIZE * 2 ** 30, sum), { code: 'HISTORY_DAMAGED' });
    // Of the right digest, and yet nonsense: it ends, with words.
    try {
      readRuns(path, SIZE * 2 ** 30, createHash('sha256').update(bytes).digest('hex'));
    } catch (error) {
      if ((error as { code?: string }).code !== 'HISTORY_DAMAGED') t.fail(String(error));
    }
  }
  t.throws(() => readRuns(`${path}.none`, SIZE, ''), { code: 'NOT_FOUND' });
});

t.test('too many of them', async t => {
  const runs: Run[] = [
    [0, 1024],
    [2048, 512],
    [4096, 8192],
    [16384 + 1, 2048],
    [32768, 100],
  ];
  t.same(
    bounded(runs),
    [
      [0, 1024],
      [2048, 512],
      [4096, 8192],
      [16896, 1536],
    ],
    'whole sectors, inwards',
  );
  t.same(
    bounded(runs, 2),
    [
      [4096, 8192],
      [16896, 1536],
    ],
    'the larger ones',
  );
});
