/** The engine reads any list of runs as its bytes, or as an error for exactly the sectors that are bad. */
import assert from 'node:assert';
import t from 'tap';
import { Disk, type OnDamage } from '../../src/block/disk.js';
import type { Extent } from '../../src/block/extent.js';
import type { SectorSize } from '../../src/block/source.js';
import { Engine } from '../../src/native.js';
import { missing } from '../peers.js';
import { BAD, listedDisk, Model, RANGES, rangeIn, runLists } from './model.js';
import { fc, holds } from './property.js';

const model = new Model();
t.teardown(() => model.close());
t.test('zstd blocks are among them', { skip: missing(['qemu-img']) }, async t => {
  t.ok(model.blocks.some(block => block.codec === 'zstd'));
});

const ENGINES = {
  roomy: { cacheBytes: 2 ** 24, mapBytes: 2 ** 24, threads: 2 },
  // Every block and every region is forgotten at once, or nearly so.
  tiny: { cacheBytes: 80_000, mapBytes: 700, threads: 2 },
  'without memory or helpers': { cacheBytes: 0, mapBytes: 0, threads: 0 },
};

interface Expected {
  readonly bytes: Buffer;
  /** Of each sector, whether any byte of it is bad. */
  readonly bad: readonly boolean[];
}

function expected(runs: readonly Extent[], sectorSize: number): Expected {
  const rendered = model.render(runs);
  const bad = Array.from({ length: Math.ceil(rendered.length / sectorSize) }, (_, i) =>
    rendered.subarray(i * sectorSize, (i + 1) * sectorSize).includes(BAD),
  );
  const bytes = Buffer.from(rendered);
  bad.forEach((isBad, i) => {
    if (isBad) bytes.subarray(i * sectorSize, (i + 1) * sectorSize).fill(0);
  });
  return { bytes, bad };
}

for (const [name, options] of Object.entries(ENGINES)) {
  for (const sectorSize of [512, 4096] as const) {
    for (const onDamage of ['error', 'zero'] as const) {
      t.test(`${name}, sectors of ${sectorSize}, damage is ${onDamage}`, async t => {
        const engine = new Engine(options);
        t.teardown(() => engine.close());
        await holds(
          t,
          'reads, one by one and at once',
          fc.asyncProperty(
            runLists(model, ['zero', 'data', 'packed', 'bad']),
            fc.array(RANGES, { minLength: 1, maxLength: 6 }),
            (runs, ranges) => check(engine, runs, sectorSize, onDamage, ranges),
          ),
          40,
        );
        const stats = engine.stats();
        t.ok(stats.cacheBytes <= stats.cacheLimit, 'the cache keeps its limit');
        t.ok(stats.mapBytes <= stats.mapLimit, 'the map keeps its limit');
      });
    }
  }
}

async function check(
  engine: Engine,
  runs: readonly Extent[],
  sectorSize: SectorSize,
  onDamage: OnDamage,
  ranges: readonly (readonly [number, number])[],
): Promise<void> {
  const { bytes, bad } = expected(runs, sectorSize);
  const disk = new Disk(engine, listedDisk(runs, sectorSize), onDamage);
  try {
    const met = new Set<number>();
    const read = async (range: readonly [number, number]) => {
      const { offset, length } = rangeIn(disk.size, range);
      const sectors = bad.flatMap((isBad, i) =>
        isBad && i * sectorSize < offset + length && (i + 1) * sectorSize > offset ? [i] : [],
      );
      if (length > 0) for (const sector of sectors) met.add(sector);
      if (length > 0 && sectors.length > 0 && onDamage === 'error') {
        await assert.rejects(disk.read(offset, length), { code: 'DAMAGED' });
      } else {
        const got = await disk.read(offset, length);
        assert.ok(got.equals(bytes.subarray(offset, offset + length)), `${length} bytes at ${offset}`);
      }
    };
    for (const range of ranges) await read(range);
    await Promise.all([...ranges, ...ranges].map(read));
    // Exactly the bad sectors that were read, in order, none twice.
    let behind = 0;
    const listed = new Set<number>();
    for (const { offset, length } of disk.defects()) {
      assert.ok(offset >= behind && length > 0);
      behind = offset + length;
      for (let at = offset; at < behind; at += sectorSize) listed.add(at / sectorSize);
    }
    assert.deepStrictEqual(
      [...listed],
      [...met].sort((a, b) => a - b),
    );
  } finally {
    disk.close();
  }
}
