/**
 * What every source of blocks must do, whatever it stands on. A source's test calls `conformance` and adds only what
 * is its own.
 */
import assert from 'node:assert';
import type { Test } from 'tap';
import { Disk } from '../../src/block/disk.js';
import type { Extent } from '../../src/block/extent.js';
import type { BlockSource } from '../../src/block/source.js';
import { Engine } from '../../src/native.js';
import { RANGES, rangeIn } from './model.js';
import { fc, holds } from './property.js';

/** Bytes [start, end). */
export interface Span {
  readonly start: number;
  readonly end: number;
}

/**
 * Runs the suite as a subtest of `t`. `makeSource` is called several times; each source that it gives is closed.
 * `damaged` are the spans of whole sectors that must be errors, not bytes; `expected` says nothing there.
 */
export async function conformance(
  t: Test,
  name: string,
  makeSource: () => BlockSource | Promise<BlockSource>,
  expected: Buffer,
  damaged: readonly Span[] = [],
): Promise<void> {
  await t.test(`${name}: is a block source`, async t => {
    const engine = new Engine({ cacheBytes: 4 * 2 ** 20, mapBytes: 4 * 2 ** 20, threads: 2 });
    const disks: Disk[] = [];
    t.teardown(() => {
      for (const disk of disks) disk.close();
      engine.close();
    });
    const open = async () => {
      const disk = new Disk(engine, await makeSource());
      disks.push(disk);
      return disk;
    };
    const disk = await open();
    const { source } = disk;
    const size = expected.length;
    const whole = { offset: 0, length: size };

    t.equal(source.size, size, 'has its size');
    t.ok(source.sectorSize === 512 || source.sectorSize === 4096, 'has a sector size');

    await t.test('extents cover what was asked for, none is empty', async t => {
      covers(source, whole);
      covers(source, { offset: size, length: 0 });
      await holds(
        t,
        'any range',
        fc.property(RANGES, range => covers(source, rangeIn(size, range))),
        50,
      );
    });

    await t.test('reads any range', async t => {
      await checkRead(disk, whole, expected, damaged);
      await holds(
        t,
        'any range',
        fc.asyncProperty(RANGES, range => checkRead(disk, rangeIn(size, range), expected, damaged)),
        50,
      );
    });

    await t.test('reads across every boundary', async t => {
      const fresh = await open();
      const around = edges(source).flatMap(edge => [
        { offset: edge - 1, length: 2 },
        { offset: edge - source.sectorSize, length: 2 * source.sectorSize },
        { offset: edge, length: 1 },
        { offset: edge - 3, length: 1027 },
      ]);
      const within = around.filter(({ offset, length }) => offset >= 0 && offset + length <= size);
      await t.resolves(async () => {
        for (const range of within) await checkRead(fresh, range, expected, damaged);
      }, `${within.length} reads at boundaries`);
    });

    await t.test('reads the last sector, and 0 bytes', async t => {
      const last = Math.max(0, size - source.sectorSize);
      await t.resolves(
        checkRead(disk, { offset: last, length: size - last }, expected, damaged),
        'the last sector',
      );
      if (size > 0)
        await t.resolves(
          checkRead(disk, { offset: size - 1, length: 1 }, expected, damaged),
          'the last byte',
        );
      for (const offset of [0, last, size])
        t.equal((await disk.read(offset, 0)).length, 0, `0 bytes at ${offset}`);
    });

    await t.test('refuses what lies past the end', async t => {
      for (const [offset, length] of [
        [size, 1],
        [size + 1, 0],
        [0, size + 1],
        [Math.max(0, size - 1), 2],
        [-1, 1],
        [0, -1],
        [0.5, 0],
        [Number.NaN, 1],
        [2 ** 53, 1],
      ] as const) {
        const range = `${length} bytes at ${offset}`;
        t.throws(() => [...source.extents(offset, length)], { code: 'OUT_OF_RANGE' }, `extents of ${range}`);
        await t.rejects(disk.read(offset, length), { code: 'OUT_OF_RANGE' }, range);
      }
    });

    await t.test('many reads at once', async t => {
      const fresh = await open();
      const steps = 64;
      const reads = Array.from({ length: steps }, (_, i) => {
        const offset = Math.floor((((i * 37) % steps) * size) / steps);
        return checkRead(fresh, { offset, length: Math.min(size - offset, 70_001) }, expected, damaged);
      });
      await t.resolves(Promise.all(reads), `${steps} reads`);
    });

    await t.test('lists what is damaged, and nothing else', async t => {
      const fresh = await open();
      await checkRead(fresh, whole, expected, damaged);
      t.strictSame(
        spans(fresh.defects().map(d => ({ start: d.offset, end: d.offset + d.length }))),
        spans(damaged),
      );
    });

    await t.test('closes, twice as well', async t => {
      const fresh = await makeSource();
      fresh.close();
      t.doesNotThrow(() => fresh.close());
    });
  });
}

interface Range {
  readonly offset: number;
  readonly length: number;
}

function covers(source: BlockSource, { offset, length }: Range): void {
  let at = offset;
  for (const run of source.extents(offset, length)) {
    assert.ok(Number.isSafeInteger(run.length) && run.length > 0, `a run of ${run.length} bytes at ${at}`);
    at += run.length;
  }
  assert.strictEqual(at, offset + length, `runs of [${offset}, ${offset + length}) end at ${at}`);
}

/** Where runs begin: at most 500 of them. */
function edges(source: BlockSource): number[] {
  const all: number[] = [];
  let at = 0;
  for (const run of source.extents(0, source.size) as Iterable<Extent>) {
    at += run.length;
    all.push(at);
  }
  const step = Math.ceil(all.length / 500);
  return all.filter((_, i) => i % step === 0 || i === all.length - 1);
}

async function checkRead(
  disk: Disk,
  { offset, length }: Range,
  expected: Buffer,
  damaged: readonly Span[],
): Promise<void> {
  const { sectorSize } = disk.source;
  const start = Math.floor(offset / sectorSize) * sectorSize;
  const end = Math.ceil((offset + length) / sectorSize) * sectorSize;
  const what = `${length} bytes at ${offset}`;
  if (length > 0 && damaged.some(span => span.start < end && span.end > start)) {
    await assert.rejects(disk.read(offset, length), { code: 'DAMAGED' }, what);
    return;
  }
  const got = await disk.read(offset, length);
  if (!got.equals(expected.subarray(offset, offset + length)))
    assert.fail(`${what} differ from what was written`);
}

/** In order, those that touch made one. */
function spans(list: readonly Span[]): Span[] {
  const out: Span[] = [];
  for (const { start, end } of list.toSorted((a, b) => a.start - b.start)) {
    const last = out.at(-1);
    if (last && last.end >= start) out[out.length - 1] = { start: last.start, end: Math.max(last.end, end) };
    else out.push({ start, end });
  }
  return out;
}
