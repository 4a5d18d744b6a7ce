import t from 'tap';
import { Disk } from '../../src/block/disk.js';
import type { Extent } from '../../src/block/extent.js';
import { zeros } from '../../src/block/zero.js';
import { Engine } from '../../src/native.js';
import { listedDisk, Model } from './model.js';

const model = new Model();
const engine = new Engine({ cacheBytes: 2 ** 20, mapBytes: 2 ** 20, threads: 1 });
t.teardown(() => {
  engine.close();
  model.close();
});

const runs: Extent[] = [
  { kind: 'zero', length: 2 ** 20 },
  { kind: 'data', length: 5000, file: model.plain, offset: 0 },
  { kind: 'bad', length: 1000, why: 'a broken table' },
  { kind: 'zero', length: 77 },
];

t.test('damage is told with its place, its reason and what to do', async t => {
  const disk = new Disk(engine, listedDisk(runs));
  t.teardown(() => disk.close());
  await t.rejects(disk.read(0, disk.size), {
    name: 'AsofError',
    code: 'DAMAGED',
    message: /1469 bytes at offset 1053184 cannot be vouched for: a broken table/,
    hint: /asof check/,
    exitCode: 3,
  });
  t.same(disk.defects(), [{ offset: 1_053_184, length: 1469, why: 'a broken table' }]);
  await t.rejects(disk.read(disk.size, 1), { code: 'OUT_OF_RANGE' });
});

t.test('the allocation is what is no zero run', async t => {
  const disk = new Disk(engine, listedDisk(runs));
  t.teardown(() => disk.close());
  t.equal(await disk.countAllocated(), 6000);
  const empty = new Disk(engine, zeros(2 ** 50, 512));
  t.teardown(() => empty.close());
  t.equal(await empty.countAllocated(), 0);
});

t.test('a count gives way to reads, and ends with the disk', async t => {
  // More runs than anybody waits for.
  let walked = 0;
  const disk = new Disk(engine, {
    size: 2 ** 50,
    sectorSize: 512,
    *extents(offset, length) {
      for (let at = offset; at < offset + length; at += 65_536) {
        walked++;
        const run = { length: Math.min(65_536, offset + length - at) };
        if ((at / 65_536) % 2) yield { kind: 'zero', ...run };
        else yield { kind: 'data', file: model.plain, offset: 0, ...run };
      }
    },
    close() {},
  });
  const count = disk.countAllocated();
  t.ok((await disk.read(2 ** 49, 100)).equals(model.plainBytes.subarray(0, 100)));
  disk.close();
  t.equal(await count, undefined);
  t.ok(walked < 2 ** 33, `${walked} runs`);
});
