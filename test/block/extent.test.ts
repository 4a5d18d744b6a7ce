import assert from 'node:assert';
import t from 'tap';
import { type DataExtent, type Extent, join, joined, slice } from '../../src/block/extent.js';
import { Model, RANGES, rangeIn, runLists } from './model.js';
import { fc, holds } from './property.js';

const model = new Model();
t.teardown(() => model.close());
const lists = runLists(model, ['zero', 'data', 'packed', 'bad', 'absent']);

t.test('a slice reads as that part of the run', t =>
  holds(
    t,
    'slice',
    fc.property(lists, RANGES, ([run], range) => {
      const { offset, length } = rangeIn(run!.length, range);
      if (length === 0) return;
      const part = slice(run!, offset, length);
      assert.strictEqual(part.length, length);
      assert.deepStrictEqual(model.render([part]), model.render([run!]).subarray(offset, offset + length));
    }),
  ),
);

t.test('a run that is cut in two joins to the run', t =>
  holds(
    t,
    'join after slice',
    fc.property(lists, RANGES, ([run], range) => {
      const { offset } = rangeIn(run!.length, range);
      if (offset === 0) return;
      assert.deepStrictEqual(join(slice(run!, 0, offset), slice(run!, offset, run!.length - offset)), run);
    }),
  ),
);

t.test('two runs that join read as both', t =>
  holds(
    t,
    'join',
    fc.property(lists, list => {
      for (let i = 1; i < list.length; i++) {
        const both = join(list[i - 1]!, list[i]!);
        if (both) assert.deepStrictEqual(model.render([both]), model.render([list[i - 1]!, list[i]!]));
      }
    }),
  ),
);

t.test('joined runs read the same, and no two of them make one', t =>
  holds(
    t,
    'joined',
    fc.property(lists, fc.array(RANGES, { maxLength: 5 }), (list, cuts) => {
      let pieces = list;
      for (const cut of cuts) {
        const at = Math.floor(cut[0] * (pieces.length - 1));
        const run = pieces[at]!;
        const { offset } = rangeIn(run.length, cut);
        if (offset > 0)
          pieces = pieces.toSpliced(at, 1, slice(run, 0, offset), slice(run, offset, run.length - offset));
      }
      const whole = [...joined(pieces)];
      assert.deepStrictEqual(model.render(whole), model.render(list));
      for (let i = 1; i < whole.length; i++) assert.strictEqual(join(whole[i - 1]!, whole[i]!), undefined);
    }),
  ),
);

t.test('runs of two files, two blocks or two reasons do not join', async t => {
  const zero: Extent = { kind: 'zero', length: 512 };
  t.equal(join(zero, { ...zero, by: model.plain }), undefined);
  const data: DataExtent = { kind: 'data', length: 512, file: model.plain, offset: 0 };
  t.equal(join(data, { ...data, offset: 1024 }), undefined);
  t.equal(join(data, { ...data, offset: 512, file: model.packed }), undefined);
  t.equal(join<Extent>(zero, data), undefined);
  t.equal(join({ kind: 'bad', length: 1, why: 'a' }, { kind: 'bad', length: 1, why: 'b' }), undefined);
  t.same([...joined([])], []);
});
