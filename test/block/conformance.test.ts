/** The sources of src/block pass the suite; and the suite notices a source that is wrong. */
import t from 'tap';
import { concat } from '../../src/block/concat.js';
import type { Extent, LayerExtent } from '../../src/block/extent.js';
import type { BlockSource } from '../../src/block/source.js';
import { stack } from '../../src/block/stack.js';
import { window } from '../../src/block/window.js';
import { zeros } from '../../src/block/zero.js';
import { conformance } from './conformance.js';
import { listed, listedDisk, Model } from './model.js';

const model = new Model();
t.teardown(() => model.close());

/** A run of every kind and of every packed block, of odd lengths. */
const runs: Extent[] = [
  model.run('data', 12_345, 100, 0) as Extent,
  { kind: 'zero', length: 70_000 },
  ...model.blocks.map((_, i) => model.run('packed', i % 2 ? 6 : 5000 * (i + 1) + 1, i * 777, i) as Extent),
  model.run('data', 65_536, 4096, 0) as Extent,
];
const bytes = Buffer.from(model.render(runs));

t.test('a list of runs', t => conformance(t, 'list', () => listedDisk(runs), bytes));
t.test('sectors of 4096 bytes', t => conformance(t, 'list', () => listedDisk(runs, 4096), bytes));
t.test('a window', t =>
  conformance(t, 'window', () => window(listedDisk(runs), 513, 100_001), bytes.subarray(513, 513 + 100_001)),
);
t.test('a concatenation', t =>
  conformance(
    t,
    'concat',
    () => ({ ...concat([listed(runs), listed(runs)]), sectorSize: 512 as const }),
    Buffer.concat([bytes, bytes]),
  ),
);
t.test('a stack', t => {
  const top: LayerExtent[] = [
    { kind: 'absent', length: 5000 },
    { kind: 'data', length: 3000, file: model.plain, offset: 9 },
    { kind: 'absent', length: bytes.length },
  ];
  const expected = Buffer.concat([
    bytes.subarray(0, 5000),
    model.plainBytes.subarray(9, 3009),
    bytes.subarray(8000),
    Buffer.alloc(8000),
  ]);
  return conformance(t, 'stack', () => stack([listed(top), listed<LayerExtent>(runs)], 512), expected);
});
t.test('zeros', t => conformance(t, 'zeros', () => zeros(100_001, 512), Buffer.alloc(100_001)));
t.test('0 bytes', t => conformance(t, 'nothing', () => zeros(0, 512), Buffer.alloc(0)));
t.test('damage', t => {
  const broken: Extent[] = [
    ...runs,
    { kind: 'bad', length: 1000, why: 'broken' },
    { kind: 'zero', length: 5000 },
  ];
  const start = Math.floor(bytes.length / 512) * 512;
  const end = Math.ceil((bytes.length + 1000) / 512) * 512;
  return conformance(t, 'damaged', () => listedDisk(broken), Buffer.concat([bytes, Buffer.alloc(6000)]), [
    { start, end },
  ]);
});

t.test('the suite notices', async t => {
  const fails = async (name: string, source: BlockSource, expected: Buffer) => {
    const { Minimal } = await import('tap');
    const inner = new Minimal({ name });
    await conformance(inner as never, name, () => source, expected);
    inner.end();
    t.notOk(inner.passing(), name);
  };
  const changed = Buffer.from(bytes);
  changed[bytes.length - 1]! ^= 1;
  await fails('a wrong byte', listedDisk(runs), changed);
  const disk = listedDisk(runs);
  await fails('a run too few', { ...disk, extents: (o, l) => [...disk.extents(o, l)].slice(0, -1) }, bytes);
});
