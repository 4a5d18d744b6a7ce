/** Memory is bounded, JavaScript is asked once, and many threads agree. */
import assert from 'node:assert';
import { setTimeout } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { Disk } from '../../src/block/disk.js';
import type { Extent } from '../../src/block/extent.js';
import { REGION } from '../../src/block/region.js';
import type { BlockSource } from '../../src/block/source.js';
import { Engine, type EngineOptions } from '../../src/native.js';
import { listedDisk, Model } from './model.js';

const model = new Model();
t.teardown(() => model.close());

function engineOf(t: Test, options: Partial<EngineOptions>): Engine {
  const engine = new Engine({ cacheBytes: 2 ** 24, mapBytes: 2 ** 24, threads: 2, ...options });
  t.teardown(() => engine.close());
  return engine;
}

/** Every packed block, and data between them, `times` over. */
function mixed(times: number): Extent[] {
  return Array.from({ length: times }, (_, turn) =>
    model.blocks.flatMap((_, i) => [
      model.run('packed', 6, 0, i) as Extent,
      model.run('data', 3001, turn * 1000 + i, 0) as Extent,
    ]),
  ).flat();
}

async function readAll(disk: Disk, expected: Buffer, reads: number, length: number): Promise<void> {
  const offsets = Array.from({ length: reads }, (_, i) => (i * 7_368_787) % (disk.size - length));
  await Promise.all(
    offsets.map(async offset => {
      const got = await disk.read(offset, length);
      assert.ok(got.equals(expected.subarray(offset, offset + length)), `${length} bytes at ${offset}`);
    }),
  );
}

t.test('each block is unpacked once, however many read it', async t => {
  const engine = engineOf(t, { threads: 4 });
  const runs = mixed(3);
  const disk = new Disk(engine, listedDisk(runs));
  const expected = Buffer.from(model.render(runs));
  await t.resolves(readAll(disk, expected, 300, 3000));
  t.equal(engine.stats().unpacked, model.blocks.length);
  t.ok(engine.stats().hits > 200);
  t.equal(engine.stats().resolved, 1);
  const second = new Disk(engine, listedDisk(runs));
  await t.resolves(readAll(second, expected, 50, 3000));
  t.equal(engine.stats().unpacked, model.blocks.length, 'two disks share them');
});

t.test('a cache of two blocks, a map of nothing, four threads', async t => {
  const engine = engineOf(t, { threads: 4, cacheBytes: 140_000, mapBytes: 1 });
  const runs = mixed(5);
  const expected = Buffer.from(model.render(runs));
  const disks = [0, 1, 2].map(() => new Disk(engine, listedDisk(runs)));
  await t.resolves(Promise.all(disks.map(disk => readAll(disk, expected, 150, 5000))));
  await t.resolves(Promise.all(disks.map(disk => readAll(disk, expected, 3, 800_000))), 'long reads');
  const stats = engine.stats();
  t.ok(stats.cacheBytes <= 140_000, `${stats.cacheBytes} bytes of blocks`);
  t.equal(stats.mapBytes, 0);
  t.ok(stats.resolved > 100, 'regions are forgotten and asked for again');
});

/** A data cluster of 64 KiB, then a hole of one, and so on. */
function striped(size: number): BlockSource {
  return {
    size,
    sectorSize: 512,
    *extents(offset, length) {
      for (let at = offset; at < offset + length; ) {
        const take = Math.min(65_536 - (at % 65_536), offset + length - at);
        if (Math.floor(at / 65_536) % 2) yield { kind: 'zero', length: take };
        else yield { kind: 'data', length: take, file: model.plain, offset: at % 65_536 };
        at += take;
      }
    },
    close() {},
  };
}

t.test('the map of a large disk keeps its limit, and stays right', async t => {
  const engine = engineOf(t, { mapBytes: 200_000 });
  const disk = new Disk(engine, striped(2 ** 40));
  t.teardown(() => disk.close());
  let most = 0;
  for (let i = 0; i < 60; i++) {
    const offset = ((i * 911) % (2 ** 40 / REGION)) * REGION + 65_536 * 2 * i + 65_000;
    const got = await disk.read(offset, 1000);
    assert.ok(got.equals(Buffer.concat([model.plainBytes.subarray(65_000, 65_536), Buffer.alloc(464)])));
    most = Math.max(most, engine.stats().mapBytes);
  }
  t.ok(most <= 200_000, `${most} bytes`);
  t.ok(most > 32_000, 'and something is kept');
});

t.test('what is used stays, what is not goes', async t => {
  const engine = engineOf(t, { mapBytes: 200_000 });
  const asked: number[] = [];
  const source = striped(2 ** 36);
  const disk = new Disk(engine, {
    ...source,
    extents(offset, length) {
      asked.push(Math.floor(offset / REGION));
      return source.extents(offset, length);
    },
  });
  t.teardown(() => disk.close());
  for (let i = 1; i < 100; i++) {
    await disk.read(0, 512);
    await disk.read(i * REGION, 512);
  }
  t.equal(asked.filter(window => window === 0).length, 1);
});

t.test('one question for all who miss the same region', async t => {
  const engine = engineOf(t, { threads: 4 });
  const disk = new Disk(engine, striped(2 ** 30));
  t.teardown(() => disk.close());
  const reads = Array.from({ length: 200 }, (_, i) => disk.read((i % 4) * REGION + i * 512, 512));
  await Promise.all(reads);
  t.equal(engine.stats().resolved, 4);
});

t.test('a sequential reader has blocks unpacked before it comes to them', async t => {
  const engine = engineOf(t, { threads: 2 });
  // Enough data before the last blocks for the reader to have proved itself.
  const runs: Extent[] = [
    ...Array.from({ length: 16 }, (_, i) => model.run('data', 65_536, i * 100, 0) as Extent),
    ...model.blocks.map((_, i) => model.run('packed', 6, 0, i) as Extent),
  ];
  const expected = Buffer.from(model.render(runs));
  const disk = new Disk(engine, listedDisk(runs));
  t.teardown(() => disk.close());
  const read = async (offset: number, length: number) => {
    const got = await disk.read(offset, length);
    assert.ok(got.equals(expected.subarray(offset, offset + length)), `${length} bytes at ${offset}`);
  };
  let offset = 0;
  for (; offset + 65_536 <= 16 * 65_536; offset += 65_536) await read(offset, 65_536);
  while (engine.stats().unpacked < model.blocks.length) await setTimeout(5);
  t.equal(engine.stats().hits, 0, 'nobody has read a block');
  for (; offset < disk.size; offset += 10_000) await read(offset, Math.min(10_000, disk.size - offset));
  t.equal(engine.stats().unpacked, model.blocks.length, 'none is unpacked twice');
});

t.test('an answer that waits for the event loop holds up nobody else', async t => {
  const engine = engineOf(t, { threads: 2 });
  const known = new Disk(engine, striped(2 ** 20));
  await known.read(0, 512);
  const unknown = new Disk(engine, striped(2 ** 20));
  const late = unknown.read(0, 512);
  t.ok((await known.read(0, 512)).equals(model.plainBytes.subarray(0, 512)));
  t.ok((await late).equals(model.plainBytes.subarray(0, 512)));
  known.close();
  unknown.close();
});
