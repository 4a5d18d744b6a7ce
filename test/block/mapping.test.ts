import assert from 'node:assert';
import t from 'tap';
import { concat } from '../../src/block/concat.js';
import type { LayerExtent } from '../../src/block/extent.js';
import { checkRange, type Mapping } from '../../src/block/source.js';
import { stack } from '../../src/block/stack.js';
import { window } from '../../src/block/window.js';
import { zeros } from '../../src/block/zero.js';
import { ABSENT, type Bytes, listed, listedDisk, Model, RANGES, rangeIn, runLists } from './model.js';
import { fc, holds } from './property.js';

const model = new Model();
t.teardown(() => model.close());
const layers = runLists(model, ['zero', 'data', 'packed', 'bad', 'absent']);
const disks = runLists(model, ['zero', 'data', 'packed', 'bad']);

/** Every range of `mapping` reads as that range of `bytes`, in runs that cover it exactly. */
function reads(mapping: Mapping<LayerExtent>, bytes: Bytes, range: readonly [number, number]): void {
  assert.strictEqual(mapping.size, bytes.length);
  for (const { offset, length } of [rangeIn(bytes.length, range), { offset: 0, length: bytes.length }]) {
    const runs = [...mapping.extents(offset, length)];
    assert.ok(runs.every(run => run.length > 0));
    assert.deepStrictEqual(model.render(runs), bytes.subarray(offset, offset + length));
  }
  for (const [offset, length] of [
    [0, bytes.length + 1],
    [bytes.length, 1],
    [bytes.length + 1, 0],
    [-1, 1],
    [0, -1],
    [0.5, 1],
    [0, Number.NaN],
  ] as const) {
    assert.throws(() => [...mapping.extents(offset, length)], { code: 'OUT_OF_RANGE' });
  }
}

t.test('a window reads as that part of the disk', t =>
  holds(
    t,
    'window',
    fc.property(disks, RANGES, RANGES, (runs, place, range) => {
      const { offset, length } = rangeIn(listed(runs).size, place);
      const bytes = model.render(runs).subarray(offset, offset + length);
      reads(window(listedDisk(runs), offset, length), bytes, range);
    }),
  ),
);

t.test('a concatenation reads as its parts one behind the other', t =>
  holds(
    t,
    'concat',
    fc.property(fc.array(fc.option(layers), { maxLength: 5 }), RANGES, (parts, range) => {
      // Where there is no list, a part of 0 bytes.
      const all = parts.map(part => part ?? []);
      reads(concat<LayerExtent>(all.map(part => listed(part))), model.render(all.flat()), range);
    }),
  ),
);

t.test(
  'a stack reads the uppermost layer that says something, and zeros behind the end of a shorter one',
  t =>
    holds(
      t,
      'stack',
      fc.property(fc.array(layers, { minLength: 1, maxLength: 6 }), RANGES, (lists, range) => {
        const bytes = model.render(lists[0]!).slice();
        const rendered = lists.map(list => model.render(list));
        for (let at = 0; at < bytes.length; at++) {
          let answer = 0;
          for (const layer of rendered) {
            if (at >= layer.length) break;
            if (layer[at] === ABSENT) continue;
            answer = layer[at]!;
            break;
          }
          bytes[at] = answer;
        }
        const disk = stack(
          lists.map(list => listed<LayerExtent>(list)),
          512,
        );
        reads(disk, bytes, range);
        assert.ok([...disk.extents(0, disk.size)].every(run => (run.kind as string) !== 'absent'));
      }),
    ),
);

t.test('a stack of a thousand layers', async t => {
  const size = 64 * 512;
  const lists = Array.from({ length: 1000 }, (_, i): LayerExtent[] => {
    const at = (i * 512) % size;
    const before = at > 0 ? [{ kind: 'absent' as const, length: at }] : [];
    const after = size - at - 512 > 0 ? [{ kind: 'absent' as const, length: size - at - 512 }] : [];
    return [...before, { kind: 'data', length: 512, file: model.plain, offset: i * 17 }, ...after];
  });
  const disk = stack(
    lists.map(list => listed(list)),
    512,
  );
  const expected = Array.from({ length: 64 }, (_, i) => model.plainBytes.subarray(i * 17, i * 17 + 512));
  t.same(Buffer.from(model.render(disk.extents(0, size))), Buffer.concat(expected));
});

t.test('a disk of zeros', async t => {
  reads(zeros(1_000_000, 512), new Uint16Array(1_000_000), [0.3, 0.9]);
  reads(zeros(0, 4096), new Uint16Array(0), [0, 0]);
  t.same(
    [...zeros(2 ** 53 - 1, 512).extents(0, 2 ** 53 - 1)],
    [{ kind: 'zero', length: 2 ** 53 - 1, by: undefined }],
  );
});

t.test('each closes what it stands on', async t => {
  let closed = 0;
  const disk = () => listedDisk([{ kind: 'zero', length: 512 }], 512, () => closed++);
  window(disk(), 0, 512).close();
  t.equal(closed, 1);
  concat([disk(), disk()]).close();
  t.equal(closed, 3);
  stack([disk(), disk(), disk()], 512).close();
  t.equal(closed, 6);
});

t.test('what cannot be', async t => {
  t.throws(() => window(listedDisk([{ kind: 'zero', length: 512 }]), 1, 512), { code: 'OUT_OF_RANGE' });
  t.throws(() => stack([], 512), RangeError);
  t.throws(() => checkRange(2 ** 53 - 1, 2 ** 53 - 1, 1), { code: 'OUT_OF_RANGE' });
  t.doesNotThrow(() => checkRange(2 ** 53 - 1, 2 ** 53 - 2, 1));
});
