/** SEEK_DATA and SEEK_HOLE, and what counts as one plain file, against an oracle that looks at each byte's run. */
import assert from 'node:assert';
import { appendFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { Disk } from '../../src/block/disk.js';
import type { Extent } from '../../src/block/extent.js';
import { ImageFile } from '../../src/block/file.js';
import { REGION } from '../../src/block/region.js';
import type { BlockSource } from '../../src/block/source.js';
import { zeros } from '../../src/block/zero.js';
import { Engine } from '../../src/native.js';
import { listedDisk, Model, RANGES, runLists } from './model.js';
import { fc, holds } from './property.js';

const model = new Model();
const engine = new Engine({ cacheBytes: 0, mapBytes: 2000, threads: 1 });
t.teardown(() => {
  engine.close();
  model.close();
});

/** The first byte at or behind `offset` that is, or is not, in a hole; the size where there is none. */
function firstByte(runs: readonly Extent[], offset: number, hole: boolean): number {
  let start = 0;
  for (const run of runs) {
    const end = start + run.length;
    if (end > offset && (run.kind === 'zero') === hole) return Math.max(start, offset);
    start = end;
  }
  return start;
}

t.test('any list of runs, from any offset', t =>
  holds(
    t,
    'seek',
    fc.asyncProperty(
      runLists(model, ['zero', 'data', 'packed', 'bad']),
      fc.array(RANGES, { minLength: 1, maxLength: 8 }),
      async (runs, places) => {
        const disk = new Disk(engine, listedDisk(runs));
        for (const [where] of places) {
          const offset = Math.min(Math.floor(where * disk.size), disk.size - 1);
          const data = firstByte(runs, offset, false);
          assert.strictEqual(await disk.native.seek(offset, false), data === disk.size ? -1 : data);
          assert.strictEqual(await disk.native.seek(offset, true), firstByte(runs, offset, true));
        }
        assert.strictEqual(await disk.native.seek(disk.size, false), -1);
        assert.strictEqual(await disk.native.seek(disk.size, true), -1);
        disk.close();
      },
    ),
  ),
);

t.test('across many regions', async t => {
  // 1 MiB of data at the end of each tenth window.
  const size = 100 * REGION;
  const isData = (at: number) => Math.floor(at / REGION) % 10 === 9 && at % REGION >= REGION - 2 ** 20;
  const source: BlockSource = {
    size,
    sectorSize: 512,
    *extents(offset, length) {
      for (let at = offset; at < offset + length; ) {
        const take = Math.min(2 ** 20 - (at % 2 ** 20), offset + length - at);
        if (isData(at)) yield { kind: 'data', length: take, file: model.plain, offset: 0 };
        else yield { kind: 'zero', length: take };
        at += take;
      }
    },
    close() {},
  };
  const disk = new Disk(engine, source);
  t.teardown(() => disk.close());
  t.equal(await disk.native.seek(0, false), 10 * REGION - 2 ** 20);
  t.equal(await disk.native.seek(10 * REGION, false), 20 * REGION - 2 ** 20);
  t.equal(await disk.native.seek(10 * REGION - 5, true), 10 * REGION);
  t.equal(await disk.native.seek(size - 5, true), size);
});

t.test('a hole of a petabyte', async t => {
  const disk = new Disk(engine, zeros(2 ** 50, 4096));
  t.teardown(() => disk.close());
  t.equal(await disk.native.seek(2 ** 40, false), -1);
  t.equal(await disk.native.seek(2 ** 40 + 1, true), 2 ** 40 + 1);
});

t.test('what cannot be resolved counts as data', async t => {
  const disk = engine.openDisk(3 * REGION, 512, false, offset => {
    if (offset >= REGION && offset < 2 * REGION) throw new Error('no table');
    const start = offset - (offset % REGION);
    return { start, rows: Float64Array.of(0, REGION, 0, 0, 0, 0, 0, 0), reasons: [] };
  });
  t.teardown(() => disk.close());
  t.equal(await disk.seek(5, false), REGION);
  t.equal(await disk.seek(REGION + 5, true), 2 * REGION);
});

t.test('one plain file', async t => {
  const path = join(t.testdir(), 'plain');
  writeFileSync(path, Buffer.alloc(10_000, 1));
  const file = ImageFile.open(path);
  t.teardown(() => file.close());
  const whole = async (runs: readonly Extent[], onDamage: 'error' | 'zero' = 'error') => {
    const disk = new Disk(engine, listedDisk(runs), onDamage);
    const fd = await disk.native.wholeFile();
    disk.close();
    return fd >= 0;
  };
  const data: Extent = { kind: 'data', length: 10_000, file, offset: 0 };
  t.equal(await whole([data]), true);
  t.equal(await whole([data], 'zero'), false, 'damage is to be zeros');
  t.equal(await whole([{ ...data, length: 9_000, offset: 1000 }]), false, 'from elsewhere');
  t.equal(await whole([{ ...data, length: 9_000 }]), false, 'a part: the file would show more');
  t.equal(await whole([data, { kind: 'zero', length: 1 }]), false, 'and more');
  t.equal(await whole([]), false, 'nothing');
  truncateSync(path, 9_999);
  t.equal(await whole([data]), false, 'the file has become shorter');
  appendFileSync(path, 'more');
  t.equal(await whole([data]), false, 'the file has become longer');
});
