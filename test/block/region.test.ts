import assert from 'node:assert';
import t from 'tap';
import { CODECS, type Extent, join } from '../../src/block/extent.js';
import type { ImageFile } from '../../src/block/file.js';
import { compileRegion, REGION, type Region, ROW, ROW_KINDS } from '../../src/block/region.js';
import type { BlockSource } from '../../src/block/source.js';
import { zeros } from '../../src/block/zero.js';
import { listedDisk, Model, runLists } from './model.js';
import { fc, holds } from './property.js';

const model = new Model();
t.teardown(() => model.close());
const files: ImageFile[] = [model.plain, model.packed];
const idOf = (file: ImageFile) => files.indexOf(file);

/** The runs that the rows of a region stand for, read as the engine's documentation says. */
function decode(region: Region): Extent[] {
  const runs: Extent[] = [];
  for (let i = 0; i < region.rows.length; i += ROW) {
    const [kind, length, file, offset, packedLength, codec, unpackedLength, skip] = region.rows.subarray(
      i,
      i + ROW,
    );
    switch (ROW_KINDS[kind!]!) {
      case 'zero':
        runs.push({ kind: 'zero', length: length! });
        break;
      case 'data':
        runs.push({ kind: 'data', length: length!, file: files[file!]!, offset: offset! });
        break;
      case 'packed':
        runs.push({
          kind: 'packed',
          length: length!,
          file: files[file!]!,
          offset: offset!,
          packedLength: packedLength!,
          codec: CODECS[codec!]!,
          unpackedLength: unpackedLength!,
          skip: skip!,
        });
        break;
      case 'bad':
        runs.push({ kind: 'bad', length: length!, why: region.reasons[packedLength!]! });
        break;
    }
  }
  return runs;
}

t.test('a region reads as that part of the disk', t =>
  holds(
    t,
    'region',
    fc.property(
      runLists(model, ['zero', 'data', 'packed', 'bad']),
      fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
      (list, where) => {
        const disk = listedDisk(list);
        const region = compileRegion(disk, Math.floor(where * disk.size), idOf);
        const runs = decode(region);
        assert.strictEqual(region.start, 0);
        assert.deepStrictEqual(model.render(runs), model.render(list));
        assert.deepStrictEqual(
          runs.filter(run => run.kind === 'bad').map(run => run.why),
          joinedBad(list),
        );
      },
    ),
  ),
);

function joinedBad(list: readonly Extent[]): string[] {
  const out: Extent[] = [];
  for (const run of list) {
    const last = out.at(-1);
    const both = last && join(last, run);
    if (both) out[out.length - 1] = both;
    else out.push(run);
  }
  return out.flatMap(run => (run.kind === 'bad' ? [run.why] : []));
}

const clusters = (size: number, kind: (i: number) => Extent['kind']): BlockSource => ({
  size,
  sectorSize: 512,
  *extents(offset, length) {
    for (let at = offset; at < offset + length; ) {
      const i = Math.floor(at / 65_536);
      const take = Math.min((i + 1) * 65_536, offset + length) - at;
      if (kind(i) === 'data') yield { kind: 'data', length: take, file: model.plain, offset: at };
      else yield { kind: 'zero', length: take };
      at += take;
    }
  },
  close() {},
});

t.test('a region begins at a multiple of its window and covers it', async t => {
  const disk = clusters(5 * REGION + 1000, i => (i % 2 ? 'data' : 'zero'));
  for (const offset of [0, 1, REGION - 1, REGION, 3 * REGION + 12_345, 5 * REGION + 999]) {
    const region = compileRegion(disk, offset, idOf);
    const length = decode(region).reduce((sum, run) => sum + run.length, 0);
    t.equal(region.start, Math.floor(offset / REGION) * REGION);
    t.ok(region.start + length > offset);
    t.ok(length >= Math.min(REGION, disk.size - region.start));
  }
});

t.test('a hole of any size is one row', async t => {
  const region = compileRegion(zeros(2 ** 50, 512), 2 ** 49 + 5, idOf);
  t.equal(region.rows.length, ROW);
  t.equal(region.start + region.rows[1]!, 2 ** 50);
});

t.test('a long uniform part is walked for a bounded number of runs only', async t => {
  let runs = 0;
  const disk = clusters(2 ** 45, () => 'data');
  const counted: BlockSource = {
    ...disk,
    *extents(offset, length) {
      for (const run of disk.extents(offset, length)) {
        runs++;
        yield run;
      }
    },
  };
  const region = compileRegion(counted, 0, idOf);
  t.equal(region.rows.length, ROW);
  t.ok(region.rows[1]! >= REGION);
  t.ok(runs < 10_000, `${runs} runs`);
});
